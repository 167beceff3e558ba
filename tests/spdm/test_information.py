"""Measurement extension log, endpoint information, events, postponed responses, supported algorithms: both ends ours."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spdm_pair import Pair, measurements
from strategies import mutated
from teeio.crypto.algorithms import P384_SUITE, BaseAsym, BaseHash, MeasurementHash
from teeio.errors import AuthenticationFailed, DecodeError, ErrorResponse, Misuse, PeerViolation
from teeio.spdm import flows
from teeio.spdm import messages as m
from teeio.spdm.constants import Capability, ErrorCode, SummaryType, Version
from teeio.spdm.device_state import Measured, extended
from teeio.spdm.events import MAX_WAITING, Events
from teeio.spdm.exchange import ask
from teeio.spdm.information_handlers import device_class_info
from teeio.spdm.session_handlers import EVENT_ALL_POLICY
from teeio.spdm.state import REQUESTER_CAPABILITIES, RESPONDER_CAPABILITIES, Session
from teeio.spdm.vendor import vendor_exchange

NONE = Capability(0)
LATER = [Version.V1_3, Version.V1_4]
HEM = 0x11
CLASSES = (
    m.DeviceClass(subordinates=(m.SubordinateId(identifier=b"\x12\x34\x56"), m.SubordinateId(identifier=b""))),
    m.DeviceClass(registry=3, vendor=b"\x86\x80"),
)


def device(version: Version = Version.V1_3, flags: Capability = NONE, **more: Any) -> Pair:
    pair = Pair(
        version,
        P384_SUITE,
        {"versions": (version,), "capabilities": RESPONDER_CAPABILITIES | flags, **more.pop("responder", {})},
        {"capabilities": REQUESTER_CAPABILITIES | (flags & Capability.EVENT), **more.pop("requester", {})},
        device=more,
    )
    pair.responder.measurements = measurements()
    pair.responder.measurements.measured.append(Measured(HEM, m.MeasurementType.HASH_EXTEND, b""))
    return pair


def entry(number: int, value: bytes) -> m.LogEntry:
    return m.LogEntry(mel_index=number, measurement_index=HEM, type=m.MeasurementType.INFORMATIONAL | 0x80, value=value)


def _at(pair: Pair, in_session: bool) -> int | None:
    pair.authenticate()
    return pair.run(flows.key_exchange(pair.requester)).session_id if in_session else None


# -- the measurement extension log --------------------------------------------------------------------------------------


@pytest.mark.parametrize("in_session", [False, True], ids=["outside", "in session"])
@pytest.mark.parametrize("version", LATER, ids=lambda v: v.text)
@pytest.mark.parametrize("size", [1, 900], ids=["one portion", "many portions"])
def test_the_log_explains_the_measurement_it_extends(version: Version, in_session: bool, size: int) -> None:
    pair = device(version, Capability.MEL)
    pair.responder.measurements.log = [entry(number, bytes([number]) * size) for number in range(1, 9)]
    at = _at(pair, in_session)
    log = pair.run(flows.get_measurement_extension_log(pair.requester, at))
    assert list(log.entries) == pair.responder.measurements.log
    block = pair.run(flows.get_measurements(pair.requester, HEM, session=at)).blocks[0]
    assert block.value == extended(log.entries, HEM, BaseHash.SHA_384)
    assert extended(log.entries[:-1], HEM, BaseHash.SHA_384) != block.value


def test_log_abuse() -> None:
    pair = device(flags=Capability.MEL)
    pair.authenticate()
    for offset, length in ((16, 10), (0, 0), (0xFFFF_FFFF, 1)):
        with pytest.raises(ErrorResponse, match="INVALID_REQUEST"):
            pair.run(ask(m.GetMeasurementExtensionLog(offset=offset, length=length)))
    first = pair.run(ask(m.GetMeasurementExtensionLog(offset=0, length=0xFFFF_FFFF)))
    assert (len(first.portion), first.remainder_length) == (16, 0)


def test_without_a_negotiated_log_format_there_is_no_log() -> None:
    pair = device(flags=Capability.MEL)
    pair.tamper = (  # type: ignore[method-assign]
        lambda way, frame: (
            frame[:32] + b"\0" + frame[33:] if way == "req" and frame[2] == m.NegotiateAlgorithms.CODE else frame
        )
    )
    pair.run(flows.connect(pair.requester))
    with pytest.raises(ErrorResponse, match="UNEXPECTED_REQUEST"):
        pair.run(flows.get_measurement_extension_log(pair.requester))


@pytest.mark.parametrize(
    ("portion", "remainder", "error"),
    [
        (b"", 5, PeerViolation),
        (b"x", 1 << 21, PeerViolation),
        (bytes(15), 0, DecodeError),
        (bytes([0, 0, 0, 0, 1]) + bytes(11), 0, DecodeError),
    ],
)
def test_a_log_that_does_not_add_up_is_a_violation(portion: bytes, remainder: int, error: type[Exception]) -> None:
    pair = device(flags=Capability.MEL)
    pair.authenticate()
    answer = m.MeasurementExtensionLog(portion=portion, remainder_length=remainder)
    pair.carry = lambda frame: bytes(1) + answer.encode(pair.requester.connection.facts)  # type: ignore[method-assign]
    with pytest.raises(error):
        pair.run(flows.get_measurement_extension_log(pair.requester))


# -- endpoint information -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("signed", [False, True], ids=["unsigned", "signed"])
@pytest.mark.parametrize("in_session", [False, True], ids=["outside", "in session"])
@pytest.mark.parametrize("version", LATER, ids=lambda v: v.text)
def test_endpoint_information(version: Version, in_session: bool, signed: bool) -> None:
    pair = device(version, Capability.EP_INFO_SIG, device_classes=CLASSES)
    at = _at(pair, in_session)
    assert pair.run(flows.get_endpoint_info(pair.requester, signed=signed, session=at)) == CLASSES


def test_changed_endpoint_information_is_noticed() -> None:
    pair = device(flags=Capability.EP_INFO_SIG, device_classes=CLASSES)
    pair.authenticate()
    pair.tamper = lambda way, frame: frame.replace(b"\x12\x34\x56", b"\x12\x34\x57")  # type: ignore[method-assign]
    with pytest.raises(AuthenticationFailed):
        pair.run(flows.get_endpoint_info(pair.requester))


@given(st.data())
def test_damaged_device_classes_are_decode_errors(data: st.DataObject) -> None:
    try:
        for element in m.DeviceClasses.decode(data.draw(mutated(device_class_info(CLASSES)))).elements:
            m.DeviceClass.decode(element.element)
    except DecodeError as error:
        assert error.reason


def test_endpoint_abuse() -> None:
    pair = device(flags=Capability.EP_INFO_NO_SIG, device_classes=CLASSES)
    pair.authenticate()
    with pytest.raises(ErrorResponse, match="UNSUPPORTED_REQUEST"):
        pair.run(flows.get_endpoint_info(pair.requester))
    with pytest.raises(ErrorResponse, match="INVALID_REQUEST"):
        pair.run(ask(m.GetEndpointInfo(sub_code=2, slot=0)))
    pair = device(flags=Capability.EP_INFO_SIG, device_classes=CLASSES)
    pair.authenticate()
    with pytest.raises(ErrorResponse, match="INVALID_REQUEST"):
        pair.run(flows.get_endpoint_info(pair.requester, slot=5))


# -- events -------------------------------------------------------------------------------------------------------------


def with_events(version: Version = Version.V1_3, policy: int = 0) -> tuple[Pair, Session, Events]:
    events = Events()
    pair = device(version, Capability.EVENT, events=events)
    pair.authenticate()
    return pair, pair.run(flows.key_exchange(pair.requester, session_policy=policy)), events


@pytest.mark.parametrize("version", LATER, ids=lambda v: v.text)
def test_subscribing_to_events(version: Version) -> None:
    pair, session, events = with_events(version)
    (group,) = pair.run(flows.get_supported_event_types(session))
    assert [kind.type_id for kind in group.types] == [1, 2, 3, 4]
    wanted = replace(group, types=(m.EventType(type_id=m.DmtfEvent.CERTIFICATE_CHANGED),))
    pair.run(flows.subscribe_event_types(session, [wanted]))
    events.happened(m.DmtfEvent.MEASUREMENT_CHANGED, bytes(32))
    events.happened(m.DmtfEvent.CERTIFICATE_CHANGED, b"\1")
    (waiting,) = events.waiting(session.session_id)
    assert (waiting.type_id, waiting.detail, waiting.instance_id) == (m.DmtfEvent.CERTIFICATE_CHANGED, b"\1", 0)
    events.acknowledge(session.session_id, [waiting])
    assert not events.waiting(session.session_id)
    pair.run(flows.subscribe_event_types(session, [replace(group, types=(), all_types=1)]))
    assert events.subscriptions[session.session_id] == {1, 2, 3, 4}
    pair.run(flows.subscribe_event_types(session))
    assert not events.subscriptions


def test_the_session_policy_subscribes_to_all_and_the_end_of_the_session_to_none() -> None:
    pair, session, events = with_events(policy=EVENT_ALL_POLICY)
    assert events.subscriptions == {session.session_id: frozenset({1, 2, 3, 4})}
    pair.run(flows.end_session(pair.requester, session))
    assert not events.subscriptions


def test_a_full_queue_says_what_was_lost() -> None:
    _, session, events = with_events(policy=EVENT_ALL_POLICY)
    for _ in range(MAX_WAITING + 1):
        events.happened(m.DmtfEvent.CERTIFICATE_CHANGED, b"\1")
    (lost,) = events.waiting(session.session_id)
    assert (lost.type_id, lost.instance_id) == (m.DmtfEvent.EVENT_LOST, MAX_WAITING)
    assert lost.detail == bytes(4) + MAX_WAITING.to_bytes(4, "little")


@pytest.mark.parametrize(
    "groups",
    [
        (m.EventGroup(registry=3, vendor=b"\1\0", all_types=1),),
        (m.EventGroup(group_version=2, all_types=1),),
        (m.EventGroup(types=(m.EventType(type_id=9),)),),
        (m.EventGroup(),),
        (m.EventGroup(types=(m.EventType(type_id=1),), all_types=1),),
    ],
)
def test_a_subscription_to_what_there_is_not_changes_nothing(groups: tuple[m.EventGroup, ...]) -> None:
    pair, session, events = with_events(policy=EVENT_ALL_POLICY)
    before = dict(events.subscriptions)
    with pytest.raises(ErrorResponse, match="INVALID_REQUEST"):
        pair.run(flows.subscribe_event_types(session, groups))
    good = m.EventGroup(all_types=1)
    with pytest.raises(ErrorResponse, match="INVALID_REQUEST"):
        pair.run(ask(m.SubscribeEventTypes(group_count=2, groups=(good,)), session.session_id))
    assert events.subscriptions == before


@pytest.mark.parametrize("version", LATER, ids=lambda v: v.text)
def test_events_reach_the_responder_in_order(version: Version) -> None:
    pair, session, events = with_events(version)
    sent = [
        m.Event(instance_id=8, type_id=m.DmtfEvent.MEASUREMENT_CHANGED, detail=bytes(32)),
        m.Event(instance_id=7, type_id=m.DmtfEvent.CERTIFICATE_CHANGED, detail=b"\1"),
        m.Event(instance_id=9, registry=3, vendor=b"\1\0", type_id=77, detail=b"anything"),
    ]
    pair.run(flows.send_event(session, sent))
    assert [(at, event.instance_id) for at, event in events.received] == [(session.session_id, n) for n in (7, 8, 9)]


_CHANGED = {"type_id": m.DmtfEvent.CERTIFICATE_CHANGED, "detail": b"\1"}


@pytest.mark.parametrize(
    "sent",
    [
        (),
        (m.Event(instance_id=1, type_id=9, detail=b""),),
        (m.Event(instance_id=1, type_id=m.DmtfEvent.CERTIFICATE_CHANGED, detail=b"12"),),
        (m.Event(instance_id=1, vendor=b"x", **_CHANGED),),  # type: ignore[arg-type]
        tuple(m.Event(instance_id=number, **_CHANGED) for number in (1, 3)),  # type: ignore[arg-type]
        tuple(m.Event(instance_id=number, **_CHANGED) for number in (1, 1)),  # type: ignore[arg-type]
    ],
)
def test_impossible_events_are_refused_on_both_sides(sent: tuple[m.Event, ...]) -> None:
    pair, session, events = with_events()
    with pytest.raises(Misuse):
        pair.run(flows.send_event(session, sent))
    with pytest.raises(ErrorResponse, match="INVALID_REQUEST"):
        pair.run(ask(m.SendEvent(events=sent), session.session_id))
    assert not events.received


@given(st.data())
@settings(max_examples=40)
def test_damaged_event_messages_never_raise(data: st.DataObject) -> None:
    pair, session, _ = with_events()
    facts = pair.requester.connection.facts
    good = data.draw(
        st.sampled_from(
            [
                m.SendEvent(events=(m.Event(instance_id=1, **_CHANGED),)).encode(facts),  # type: ignore[arg-type]
                m.SubscribeEventTypes(group_count=1, groups=(m.EventGroup(all_types=1),)).encode(facts),
            ]
        )
    )
    pair.say(data.draw(mutated(good)), session)


def test_without_events_the_requests_are_unsupported() -> None:
    pair = device(flags=Capability.EVENT)
    pair.authenticate()
    session = pair.run(flows.key_exchange(pair.requester))
    with pytest.raises(ErrorResponse, match="UNSUPPORTED_REQUEST"):
        pair.run(flows.get_supported_event_types(session))
    with pytest.raises(Misuse, match="only legal inside a session"):
        pair.run(ask(m.GetSupportedEventTypes()))


# -- ResponseNotReady ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("in_session", [False, True], ids=["outside", "in session"])
@pytest.mark.parametrize("version", [Version.V1_1, Version.V1_2, *LATER], ids=lambda v: v.text)
def test_a_response_that_takes_its_time(version: Version, in_session: bool) -> None:
    """The signature covers the request and the response, neither the ERROR nor RESPOND_IF_READY."""
    pair = device(version)
    at = _at(pair, in_session)
    pair.responder.measurements.ready_at = 5.0
    assert len(pair.run(flows.get_measurements(pair.requester, session=at)).blocks) == 4
    assert 5.0 <= pair.now < 13.0


def test_respond_if_ready_abuse() -> None:
    pair = device()
    pair.authenticate()
    session = pair.run(flows.key_exchange(pair.requester))
    facts = pair.requester.connection.facts
    wanted = m.GetMeasurements(operation=0).encode(facts)
    pair.responder.measurements.ready_at = 1.0

    def again(token: int, at: Session | None = None, code: int = m.GetMeasurements.CODE) -> bytes:
        return pair.say(m.RespondIfReady(original_request_code=code, token=token).encode(facts), at) or b""

    invalid = bytes([0x13, m.Error.CODE, ErrorCode.INVALID_REQUEST, 0])
    assert again(0) == invalid
    answer = pair.say(wanted) or b""
    assert answer[1:3] == bytes([m.Error.CODE, ErrorCode.RESPONSE_NOT_READY])
    exponent, code, token, factor = answer[4:8]
    assert (exponent, code, factor >= 2) == (20, m.GetMeasurements.CODE, True)
    assert again(token + 1) == again(token, session) == again(token, code=m.GetDigests.CODE) == invalid
    assert again(token)[2] == ErrorCode.RESPONSE_NOT_READY
    pair.now = 1.5
    assert again(token)[1] == m.Measurements.CODE
    assert again(token) == invalid
    pair.responder.measurements.ready_at = 9.0
    token = (pair.say(wanted) or b"")[6]
    assert (pair.say(m.GetDigests().encode(facts)) or b"")[1] == m.Digests.CODE
    assert again(token) == invalid


# -- negotiation and measurements ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", [Version.V1_2, *LATER], ids=lambda v: v.text)
def test_the_supported_algorithms_block(version: Version) -> None:
    pair = device(version, responder={"base_asym": (BaseAsym.ECDSA_P384, BaseAsym.ECDSA_P256)})
    connection = pair.run(flows.connect(pair.requester, list_algorithms=True))
    listed = connection.offered_by_responder
    if version < Version.V1_3:
        assert listed is None
        return
    assert listed is not None
    assert listed.base_asym == BaseAsym.ECDSA_P384 | BaseAsym.ECDSA_P256
    assert [table.alg_type for table in listed.tables] == [m.AlgType.DHE, m.AlgType.AEAD, m.AlgType.KEY_SCHEDULE]
    pair.run(flows.get_digests())
    pair.run(flows.get_certificate(pair.requester))
    pair.run(flows.challenge(pair.requester))


def test_the_block_needs_chunks_on_both_sides() -> None:
    pair = device(responder={"capabilities": RESPONDER_CAPABILITIES & ~Capability.CHUNK})
    assert pair.run(flows.connect(pair.requester, list_algorithms=True)).offered_by_responder is None
    pair = device()
    pair.say(m.GetVersion().encode(m.Facts()))
    request = m.GetCapabilities(supported_algorithms=1, data_transfer_size=4608, max_message_size=4608)
    answer = pair.say(request.encode(m.Facts(version=Version.V1_3))) or b""
    assert answer[1:3] == bytes([m.Error.CODE, ErrorCode.INVALID_REQUEST])


@given(st.data())
@settings(max_examples=40)
def test_a_damaged_block_is_a_decode_error(data: st.DataObject) -> None:
    pair = device()
    pair.run(flows.connect(pair.requester, list_algorithms=True))
    facts = m.Facts(version=Version.V1_3)
    sent = next(frame[1:] for way, frame in pair.frames if way == "rsp" and frame[2] == m.Capabilities.CODE)
    try:
        block = m.Capabilities.decode_prefix(data.draw(mutated(sent)), facts)[0].algorithms_block
        if block is not None:
            block.offer(Version.V1_3)
    except DecodeError as error:
        assert error.reason


@pytest.mark.parametrize("version", [Version.V1_2, *LATER], ids=lambda v: v.text)
def test_a_device_that_hashes_nothing(version: Version) -> None:
    pair = device(version, responder={"measurement_hash": (MeasurementHash.RAW_ONLY,)})
    pair.authenticate()
    assert pair.requester.connection.measurement_hash is MeasurementHash.RAW_ONLY
    blocks = pair.run(flows.get_measurements(pair.requester)).blocks
    assert all(block.raw for block in blocks)
    assert blocks[0].value == b"firmware 1"
    pair.run(flows.heartbeat(pair.run(flows.key_exchange(pair.requester, summary_type=SummaryType.ALL))))


class _Echo:
    standard_id = 3
    vendor_id = b"\x01\x00"
    protocol_id = 7

    def respond(self, session_id: int, message: bytes, now: float) -> bytes | None:
        return message[::-1]

    def session_ended(self, session_id: int) -> None:
        return None


@pytest.mark.parametrize("flag", [Capability.LARGE_RESP, Capability(0)], ids=["negotiated", "not negotiated"])
def test_a_vendor_message_in_the_large_form_is_answered_in_it(flag: Capability) -> None:
    pair = device(Version.V1_4, flag)
    pair.responder.vendor_protocols = (_Echo(),)
    pair.authenticate()
    session = pair.run(flows.key_exchange(pair.requester))
    request = m.VendorDefinedRequest(large=1, standard_id=3, vendor_id=b"\x01\x00", large_payload=b"\x07abc")
    if flag:
        answer = pair.run(ask(request, session.session_id))
        assert (answer.large, answer.large_payload, answer.payload) == (1, b"\x07cba", b"")
    else:
        with pytest.raises(ErrorResponse, match="UNSUPPORTED_REQUEST"):
            pair.run(ask(request, session.session_id))
    assert pair.run(vendor_exchange(3, b"\x01\x00", b"\x07abc"), session.session_id) == b"\x07cba"


@pytest.mark.parametrize(
    ("flags", "why"),
    [
        (Capability.CSR, "CSR needs"),
        (Capability.CERT_INSTALL_RESET, "CERT_INSTALL_RESET needs"),
        (Capability.MULTI_KEY_NEG, "GET_KEY_PAIR_INFO"),
        (Capability.SET_KEY_PAIR_RESET, "SET_KEY_PAIR_INFO"),
        (Capability.EP_INFO_SIG | Capability.EP_INFO_NO_SIG, "EP_INFO_CAP 11b"),
    ],
)
def test_a_responder_that_contradicts_itself_is_noticed(flags: Capability, why: str) -> None:
    with pytest.raises(Misuse, match=why):
        device(Version.V1_4, flags)
    pair = device(Version.V1_4)
    pair.responder.settings = replace(pair.responder.settings, capabilities=RESPONDER_CAPABILITIES | flags)
    with pytest.raises(PeerViolation, match=why):
        pair.run(flows.connect(pair.requester))


@pytest.mark.parametrize("flags", [Capability.EVENT, Capability.MULTI_KEY_ONLY, Capability.EP_INFO_SIG])
def test_a_requester_that_contradicts_itself_is_refused(flags: Capability) -> None:
    pair = device()
    pair.say(m.GetVersion().encode(m.Facts()))
    request = m.GetCapabilities(flags=flags, data_transfer_size=4608, max_message_size=4608)
    answer = pair.say(request.encode(m.Facts(version=Version.V1_3))) or b""
    assert answer[1:3] == bytes([m.Error.CODE, ErrorCode.INVALID_REQUEST])


def test_slot_management_stays_refused() -> None:
    pair = device(Version.V1_4)
    told: list[Any] = []
    pair.authenticate()
    pair.responder.observer = told.append
    with pytest.raises(ErrorResponse, match="UNSUPPORTED_REQUEST"):
        pair.run(ask(m.SlotManagement(sub_code=m.SlotManagementCode.GET_BANK_INFO)))
    assert any("SLOT_MGMT_CAP is not offered" in str(event) for event in told)
