"""Which algorithms a side may offer: those that are provided (`crypto.availability`), in the versions that define them.

DSP0274, NEGOTIATE_ALGORITHMS: the table of BaseAsymAlgo says since when; PqcAsymAlgo and KEM are of 1.4.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from enum import IntFlag

from teeio.crypto.algorithms import Aead, BaseAsym, Dhe, Kem, PqcAsym
from teeio.crypto.availability import refusals
from teeio.errors import Misuse
from teeio.spdm.constants import Version
from teeio.spdm.messages import AlgType, NegotiateAlgorithms
from teeio.spdm.state import Settings

SINCE_1_2 = BaseAsym.SM2 | BaseAsym.ED25519 | BaseAsym.ED448
"""Signature algorithms that 1.0 and 1.1 do not define."""

_TABLES: dict[int, type[IntFlag]] = {
    AlgType.DHE: Dhe,
    AlgType.AEAD: Aead,
    AlgType.REQ_BASE_ASYM: BaseAsym,
    AlgType.REQ_PQC_ASYM: PqcAsym,
    AlgType.KEM: Kem,
}
"""What the bits of an algorithm structure table mean."""


def check_provided(settings: Settings) -> None:
    """Check that every algorithm in `settings` is provided. Raises `Misuse` naming those that are not, and why."""
    kinds: tuple[tuple[IntFlag, ...], ...] = (
        settings.base_asym,
        settings.pqc_asym,
        settings.req_base_asym,
        settings.req_pqc_asym,
        settings.base_hash,
        settings.measurement_hash,
        settings.dhe,
        settings.kem,
        settings.aead,
    )
    refused = list(dict.fromkeys(refusal for kind in kinds for refusal in refusals(kind)))
    if refused:
        raise Misuse(f"not provided: {'; '.join(refused)}", remedy="offer other algorithms")


def defined_in(settings: Settings, version: int) -> Settings:
    """Give `settings` without the traditional algorithms that `version` does not define."""
    if version >= Version.V1_2:
        return settings
    return replace(
        settings,
        base_asym=tuple(algorithm for algorithm in settings.base_asym if not algorithm & SINCE_1_2),
        req_base_asym=tuple(algorithm for algorithm in settings.req_base_asym if not algorithm & SINCE_1_2),
    )


def not_provided(offer: NegotiateAlgorithms) -> str:
    """Name what a peer offers and is not provided here, and why, to be put behind a refusal; "" if there is nothing."""
    refused = list(dict.fromkeys(refusals(_offered(offer))))
    return f"; offered, but not provided here: {'; '.join(refused)}" if refused else ""


def _offered(offer: NegotiateAlgorithms) -> Iterator[IntFlag]:
    yield from (offer.base_asym, offer.pqc_asym, offer.base_hash)
    for table in offer.tables:
        kind = _TABLES.get(int(table.alg_type))
        if kind is not None:
            yield kind(table.supported)
