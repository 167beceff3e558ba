"""Evidence: read from its bytes, and never accepted once a byte has changed."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evidence_scene import (
    OBJECTS,
    Scene,
    outcomes,
)
from teeio.attestation import (
    Decision,
    Outcome,
    Policy,
    Profile,
    parse_measurements,
    parse_vca,
)
from teeio.crypto.algorithms import (
    BaseAsym,
    PqcAsym,
)
from teeio.errors import DecodeError, Incompatible
from teeio.spdm.messages import (
    Facts,
    GetMeasurements,
    Measurements,
)

STATED = "evidence-digests"


@pytest.mark.parametrize("name", OBJECTS)
@settings(max_examples=12, deadline=None)
@given(data=st.data())
def test_no_changed_byte_is_accepted(name: str, data: st.DataObject) -> None:
    _change_a_byte(name, data)


@pytest.mark.slow
@pytest.mark.parametrize("name", OBJECTS)
@settings(max_examples=400, deadline=None)
@given(data=st.data())
def test_of_many_changed_bytes_none_is_accepted(name: str, data: st.DataObject) -> None:
    _change_a_byte(name, data)


def _change_a_byte(name: str, data: st.DataObject) -> None:
    good = Scene()
    original = getattr(good.build()[0], name)
    at = data.draw(st.integers(0, len(original) - 1))
    changed = original[:at] + bytes([original[at] ^ data.draw(st.integers(1, 255))]) + original[at + 1 :]
    good.evidence[name] = changed
    assert good.verdict().decision is Decision.REJECT
    if name != "report":
        # The signature alone protects the rest: without the TSM's digests a change is still never accepted.
        waiver = Policy.with_waivers(Profile.TDX, {STATED})
        bare = Scene(statement={f"{other}_digest": b"" for other in OBJECTS}, evidence={name: changed})
        assert not bare.verdict(waiver).accepted


@settings(max_examples=30, deadline=None)
@given(st.binary(max_size=120), st.binary(max_size=300), st.binary(max_size=300), st.binary(max_size=80))
def test_garbage_is_judged_without_an_exception(chain: bytes, vca: bytes, measurements: bytes, report: bytes) -> None:
    garbage = {"certificate_chain": chain, "vca": vca, "measurements": measurements, "report": report}
    assert Scene(evidence=garbage).verdict().decision is Decision.REJECT
    assert not Scene(evidence={"measurements": measurements}).verdict().accepted


def test_algorithms_without_an_implementation_could_not_be_checked() -> None:
    scene = Scene(version=0x14, versions=(0x1400,))
    scene.selection.update(base_asym=BaseAsym(0), pqc_asym=PqcAsym.ML_DSA_65)
    with pytest.raises(Incompatible):
        parse_vca(scene.vca())
    verdict = scene.verdict()
    assert {"chain", "signature", "reference-values"} <= outcomes(verdict, Outcome.UNCHECKED)
    assert verdict.decision is Decision.COULD_NOT_CHECK


def test_measurements_asked_for_one_by_one_are_read_together() -> None:
    scene = Scene()
    vca = scene.vca()
    facts = Facts(version=scene.version, hash_size=48, signature_size=96, signed=False)
    first = Measurements(block_count=1, record=scene.blocks[0].encode(), nonce=bytes(32)).encode(facts)
    before = GetMeasurements(operation=1).encode(facts) + first
    record = parse_measurements(before + scene.measurements(vca), vca, parse_vca(vca))
    assert [block.index for block in record.blocks] == [1, *(block.index for block in scene.blocks)]
    assert record.transcript.startswith(vca + before)
    with pytest.raises(DecodeError, match="end before"):
        parse_measurements(before, vca, parse_vca(vca))


@pytest.mark.parametrize("spoil", [lambda vca: vca + b"x", lambda vca: vca[:-1], lambda vca: vca[:16], lambda vca: b""])
def test_negotiation_must_be_six_messages_and_nothing_else(spoil: Callable[[bytes], bytes]) -> None:
    with pytest.raises(DecodeError):
        parse_vca(spoil(Scene().vca()))


def test_a_version_that_is_not_known_is_refused() -> None:
    vca = Scene().vca()
    with pytest.raises(DecodeError, match="no version known here"):
        parse_vca(vca[:16] + b"\x2f" + vca[17:])
