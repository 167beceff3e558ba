"""Which algorithms of DSP0274 are provided, and why the others are not.

An algorithm is provided if a well-kept library has it; nothing is home-made for the sake of a complete list. What is not provided
is still named in `algorithms`, so that captures, refusals and command lines can say what was meant. It is never offered nor selected.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import IntFlag

from teeio.crypto.aead import AEAD_IMPLEMENTED
from teeio.crypto.algorithms import Aead, BaseAsym, BaseHash, Dhe, Kem, MeasurementHash, PqcAsym
from teeio.crypto.key_exchange import DHE_IMPLEMENTED, KEM_IMPLEMENTED
from teeio.crypto.keys import BASE_SCHEMES, HASHES_IMPLEMENTED, PQC_SCHEMES


@dataclass(frozen=True, slots=True)
class NotProvided:
    """A row: `algorithms` of one kind, and why they are not provided."""

    algorithms: IntFlag
    reason: str


_SLH_DSA = PqcAsym(sum(algorithm for algorithm in PqcAsym if algorithm not in PQC_SCHEMES))
_ONLY_WITH_SM2 = "it serves SM2 identities, for which there is no well-kept library"

NOT_PROVIDED = (
    NotProvided(BaseAsym.SM2, "no well-kept library signs with SM2"),
    NotProvided(Dhe.SM2_P256, "no well-kept library has the SM2 key exchange"),
    NotProvided(BaseHash.SM3_256, _ONLY_WITH_SM2),
    NotProvided(MeasurementHash.SM3_256, _ONLY_WITH_SM2),
    NotProvided(Aead.SM4_GCM, _ONLY_WITH_SM2),
    NotProvided(_SLH_DSA, "no well-kept library offers SLH-DSA"),
    NotProvided(Kem.ML_KEM_512, "the well-kept library has ML-KEM-768 and ML-KEM-1024 only"),
)
"""What DSP0274 defines and teeio does not provide."""

PROVIDED: Mapping[type[IntFlag], IntFlag] = {
    BaseAsym: BaseAsym(sum(BASE_SCHEMES)),
    PqcAsym: PqcAsym(sum(PQC_SCHEMES)),
    BaseHash: BaseHash(sum(HASHES_IMPLEMENTED)),
    MeasurementHash: MeasurementHash.RAW_ONLY
    | MeasurementHash(sum(MeasurementHash[str(algorithm.name)] for algorithm in HASHES_IMPLEMENTED)),
    Dhe: DHE_IMPLEMENTED,
    Kem: KEM_IMPLEMENTED,
    Aead: AEAD_IMPLEMENTED,
}
"""What is provided, by kind."""


def why_not(algorithm: IntFlag) -> str:
    """Say why an algorithm is not provided, or "" if it is."""
    if algorithm & PROVIDED[type(algorithm)]:
        return ""
    # Flags of different kinds are equal as integers, so the kind is compared too.
    rows = (row for row in NOT_PROVIDED if type(row.algorithms) is type(algorithm) and row.algorithms & algorithm)
    return next((row.reason for row in rows), "DSP0274 does not define it")


def refusals(algorithms: Iterable[IntFlag]) -> Iterator[str]:
    """Give "NAME: reason" of every single algorithm in these flags that is not provided."""
    for flags in algorithms:
        for algorithm in flags:
            reason = why_not(algorithm)
            if reason:
                yield f"{algorithm.name}: {reason}"
