"""What no well-kept library has is neither offered nor selected, and who meets it is told why."""

from contextlib import suppress
from dataclasses import replace
from typing import Any

import pytest

from spdm_pair import Pair
from teeio.crypto.algorithms import Aead, BaseAsym, BaseHash, Dhe, Kem, MeasurementHash, PqcAsym
from teeio.errors import ErrorResponse, Incompatible, Misuse
from teeio.observe import Refused
from teeio.spdm import flows
from teeio.spdm import messages as m
from teeio.spdm.constants import Capability, ErrorCode, Version
from teeio.spdm.messages import AlgorithmTable, AlgType
from teeio.spdm.state import RESPONDER_CAPABILITIES

SM = {
    "base_asym": BaseAsym.SM2,
    "base_hash": BaseHash.SM3_256,
    AlgType.DHE: Dhe.SM2_P256,
    AlgType.AEAD: Aead.SM4_GCM,
}
SLH_DSA = {"pqc_asym": PqcAsym.SLH_DSA_SHA2_128S | PqcAsym.SLH_DSA_SHAKE_256F, "base_asym": BaseAsym(0)}


def edited(request: m.NegotiateAlgorithms, changes: dict[Any, Any]) -> m.NegotiateAlgorithms:
    """Give an offer in which some kinds are replaced."""
    tables = tuple(
        AlgorithmTable(alg_type=table.alg_type, supported=int(changes.get(table.alg_type, table.supported)))
        for table in request.tables
    )
    return replace(request, tables=tables, **{key: value for key, value in changes.items() if isinstance(key, str)})


def asking(changes: dict[Any, Any], **responder: Any) -> tuple[Pair, bytes, list[str]]:
    """A requester that is not ours and offers `changes`; give what our responder answers, and what it says of it."""
    told: list[str] = []
    pair = Pair(Version.V1_4, responder_changes={"versions": (Version.V1_4,), **responder})
    pair.responder.observer = lambda event: told.append(event.rule) if isinstance(event, Refused) else None
    answers: list[bytes] = []

    def tamper(way: str, frame: bytes) -> bytes:
        if way == "req" and frame[2] == m.NegotiateAlgorithms.CODE:
            facts = m.Facts(version=Version.V1_4)
            return frame[:1] + edited(m.NegotiateAlgorithms.decode(frame[1:], facts), changes).encode(facts)
        if way == "rsp" and frame[2] in (m.Algorithms.CODE, m.Error.CODE):
            answers.append(frame[1:])
        return frame

    pair.tamper = tamper  # type: ignore[method-assign]
    with suppress(ErrorResponse, Incompatible):
        pair.run(flows.connect(pair.requester))
    return pair, answers[-1], told


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        (SM, ("SM2: no", "SM3_256: it serves SM2", "SM2_P256: no", "SM4_GCM: it serves SM2")),
        (SLH_DSA, ("SLH_DSA_SHA2_128S: no well-kept library", "SLH_DSA_SHAKE_256F: no well-kept library")),
        ({AlgType.DHE: Dhe.SM2_P256}, ("no common DHE group or KEM; offered, but not provided here: SM2_P256",)),
        ({AlgType.AEAD: Aead.SM4_GCM}, ("no common AEAD suite; offered, but not provided here: SM4_GCM",)),
        ({"base_hash": BaseHash.SM3_256}, ("no common base hash; offered, but not provided here: SM3_256",)),
    ],
)
def test_a_requester_that_offers_nothing_else_gets_an_error_and_we_say_why(
    changes: dict[Any, Any], names: tuple[str, ...]
) -> None:
    pair, answer, told = asking(changes)
    assert answer[1:3] == bytes([m.Error.CODE, ErrorCode.INVALID_REQUEST])
    assert all(name in told[-1] for name in names), told
    assert not pair.responder.connection.base_hash


def test_where_nothing_is_signed_the_selection_is_empty() -> None:
    capabilities = Capability.MEAS_NO_SIG | Capability.CHUNK
    _, answer, told = asking({"base_asym": BaseAsym.SM2}, capabilities=capabilities)
    selected = m.Algorithms.decode(answer, m.Facts(version=Version.V1_4))
    assert (selected.base_asym, selected.pqc_asym) == (0, 0)
    assert selected.base_hash
    assert not told


def listing(changes: dict[Any, Any]) -> Pair:
    """A responder that is not ours: it lists `changes` as all it supports and takes nothing of what we offer."""
    pair = Pair(
        Version.V1_4,
        responder_changes={"versions": (Version.V1_4,), "base_hash": (BaseHash.SHA3_512,)},
    )

    def tamper(way: str, frame: bytes) -> bytes:
        if way == "rsp" and frame[2] == m.Capabilities.CODE:
            facts = m.Facts(version=Version.V1_4)
            found = m.Capabilities.decode(frame[1:], facts)
            assert found.algorithms_block is not None
            offer = edited(found.algorithms_block.offer(Version.V1_4), changes)
            found.algorithms_block = m.SupportedAlgorithms.of(offer, Version.V1_4)
            return frame[:1] + found.encode(facts)
        return frame

    pair.tamper = tamper  # type: ignore[method-assign]
    return pair


def test_a_responder_that_has_nothing_else_is_named_with_the_reason() -> None:
    pair = listing(SM)
    with pytest.raises(Incompatible, match=r"INVALID_REQUEST.*not provided here: SM2: no well-kept library"):
        pair.run(flows.connect(pair.requester, list_algorithms=True))


@pytest.mark.parametrize(
    "changes",
    [
        {"base_asym": (BaseAsym.SM2,)},
        {"pqc_asym": (PqcAsym.SLH_DSA_SHA2_192F,)},
        {"req_base_asym": (BaseAsym.SM2,)},
        {"base_hash": (BaseHash.SHA_256, BaseHash.SM3_256)},
        {"measurement_hash": (MeasurementHash.SM3_256,)},
        {"dhe": (Dhe.SM2_P256,)},
        {"kem": (Kem.ML_KEM_512,)},
        {"aead": (Aead.SM4_GCM,)},
    ],
    ids=lambda changes: next(iter(changes)),
)
@pytest.mark.parametrize("role", ["requester", "responder"])
def test_settings_that_ask_for_it_are_refused_with_the_reason(role: str, changes: dict[str, Any]) -> None:
    with pytest.raises(Misuse, match=r"not provided: [A-Z0-9_]+: .*library"):
        Pair(**{f"{role}_changes": changes})


def test_a_responder_of_1_1_does_not_select_what_came_with_1_2() -> None:
    pair = Pair(
        Version.V1_1,
        responder_changes={
            "versions": (Version.V1_1,),
            "base_asym": (BaseAsym.ED448, BaseAsym.ECDSA_P384),
            "capabilities": RESPONDER_CAPABILITIES,
        },
        identities=(BaseAsym.ED448, BaseAsym.ECDSA_P384),
    )

    def tamper(way: str, frame: bytes) -> bytes:
        if way == "req" and frame[2] == m.NegotiateAlgorithms.CODE:
            return frame[:10] + bytes([frame[10] | int(BaseAsym.ED448) >> 8]) + frame[11:]
        return frame

    pair.tamper = tamper  # type: ignore[method-assign]
    assert pair.run(flows.connect(pair.requester)).base_asym is BaseAsym.ECDSA_P384
