"""Versions of secured messages (DSP0277): offered and selected in opaque data, by certificate and by pre-shared key."""

import pytest

from spdm_pair import Pair
from teeio.crypto.algorithms import P384_SUITE
from teeio.errors import DecodeError, ErrorResponse, PeerViolation
from teeio.flow import Flow
from teeio.spdm import flows, opaque
from teeio.spdm import messages as m
from teeio.spdm.byte_order import ByteOrder
from teeio.spdm.constants import Capability, ErrorCode, Version
from teeio.spdm.state import REQUESTER_CAPABILITIES, RESPONDER_CAPABILITIES, Session

EACH = list(opaque.SECURED_VERSIONS)
SPDM = [Version.V1_1, Version.V1_2, Version.V1_3, Version.V1_4]
PSK = Capability.PSK | Capability.PSK_WITH_CONTEXT


def pair_of(version: Version, requester: tuple[int, ...], responder: tuple[int, ...]) -> Pair:
    # What counts for 1.0 and 1.1 only shows which version the keys have taken up.
    either = {"nonce_order": ByteOrder.EITHER}
    pair = Pair(
        version,
        P384_SUITE,
        {
            "versions": (version,),
            "capabilities": RESPONDER_CAPABILITIES | PSK,
            "secured_versions": responder,
            **either,
        },
        {"capabilities": REQUESTER_CAPABILITIES | Capability.PSK, "secured_versions": requester, **either},
    )
    pair.authenticate()
    return pair


def session_by(pair: Pair, psk: bool) -> Flow[Session]:
    return flows.psk_exchange(pair.requester, b"hint", b"pre-shared key") if psk else flows.key_exchange(pair.requester)


def selected(pair: Pair, version: Version) -> int | None:
    """Give what the last response of a session's begin selects."""
    codes = {m.KeyExchangeRsp.CODE: m.KeyExchangeRsp, m.PskExchangeRsp.CODE: m.PskExchangeRsp}
    frame = next(frame for way, frame in reversed(pair.frames) if way == "rsp" and frame[0] == 0 and frame[2] in codes)
    return opaque.decode_selected(version, codes[frame[2]].decode(frame[1:], pair.requester.connection.facts).opaque)


@pytest.mark.parametrize("psk", [False, True], ids=["certificate", "psk"])
@pytest.mark.parametrize("secured", EACH, ids=hex)
@pytest.mark.parametrize("version", SPDM, ids=lambda v: v.text)
@pytest.mark.parametrize("limiting", ["requester", "responder"])
def test_each_version_alone(version: Version, secured: int, psk: bool, limiting: str) -> None:
    offers = ((secured,), tuple(EACH)) if limiting == "requester" else (tuple(EACH), (secured,))
    pair = pair_of(version, *offers)
    session = pair.run(session_by(pair, psk))
    assert selected(pair, version) == secured
    fixed = ByteOrder.LITTLE if secured == 0x1200 else ByteOrder.EITHER
    theirs = pair.responder.sessions[session.session_id]
    assert (session.terms.order, theirs.terms.order) == (fixed, fixed)
    for _ in range(3):
        pair.run(flows.heartbeat(session))
    pair.run(flows.end_session(pair.requester, session))


@pytest.mark.parametrize(
    ("ours", "theirs", "expected"),
    [((0x1000, 0x1100, 0x1200), (0x1100, 0x1000), 0x1100), ((0x1200, 0x1000), (0x1000, 0x1200), 0x1200)],
)
def test_the_highest_common_version_is_selected(ours: tuple[int, ...], theirs: tuple[int, ...], expected: int) -> None:
    pair = pair_of(Version.V1_2, ours, theirs)
    pair.run(flows.key_exchange(pair.requester))
    assert selected(pair, Version.V1_2) == expected


@pytest.mark.parametrize("psk", [False, True], ids=["certificate", "psk"])
@pytest.mark.parametrize("version", SPDM, ids=lambda v: v.text)
def test_without_a_common_version_there_is_no_session(version: Version, psk: bool) -> None:
    pair = pair_of(version, (0x1000,), (0x1100, 0x1200))
    with pytest.raises(ErrorResponse, match="INVALID_REQUEST") as refused:
        pair.run(session_by(pair, psk))
    assert refused.value.code == ErrorCode.INVALID_REQUEST
    assert not pair.responder.sessions
    assert not pair.requester.sessions


@pytest.mark.parametrize("psk", [False, True], ids=["certificate", "psk"])
def test_a_request_that_names_no_version_is_refused(psk: bool) -> None:
    pair = pair_of(Version.V1_2, (), tuple(EACH))
    with pytest.raises(ErrorResponse, match="INVALID_REQUEST"):
        pair.run(session_by(pair, psk))


@pytest.mark.parametrize("psk", [False, True], ids=["certificate", "psk"])
def test_a_version_that_was_not_offered_is_a_violation(psk: bool) -> None:
    pair = pair_of(Version.V1_2, (0x1100,), tuple(EACH))

    def tamper(way: str, frame: bytes) -> bytes:
        return frame.replace(bytes.fromhex("01000011"), bytes.fromhex("01000012")) if way == "rsp" else frame

    pair.tamper = tamper  # type: ignore[method-assign]
    with pytest.raises(PeerViolation, match="secured-message version 4608 was not offered"):
        pair.run(session_by(pair, psk))


def test_opaque_data_with_a_broken_element_is_refused() -> None:
    pair = pair_of(Version.V1_2, tuple(EACH), tuple(EACH))
    pair.tamper = lambda way, frame: (  # type: ignore[method-assign]
        frame.replace(bytes.fromhex("010103"), bytes.fromhex("0101ff")) if way == "req" else frame
    )
    with pytest.raises(ErrorResponse, match="INVALID_REQUEST"):
        pair.run(flows.key_exchange(pair.requester))
    with pytest.raises(DecodeError):
        opaque.decode_supported(Version.V1_2, bytes.fromhex("01000000000009000101ff001000110012000000"))
