"""Playbooks of whole procedures, both ends ours."""

import pytest

from spdm_pair import Pair
from teeio.crypto.algorithms import P256_SUITE, P384_SUITE, Suite
from teeio.errors import AuthenticationFailed, DecodeError, ErrorResponse, Incompatible, Misuse, PeerViolation
from teeio.observe import SecretDerived, StateChanged
from teeio.spdm import flows
from teeio.spdm import messages as m
from teeio.spdm.constants import Capability, ErrorCode, SummaryType, Version
from teeio.spdm.exchange import ask
from teeio.spdm.state import REQUESTER_CAPABILITIES, RESPONDER_CAPABILITIES
from teeio.spdm.vendor import vendor_exchange

CLEAR = Capability.HANDSHAKE_IN_THE_CLEAR


@pytest.mark.parametrize("suite", [P384_SUITE, P256_SUITE], ids=["p384", "p256"])
@pytest.mark.parametrize("version", [Version.V1_1, Version.V1_2, Version.V1_3, Version.V1_4], ids=lambda v: v.text)
@pytest.mark.parametrize("clear", [False, True], ids=["encrypted", "clear"])
def test_everything_in_order(version: Version, suite: Suite, clear: bool) -> None:
    extra = CLEAR if clear else Capability(0)
    pair = Pair(
        version,
        suite,
        {"versions": (version,), "capabilities": RESPONDER_CAPABILITIES | extra},
        {"capabilities": REQUESTER_CAPABILITIES | extra},
    )
    requester = pair.requester
    connection = pair.run(flows.connect(requester))
    assert (connection.version, connection.base_hash) == (version, suite.base_hash)
    digests = pair.run(flows.get_digests())
    assert digests.slots() == (0, 3)
    pair.run(flows.get_certificate(requester, 3))
    flows.check_digest(requester, digests, 3)
    assert pair.run(flows.challenge(requester, 3, SummaryType.ALL)).summary
    count = pair.run(flows.get_measurements(requester, 0, signed=False))
    assert count.response.total == 3
    for index in (1, 2):
        pair.run(flows.get_measurements(requester, index, signed=False, slot=3))
    assert len(pair.run(flows.get_measurements(requester, slot=3)).blocks) == 3
    session = pair.run(flows.key_exchange(requester, 3, SummaryType.TCB))
    assert session.session_id == 0xFFFFFFFF
    assert session.heartbeat_period == 10
    pair.run(flows.heartbeat(session))
    pair.run(flows.key_update(requester, session))
    pair.run(flows.key_update(requester, session, both=False))
    evidence = pair.run(flows.get_measurements(requester, session=session.session_id, slot=3, nonce=b"n" * 32))
    assert evidence.nonce == b"n" * 32
    pair.run(flows.end_session(requester, session))
    assert not pair.responder.sessions
    assert not requester.sessions


def test_both_sides_derive_the_same_secrets() -> None:
    pair = Pair()
    told: list[SecretDerived] = []
    pair.responder.observer = lambda event: told.append(event) if isinstance(event, SecretDerived) else None
    pair.open_session()
    ours = [event for event in pair.events if isinstance(event, SecretDerived)]
    assert len(ours) == 8
    assert ours == told


@pytest.mark.parametrize("version", [Version.V1_1, Version.V1_2, Version.V1_3, Version.V1_4], ids=lambda v: v.text)
@pytest.mark.parametrize("context", [Capability.PSK, Capability.PSK_WITH_CONTEXT], ids=["no context", "context"])
def test_sessions_on_a_pre_shared_key(version: Version, context: Capability) -> None:
    pair = Pair(
        version,
        P384_SUITE,
        {"versions": (version,), "capabilities": RESPONDER_CAPABILITIES | context},
        {"capabilities": REQUESTER_CAPABILITIES | Capability.PSK},
    )
    pair.run(flows.connect(pair.requester))
    session = pair.run(flows.psk_exchange(pair.requester, b"hint", b"pre-shared key", SummaryType.ALL))
    pair.run(flows.heartbeat(session))
    pair.run(flows.key_update(pair.requester, session))
    pair.run(flows.end_session(pair.requester, session))
    with pytest.raises(AuthenticationFailed, match="pre-shared keys differ"):
        pair.run(flows.psk_exchange(pair.requester, b"hint", b"another key"))
    with pytest.raises(ErrorResponse, match="INVALID_REQUEST"):
        pair.run(flows.psk_exchange(pair.requester, b"unknown", b"pre-shared key"))


def test_two_sessions_live_side_by_side_and_the_fifth_is_refused() -> None:
    pair = Pair()
    sessions = [pair.open_session()]
    sessions += [pair.run(flows.key_exchange(pair.requester)) for _ in range(3)]
    assert len({session.session_id for session in sessions}) == 4
    with pytest.raises(ErrorResponse, match="SESSION_LIMIT_EXCEEDED"):
        pair.run(flows.key_exchange(pair.requester))
    pair.run(flows.heartbeat(sessions[2]))
    pair.run(flows.end_session(pair.requester, sessions[0]))
    pair.run(flows.heartbeat(sessions[3]))


class _Echo:
    standard_id = 3
    vendor_id = b"\x01\x00"
    protocol_id = 7

    def __init__(self) -> None:
        self.ended: list[int] = []

    def respond(self, session_id: int, message: bytes, now: float) -> bytes | None:
        return message[::-1] if message else None

    def session_ended(self, session_id: int) -> None:
        self.ended.append(session_id)


def test_vendor_protocols_are_reached_inside_sessions_only() -> None:
    echo = _Echo()
    pair = Pair(vendor_protocols=(echo,))
    session = pair.open_session()
    assert pair.run(vendor_exchange(3, b"\x01\x00", b"\x07abc"), session.session_id) == b"\x07cba"
    with pytest.raises(ErrorResponse, match="UNSUPPORTED_REQUEST"):
        pair.run(vendor_exchange(3, b"\x01\x00", b"\x08abc"), session.session_id)
    outside = m.VendorDefinedRequest(standard_id=3, vendor_id=b"\x01\x00", payload=b"\x07abc")
    assert pair.say(outside.encode(pair.requester.connection.facts)) is None
    pair.run(flows.end_session(pair.requester, session))
    assert echo.ended == [session.session_id]


def test_get_version_ends_sessions_and_tells_vendor_protocols() -> None:
    echo = _Echo()
    pair = Pair(vendor_protocols=(echo,))
    session = pair.open_session()
    pair.run(flows.connect(pair.requester))
    assert echo.ended == [session.session_id]
    assert not pair.requester.sessions


def test_a_lapsed_heartbeat_ends_the_session() -> None:
    pair = Pair()
    session = pair.open_session()
    pair.now = 19.0
    pair.run(flows.heartbeat(session))
    pair.now = 40.0
    with pytest.raises(PeerViolation, match="unprotected"):
        pair.run(flows.heartbeat(session))
    assert not pair.responder.sessions


def test_a_replayed_or_changed_record_ends_the_session() -> None:
    for damage in (lambda frame: frame, lambda frame: frame[:-1] + bytes([frame[-1] ^ 1])):
        pair = Pair()
        session = pair.open_session()
        pair.run(flows.heartbeat(session))
        frame = damage([frame for way, frame in pair.frames if way == "req"][-1])
        answer = pair.responder.respond(frame)
        assert answer is not None
        opened = session.response_key.open(answer[1:], pair.requester.binding)
        assert opened[1:3] == bytes([m.Error.CODE, ErrorCode.DECRYPT_ERROR])
        assert not pair.responder.sessions


@pytest.mark.parametrize(
    "code",
    [
        m.VersionResponse.CODE,
        m.Capabilities.CODE,
        m.Algorithms.CODE,
        m.Certificate.CODE,
        m.ChallengeAuth.CODE,
        m.KeyExchangeRsp.CODE,
    ],
)
def test_any_change_of_an_unprotected_response_is_noticed(code: int) -> None:
    """Attacks 1 to 3: whoever changes negotiation or identity on the way is caught at the next signature at the latest."""
    reference = Pair()
    reference.open_session()
    reference.run(flows.challenge(reference.requester))
    size = next(len(frame) for way, frame in reference.frames if way == "rsp" and frame[2] == code)
    for at in sorted({3, 4, size // 3, size // 2, size - 1}):
        pair = Pair()
        pair.tamper = (
            lambda way, frame, at=at: (  # type: ignore[method-assign]
                frame[:at] + bytes([frame[at] ^ 0x41]) + frame[at + 1 :] if way == "rsp" and frame[2] == code else frame
            )
        )
        with pytest.raises((AuthenticationFailed, PeerViolation, DecodeError, Incompatible, ErrorResponse, Misuse)):
            pair.run(flows.connect(pair.requester))
            pair.run(flows.get_digests())
            pair.run(flows.get_certificate(pair.requester))
            pair.run(flows.challenge(pair.requester))
            pair.run(flows.key_exchange(pair.requester))
            # Reserved bytes may change unseen only where nothing signs them: nowhere before this point.
            raise AssertionError(f"byte {at} of {m.name_of(code)} was changed and nobody noticed")


def test_finish_with_a_wrong_proof_ends_the_handshake() -> None:
    pair = Pair()
    pair.authenticate()
    pair.tamper = lambda way, frame: frame[:-1] + b"\0" if way == "req" and frame[0] == 1 else frame  # type: ignore[method-assign]
    with pytest.raises(ErrorResponse, match="DECRYPT_ERROR"):
        pair.run(flows.key_exchange(pair.requester))
    assert not pair.responder.sessions
    assert not pair.requester.sessions


def test_no_common_version_or_algorithm_says_what_each_side_has() -> None:
    with pytest.raises(Incompatible, match=r"we offer 1\.2, responder offers 1\.3"):
        pair = Pair(responder_changes={"versions": (Version.V1_3,)})
        pair.run(flows.connect(pair.requester))
    with pytest.raises(ErrorResponse, match="INVALID_REQUEST"):
        pair = Pair(responder_changes={"aead": P256_SUITE and (P256_SUITE.aead,)})
        pair.run(flows.connect(pair.requester))


def test_the_requester_waits_out_busy_and_response_not_ready() -> None:
    pair = Pair()
    pair.authenticate()
    not_ready = bytes([0, 0x12, 0x7F, ErrorCode.RESPONSE_NOT_READY, 0, 10, m.GetDigests.CODE, 5, 4])
    script = [bytes([0, 0x12, 0x7F, ErrorCode.BUSY, 0]), not_ready]
    carried = pair.carry

    def carry(frame: bytes) -> bytes:
        if script:
            return script.pop(0)
        if frame[2] == m.RespondIfReady.CODE:
            assert frame[3:5] == bytes([m.GetDigests.CODE, 5])
            frame = bytes([0, 0x12, m.GetDigests.CODE, 0, 0])
        return carried(frame)

    pair.carry = carry  # type: ignore[method-assign]
    assert pair.run(flows.get_digests()).slots() == (0, 3)
    assert pair.now == pytest.approx(0.1 + 1024e-6)


def test_an_answer_to_another_question_is_a_violation() -> None:
    pair = Pair()
    pair.authenticate()
    pair.carry = lambda frame: bytes([0, 0x12, m.HeartbeatAck.CODE, 0, 0])  # type: ignore[method-assign]
    with pytest.raises(PeerViolation, match="HEARTBEAT_ACK came in answer to GET_DIGESTS"):
        pair.run(flows.get_digests())
    pair.carry = lambda frame: bytes([0, 0x13, m.Digests.CODE, 0, 0])  # type: ignore[method-assign]
    with pytest.raises(PeerViolation, match="SPDMVersion 0x13"):
        pair.run(flows.get_digests())


def test_misuse_is_refused_before_anything_is_sent() -> None:
    pair = Pair()
    with pytest.raises(Misuse, match="negotiation has not come this far"):
        pair.run(flows.get_digests())
    pair.authenticate()
    with pytest.raises(Misuse, match="only legal inside a session"):
        pair.run(ask(m.Heartbeat()))
    with pytest.raises(Misuse, match="no session"):
        pair.run(ask(m.Heartbeat()), 5)
    assert pair.frames[-1][1][2] == m.Certificate.CODE


def test_session_states_are_told() -> None:
    pair = Pair()
    session = pair.open_session()
    pair.run(flows.end_session(pair.requester, session))
    states = [(event.old, event.new) for event in pair.events if isinstance(event, StateChanged)]
    assert states == [("handshake", "established"), ("established", "ended")]


@pytest.mark.parametrize(
    ("has", "told"),
    [(Capability.PSK_WITH_CONTEXT, Capability.PSK), (Capability.PSK, Capability.PSK_WITH_CONTEXT)],
    ids=["a context unannounced", "no context though announced"],
)
def test_the_responders_context_is_there_as_its_capabilities_say(has: Capability, told: Capability) -> None:
    pair = Pair(
        responder_changes={"capabilities": RESPONDER_CAPABILITIES | has},
        requester_changes={"capabilities": REQUESTER_CAPABILITIES | Capability.PSK},
    )
    pair.run(flows.connect(pair.requester))
    pair.requester.agreed(responder_capabilities=RESPONDER_CAPABILITIES | told)
    with pytest.raises(PeerViolation, match="against PSK_CAP"):
        pair.run(flows.psk_exchange(pair.requester, b"hint", b"pre-shared key"))
    assert not pair.requester.sessions
