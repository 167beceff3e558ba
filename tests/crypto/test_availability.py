"""Every algorithm that DSP0274 defines is either provided, or named with the reason why it is not."""

from enum import IntFlag

import pytest

from teeio.crypto.algorithms import Aead, BaseAsym, BaseHash, Dhe, Kem, MeasurementHash, PqcAsym
from teeio.crypto.availability import NOT_PROVIDED, PROVIDED, refusals, why_not

KINDS: tuple[type[IntFlag], ...] = (BaseAsym, PqcAsym, BaseHash, MeasurementHash, Dhe, Kem, Aead)
ALL = [algorithm for kind in KINDS for algorithm in kind]


def name(algorithm: IntFlag) -> str:
    return f"{type(algorithm).__name__}.{algorithm.name}"


@pytest.mark.parametrize("algorithm", ALL, ids=name)
def test_an_algorithm_is_provided_or_there_is_one_reason_why_not(algorithm: IntFlag) -> None:
    rows = [r for r in NOT_PROVIDED if type(r.algorithms) is type(algorithm) and r.algorithms & algorithm]
    provided = bool(PROVIDED[type(algorithm)] & algorithm)
    assert len(rows) == (0 if provided else 1)
    assert why_not(algorithm) == ("" if provided else rows[0].reason)


def test_the_bits_are_all_that_dsp0274_defines() -> None:
    widths = {kind: max(kind).bit_length() for kind in KINDS}
    assert list(widths.values()) == [12, 15, 7, 8, 7, 3, 4]
    assert len(ALL) == sum(widths.values())


def test_refusals_name_single_algorithms() -> None:
    told = list(refusals([BaseAsym.SM2 | BaseAsym.ECDSA_P256, PqcAsym(0b11000), Kem.ML_KEM_1024]))
    assert [text.partition(":")[0] for text in told] == ["SM2", "SLH_DSA_SHA2_128S", "SLH_DSA_SHAKE_128S"]
    assert all("library" in text for text in told)


@pytest.mark.parametrize("algorithm", list(PqcAsym), ids=lambda one: one.name)
def test_sizes_of_post_quantum_signatures(algorithm: PqcAsym) -> None:
    """FIPS 204 table 2, FIPS 205 table 2."""
    sizes = [2420, 3309, 4627, 7856, 7856, 17088, 17088, 16224, 16224, 35664, 35664, 29792, 29792, 49856, 49856]
    assert algorithm.signature_size == sizes[int(algorithm).bit_length() - 1]
