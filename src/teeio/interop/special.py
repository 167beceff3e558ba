"""The special cases: what the main grid does not vary, a row each; and what the reference peers do not complete themselves."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import product
from typing import Any

from teeio.crypto.algorithms import BaseAsym, BaseHash, Dhe, Kem, MeasurementHash, PqcAsym
from teeio.crypto.key_exchange import KEM_IMPLEMENTED
from teeio.crypto.keys import PQC_SCHEMES
from teeio.interop.cells import CONNECTION, IN_SESSION, NONE, SESSION, Cell, Feature, Flags, Grid, KeyUpdates, Step
from teeio.spdm.constants import Capability, MutualAuth, SummaryType, Version
from teeio.transport.kinds import Transport

MCTP = (Transport.MCTP,)
EVERY = (Transport.MCTP, Transport.PCI_DOE, Transport.TCP)
FROM_1_1 = (Version.V1_1, Version.V1_2, Version.V1_3, Version.V1_4)
FROM_1_2 = (Version.V1_2, Version.V1_3, Version.V1_4)
FROM_1_3 = (Version.V1_3, Version.V1_4)

_SIGNS_NOTHING = (
    Capability.CERT | Capability.CHAL | Capability.KEY_EX | Capability.MUT_AUTH | Capability.HANDSHAKE_IN_THE_CLEAR
)
_ABOUT_KEYS = (
    Capability.MULTI_KEY_NEG
    | Capability.GET_KEY_PAIR_INFO
    | Capability.SET_KEY_PAIR_INFO
    | Capability.SET_CERT
    | Capability.CSR
    | Capability.EP_INFO_SIG
)


@dataclass(frozen=True, slots=True)
class Case:
    """A special case: how its cells differ from the usual ones, and the versions and transports that it is run with."""

    title: str
    changes: Mapping[str, Any] = field(default_factory=dict)
    versions: tuple[Version, ...] = FROM_1_1
    transports: tuple[Transport, ...] = MCTP

    def cells(self) -> Iterator[Cell]:
        """Give the case's cells."""
        for version, transport in product(self.versions, self.transports):
            yield Cell(grid=Grid.SPECIAL, case=self.title, version=version, transport=transport, **self.changes)


def _both(added: Capability = NONE, removed: Capability = NONE) -> dict[str, Flags]:
    return {"requester": Flags(added, removed), "responder": Flags(added, removed)}


_MUTUAL = {
    "connection": CONNECTION[:3],
    "session": (Step.KEY_EXCHANGE, Step.HEARTBEAT, Step.KEY_UPDATE),
    "slot_count": 1,
}
"""What runs with mutual authentication do."""


def _title(mode: MutualAuth) -> str:
    kind = "basic" if mode is MutualAuth.NONE else mode.name.lower().replace("_", " ")
    return f"{kind} mutual authentication"


CASES: tuple[Case, ...] = (
    *(
        Case(
            f"encrypted handshake, {_title(mode)}",
            {
                **_MUTUAL,
                "clear": False,
                "mode": mode,
                "basic": mode is MutualAuth.NONE,
                "req_asym": BaseAsym.ECDSA_P384,
            },
            transports=EVERY,
        )
        for mode in MutualAuth
    ),
    Case(
        "MAC-only sessions",
        _both(removed=Capability.ENCRYPT),
        transports=(Transport.MCTP, Transport.PCI_DOE),
    ),
    Case(
        "PSK without context",
        {"responder": Flags(Capability.PSK, Capability.PSK_WITH_CONTEXT)},
    ),
    Case(
        "PSK only",
        {
            "requester": Flags(removed=_SIGNS_NOTHING | _ABOUT_KEYS),
            "responder": Flags(Capability.MEAS_NO_SIG, _SIGNS_NOTHING | _ABOUT_KEYS | Capability.MEAS_SIG),
            "connection": (Step.MEASUREMENTS,),
            "session": (Step.PSK_EXCHANGE, *IN_SESSION),
            "clear": False,
            "peer_skips": (Step.MEASUREMENTS,),
        },
    ),
    Case("key update of the requester", {"key_updates": KeyUpdates.REQUESTER}),
    Case("key update of both", {"key_updates": KeyUpdates.BOTH}),
    Case(
        "key update asked for by the responder",
        {"key_updates": KeyUpdates.RESPONDER, **_both(Capability.ENCAP)},
    ),
    Case("measurements raw", {"raw": True}),
    *(Case(f"measurement summary {kind.name}", {"summary": kind}) for kind in SummaryType),
    Case("measurements not signed", {"responder": Flags(Capability.MEAS_NO_SIG, Capability.MEAS_SIG)}),
    *(
        Case(f"measurement hash {kind.name}", {"measurement_hash": kind})
        for kind in (MeasurementHash.SHA_256, MeasurementHash.SHA_512)
    ),
    *(
        Case(f"secured messages {version >> 12}.{version >> 8 & 0xF}", {"secured_version": version})
        for version in (0x1000, 0x1100, 0x1200)
    ),
    *(
        Case(f"hash {kind.name}", {"base_hash": kind, "needs": Feature.SHA3})
        for kind in (BaseHash.SHA3_256, BaseHash.SHA3_384, BaseHash.SHA3_512)
    ),
    *(
        Case(f"{kind.name}", {"asym": kind, "base_hash": BaseHash.SHA_512})
        for kind in (BaseAsym.RSASSA_4096, BaseAsym.RSAPSS_4096)
    ),
    Case("FFDHE_4096", {"group": Dhe.FFDHE_4096}),
    Case("no chunks", _both(removed=Capability.CHUNK | Capability.LARGE_RESP)),
    Case("one slot", {"slot_count": 1}),
    Case("sessions not ended", {"session": (*SESSION, Step.NO_END)}),
    Case("no sessions, one connection", {"session": ()}, versions=tuple(Version)),
    Case("events negotiated", _both(Capability.EVENT | Capability.ENCAP), versions=FROM_1_3),
    Case(
        "several keys, always",
        {"responder": Flags(Capability.MULTI_KEY_ONLY | Capability.GET_KEY_PAIR_INFO, Capability.MULTI_KEY_NEG)},
        versions=FROM_1_3,
    ),
    Case(
        "several keys, never",
        {"requester": Flags(removed=Capability.MULTI_KEY_NEG), "responder": Flags(removed=Capability.MULTI_KEY_NEG)},
        versions=FROM_1_3,
    ),
    Case(
        "measurement log, endpoint information signed, key pairs",
        {
            "responder": Flags(
                Capability.MEL | Capability.EP_INFO_SIG | Capability.GET_KEY_PAIR_INFO | Capability.ENCAP
            ),
            "connection": (*CONNECTION, Step.MEASUREMENT_LOG, Step.ENDPOINT_INFO, Step.KEY_PAIR_INFO),
        },
        versions=FROM_1_3,
    ),
    Case(
        "endpoint information not signed",
        {
            "responder": Flags(Capability.EP_INFO_NO_SIG, Capability.EP_INFO_SIG),
            "connection": (*CONNECTION, Step.ENDPOINT_INFO),
            "peer_skips": (Step.ENDPOINT_INFO,),
        },
        versions=FROM_1_3,
    ),
    Case(
        "public keys in place of certificates",
        {
            "public_keys": True,
            **_both(Capability.PUB_KEY_ID, Capability.CERT | Capability.LARGE_RESP | _ABOUT_KEYS),
            "connection": (Step.CHALLENGE, Step.MEASUREMENTS),
        },
    ),
    Case("no transport binding", versions=tuple(Version), transports=(Transport.NONE,)),
    Case("the requester offers every version", {"any_version": "requester"}, versions=tuple(Version)),
    Case("the responder offers every version", {"any_version": "responder"}, versions=tuple(Version)),
    Case("Ed25519", {"asym": BaseAsym.ED25519, "needs": Feature.ED25519}, versions=FROM_1_2),
    Case("Ed448", {"asym": BaseAsym.ED448, "needs": Feature.ED448}, versions=FROM_1_2),
    *(
        Case(
            f"{asym.name} with {kem.name}",
            {"asym": asym, "group": kem, "needs": Feature.ML_DSA},
            versions=(Version.V1_4,),
            transports=EVERY,
        )
        for asym, kem in product(PQC_SCHEMES, KEM_IMPLEMENTED)
    ),
    *(
        Case(
            f"{asym.name} with {group.name}",
            {"asym": asym, "group": group, "needs": Feature.ML_DSA},
            versions=(Version.V1_4,),
        )
        for asym, group in (
            (BaseAsym.ECDSA_P384, Kem.ML_KEM_1024),
            (BaseAsym.RSAPSS_3072, Kem.ML_KEM_768),
            (PqcAsym.ML_DSA_44, Dhe.FFDHE_3072),
            (PqcAsym.ML_DSA_87, Dhe.SECP384R1),
        )
    ),
    *(
        Case(
            f"{asym.name} and the requester's {req_asym.name}, {_title(mode)}",
            {
                **_MUTUAL,
                "asym": asym,
                "group": group,
                "clear": mode is MutualAuth.ENCAPSULATED,
                "mode": mode,
                "req_asym": req_asym,
                "basic": True,
                "needs": need,
            },
            versions=(Version.V1_4,),
            transports=(Transport.MCTP, Transport.PCI_DOE),
        )
        for asym, req_asym, group, need in (
            *((asym, asym, Kem.ML_KEM_768, Feature.ML_DSA) for asym in PQC_SCHEMES),
            (BaseAsym.ECDSA_P384, PqcAsym.ML_DSA_65, Kem.ML_KEM_1024, Feature.ML_DSA),
            (PqcAsym.ML_DSA_65, BaseAsym.ECDSA_P384, Dhe.SECP384R1, Feature.ML_DSA),
            (BaseAsym.ED25519, BaseAsym.ED25519, Dhe.SECP256R1, Feature.ED25519),
            (BaseAsym.ED448, BaseAsym.ED448, Dhe.SECP521R1, Feature.ED448),
        )
        for mode in (MutualAuth.ENCAPSULATED, MutualAuth.IMPLICIT_DIGESTS)
    ),
)
"""Every special case once."""


def special() -> Iterator[Cell]:
    """Give all cells of the special cases."""
    for case in CASES:
        yield from case.cells()


@dataclass(frozen=True, slots=True)
class Unsupported:
    """A combination that is not run, and why."""

    combination: str
    reason: str


PEERS_FAIL = (
    Unsupported("slot 1 by --slot_id 1, SPDM 1.3 and 1.4", "the session ends with VERIF_FAIL between the peers"),
    Unsupported("SHA3 with GET_CSR (default flow), SPDM 1.2 to 1.4", "mbedtls makes no certificate requests with SHA3"),
    Unsupported("measurement hash RAW_BIT", "the sample responder refuses"),
    Unsupported("ALIAS_CERT", "the sample alias chain fails with VERIF_FAIL"),
    Unsupported("CERT_INSTALL_RESET", "GET_CSR answers ResetRequired by design, and the requester gives up"),
    Unsupported("no opaque data format, SPDM 1.2 and later", "KEY_EXCHANGE is refused"),
    Unsupported("PUB_KEY_ID with slot 0xFF given by hand and WO_ENCAP", "the requester rejects it"),
    Unsupported("a requester with ML-DSA and WO_ENCAP", "the responder refuses FINISH with DecryptError"),
    Unsupported("SLH-DSA", "CHALLENGE fails with VERIF_FAIL"),
    Unsupported("SM2, SM3, SM4", "not in any build"),
)
"""What the emulator's two sides do not complete with each other."""

LEFT_OUT = (
    Unsupported(
        "GET_CSR, SET_CERTIFICATE, writing of key pairs, mutual authentication by public keys", "in tests of their own"
    ),
    Unsupported("PSK_EXCHANGE right after VERSION (--exe_conn VER_ONLY)", "both sides need state given by hand"),
)
"""What the grid leaves out."""
