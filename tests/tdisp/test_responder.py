"""TDISP, flows against responder: every state x request, errors in order, portions, hostile answers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from strategies import mutated, records
from teeio.crypto.entropy import SeededEntropy
from teeio.errors import DecodeError, ErrorResponse, Incompatible, Misuse, PeerViolation
from teeio.flow import Flow
from teeio.observe import Refused
from teeio.tdisp import flows, messages
from teeio.tdisp.messages import (
    BY_CODE,
    DeviceInterfaceState,
    ErrorCode,
    GetDeviceInterfaceReport,
    GetDeviceInterfaceState,
    GetTdispVersion,
    InterfaceState,
    LockParameters,
    Message,
    MessageType,
    MmioRange,
    RangeAttributes,
    TdispError,
    VdmRequest,
    VdmResponse,
    decode_message,
)
from teeio.tdisp.responder import DsmCapabilities, TdispResponder
from teeio.tdisp.states import REQUEST_RULES
from teeio.wire import NO_FACTS

Rig = Any
SESSION, OTHER, FUNCTION = 0x11, 0x22, 0xBEEF


def run(flow: Flow[Any]) -> Any:
    """Run a flow whose exchanges are answered at once."""
    try:
        next(flow)
    except StopIteration as stop:
        return stop.value
    raise AssertionError("the flow asked for something else")


@pytest.fixture
def connect(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Give the function that answers every vendor exchange by `respond(message)`."""

    def to(respond: Callable[[bytes], bytes]) -> None:
        def answer(standard_id: int, vendor_id: bytes, payload: bytes) -> Flow[bytes]:
            assert (standard_id, vendor_id, payload[:1]) == (3, b"\x01\x00", b"\x01")
            return b"\x01" + respond(payload[1:])
            yield

        monkeypatch.setattr(flows, "vendor_exchange", answer)

    return to


@pytest.fixture
def talk(rig: Rig, connect: Callable[..., None]) -> Rig:
    """Give a rig that the flows talk to over the session SESSION."""
    connect(lambda message: rig.responder.respond(SESSION, message, 0.0))
    return rig


REQUEST_FLOWS: dict[MessageType, Callable[[Rig], Flow[Any]]] = {
    MessageType.GET_TDISP_VERSION: lambda rig: flows.get_version(FUNCTION),
    MessageType.GET_TDISP_CAPABILITIES: lambda rig: flows.get_capabilities(FUNCTION),
    MessageType.LOCK_INTERFACE_REQUEST: lambda rig: flows.lock_interface(FUNCTION, rig.parameters),
    MessageType.GET_DEVICE_INTERFACE_REPORT: lambda rig: flows.get_device_interface_report(FUNCTION),
    MessageType.GET_DEVICE_INTERFACE_STATE: lambda rig: flows.get_state(FUNCTION),
    MessageType.START_INTERFACE_REQUEST: lambda rig: flows.start_interface(FUNCTION, rig.nonce or bytes(32)),
    MessageType.STOP_INTERFACE_REQUEST: lambda rig: flows.stop_interface(FUNCTION),
    MessageType.BIND_P2P_STREAM_REQUEST: lambda rig: flows.bind_p2p_stream(FUNCTION, 5),
    MessageType.UNBIND_P2P_STREAM_REQUEST: lambda rig: flows.unbind_p2p_stream(FUNCTION, 5),
    MessageType.SET_MMIO_ATTRIBUTE_REQUEST: lambda rig: flows.set_mmio_attribute(
        FUNCTION, MmioRange(first_page=0xD0104, pages=2, attributes=RangeAttributes.IS_NON_TEE_MEM, range_id=0)
    ),
}


@pytest.mark.parametrize("state", list(InterfaceState))
@pytest.mark.parametrize("code", list(REQUEST_FLOWS))
def test_every_state_and_request_over_messages(talk: Rig, state: InterfaceState, code: MessageType) -> None:
    talk.bring_to(state)
    if code is MessageType.UNBIND_P2P_STREAM_REQUEST and state is InterfaceState.RUN:
        talk.interface.bind_p2p_stream(SESSION, 5)
    rule = REQUEST_RULES[code]
    if state in rule.legal:
        run(REQUEST_FLOWS[code](talk))
        assert talk.interface.state is (state if rule.next_state is None else rule.next_state)
        return
    with pytest.raises(ErrorResponse) as refusal:
        run(REQUEST_FLOWS[code](talk))
    assert refusal.value.code == ErrorCode.INVALID_INTERFACE_STATE
    assert ErrorCode.INVALID_INTERFACE_STATE in rule.errors
    assert talk.interface.state is state


def test_every_rule_but_the_vendors_has_a_flow() -> None:
    assert set(REQUEST_RULES) - set(REQUEST_FLOWS) == {MessageType.VDM_REQUEST}


def test_the_life_of_an_interface(talk: Rig) -> None:
    assert run(flows.get_version(FUNCTION)) == 0x10
    capabilities = run(flows.get_capabilities(FUNCTION))
    assert (capabilities.dev_addr_width, capabilities.num_req_this, capabilities.num_req_all) == (52, 1, 1)
    parameters = LockParameters(flags=capabilities.lock_flags_supported, mmio_reporting_offset=0xD000_0000)
    nonce = run(flows.lock_interface(FUNCTION, parameters))
    assert run(flows.get_state(FUNCTION)) is InterfaceState.CONFIG_LOCKED
    report = run(flows.get_device_interface_report(FUNCTION))
    assert report.ranges[0].first_page == 0xD0100
    run(flows.start_interface(FUNCTION, nonce))
    assert run(flows.get_state(FUNCTION)) is InterfaceState.RUN
    with pytest.raises(ErrorResponse, match="INVALID_INTERFACE_STATE") as refusal:
        run(flows.start_interface(FUNCTION, nonce))
    assert refusal.value.remedy
    run(flows.stop_interface(FUNCTION))
    assert run(flows.get_state(FUNCTION)) is InterfaceState.CONFIG_UNLOCKED


@pytest.mark.parametrize(
    ("base", "optional", "expected"),
    [(0x81, False, 0x7F), (0x80, False, 0xFE), (0x81, True, 0x3FF), (0x80, True, 0x7FE)],
)
def test_req_msgs_supported(base: int, optional: bool, expected: int) -> None:
    chosen = frozenset(MessageType(code) for code in (0x88, 0x89, 0x8A)) if optional else frozenset()
    capabilities = DsmCapabilities(optional=chosen, req_msgs_base=base)
    assert capabilities.req_msgs_supported() == expected.to_bytes(16, "little")


@pytest.mark.parametrize("portion_length", [1, 16, 40, 0x400, 0xFFFF])
def test_the_report_comes_in_portions(talk: Rig, portion_length: int) -> None:
    talk.bring_to(InterfaceState.CONFIG_LOCKED)
    data = run(flows.get_device_interface_report_bytes(FUNCTION, portion_length=portion_length))
    assert data == talk.interface.report(SESSION).encode()


@pytest.mark.parametrize("portion_length", [0, 0x10000])
def test_an_impossible_portion_length_is_our_own_mistake(portion_length: int) -> None:
    with pytest.raises(Misuse):
        run(flows.get_device_interface_report_bytes(FUNCTION, portion_length=portion_length))


def ask(rig: Rig, message: bytes, session: int = SESSION) -> Message:
    return decode_message(rig.responder.respond(session, message, 0.0))


def error_of(rig: Rig, message: bytes, session: int = SESSION) -> ErrorCode:
    answer = ask(rig, message, session)
    assert isinstance(answer, TdispError), answer
    refused = rig.seen[-1]
    assert isinstance(refused, Refused)
    assert refused.rule
    return answer.code


@pytest.mark.parametrize(("offset", "length"), [(0xFFFF, 1), (81, 1), (0, 0)])
def test_offset_past_the_end_and_length_zero(rig: Rig, offset: int, length: int) -> None:
    rig.bring_to(InterfaceState.CONFIG_LOCKED)
    size = len(rig.interface.report(SESSION).encode())
    offset = size if offset == 81 else offset
    request = GetDeviceInterfaceReport(function_id=FUNCTION, offset=offset, length=length)
    assert error_of(rig, request.encode()) == ErrorCode.INVALID_REQUEST


STATE = GetDeviceInterfaceState(function_id=FUNCTION).encode()


@pytest.mark.parametrize(
    ("message", "code"),
    [
        (b"", ErrorCode.INVALID_REQUEST),
        (STATE[:15], ErrorCode.INVALID_REQUEST),
        (STATE + b"\0", ErrorCode.INVALID_REQUEST),
        (b"\x11" + STATE[1:] + b"\0", ErrorCode.INVALID_REQUEST),
        (b"\x11" + STATE[1:4] + bytes(12), ErrorCode.VERSION_MISMATCH),
        (b"\x20\x81" + STATE[2:], ErrorCode.VERSION_MISMATCH),
        (STATE[:4] + bytes(12), ErrorCode.INVALID_INTERFACE),
        (b"\x10\x86" + bytes(46), ErrorCode.INVALID_INTERFACE),
        (b"\x10\x86" + STATE[2:] + bytes(32), ErrorCode.INVALID_INTERFACE_STATE),
        (b"\x10\x8c" + STATE[2:] + bytes(4), ErrorCode.UNSUPPORTED_REQUEST),
        (b"\x10\x05" + STATE[2:], ErrorCode.UNSUPPORTED_REQUEST),
        (b"\x10\x8b" + STATE[2:] + bytes(2), ErrorCode.UNSUPPORTED_REQUEST),
    ],
)
def test_refusals_in_the_order_size_version_interface_state(rig: Rig, message: bytes, code: ErrorCode) -> None:
    assert error_of(rig, message) == code


def test_an_unsupported_request_is_named_in_the_error_data(rig: Rig) -> None:
    answer = ask(rig, b"\x10\xc3" + STATE[2:])
    assert answer == TdispError(function_id=FUNCTION, code=ErrorCode.UNSUPPORTED_REQUEST, data=0xC3)


def test_get_version_is_answered_for_any_minor_version(rig: Rig) -> None:
    message = GetTdispVersion(function_id=FUNCTION).encode()
    assert ask(rig, b"\x13" + message[1:]) == messages.TdispVersion(function_id=FUNCTION, versions=(0x10,))


def test_reserved_bits_of_the_function_id_are_ignored_and_echoed(rig: Rig) -> None:
    answer = ask(rig, GetDeviceInterfaceState(function_id=0xFE05_BEEF).encode())
    assert answer == DeviceInterfaceState(function_id=0xFE05_BEEF, state=InterfaceState.CONFIG_UNLOCKED)


def test_another_session_reads_the_state_but_drives_nothing(rig: Rig) -> None:
    rig.bring_to(InterfaceState.CONFIG_LOCKED)
    assert isinstance(ask(rig, STATE, OTHER), DeviceInterfaceState)
    for message in (
        b"\x10\x86" + STATE[2:] + rig.nonce,
        b"\x10\x87" + STATE[2:],
        GetDeviceInterfaceReport(function_id=FUNCTION, offset=0, length=64).encode(),
    ):
        assert error_of(rig, message, OTHER) == ErrorCode.INVALID_REQUEST
    assert rig.interface.state is InterfaceState.CONFIG_LOCKED
    rig.responder.session_ended(SESSION)
    assert rig.interface.state is InterfaceState.ERROR


def test_vendor_messages_go_to_their_handler(rig: Rig, connect: Callable[..., None]) -> None:
    responder = TdispResponder(
        {FUNCTION: rig.interface},
        SeededEntropy(b"x"),
        capabilities=DsmCapabilities(optional=frozenset({MessageType.VDM_REQUEST})),
        vdm=lambda request, session: VdmResponse(
            function_id=request.function_id, registry_id=0, vendor_id=request.vendor_id, data=request.data[::-1]
        ),
    )
    connect(lambda message: responder.respond(SESSION, message, 0.0))
    request = VdmRequest(function_id=FUNCTION, registry_id=0, vendor_id=b"\x86\x80", data=b"abc")
    assert run(flows.vendor_defined(request)).data == b"cba"


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_no_message_makes_the_responder_raise(make_rig: Callable[..., Rig], data: st.DataObject) -> None:
    rig = make_rig()
    for _ in range(3):
        cls = data.draw(st.sampled_from(list(BY_CODE.values())))
        valid = replace(data.draw(records(cls, NO_FACTS)), function_id=FUNCTION)
        message = data.draw(st.just(valid.encode()) | mutated(valid.encode()))
        decode_message(rig.responder.respond(SESSION, message, 0.0))


# -- a device that answers wrongly -----------------------------------------------------------------------------------


def header(code: int, function_id: int = FUNCTION, version: int = 0x10) -> bytes:
    return bytes([version, code, 0, 0]) + function_id.to_bytes(4, "little") + bytes(8)


@pytest.mark.parametrize(
    ("answer", "error", "text"),
    [
        (b"", DecodeError, "version"),
        (header(0x05), DecodeError, "state"),
        (header(0x05) + b"\x09", DecodeError, "reserved state"),
        (header(0x05) + b"\0\0", DecodeError, "trailing"),
        (header(0x05, version=0x11) + b"\0", PeerViolation, "version 0x11"),
        (header(0x05, function_id=1) + b"\0", PeerViolation, "interface 0x1, not 0xbeef"),
        (header(0x07), PeerViolation, "STOP_INTERFACE_RESPONSE answers GET_DEVICE_INTERFACE_STATE"),
        (header(0x60), PeerViolation, "0x60 answers"),
        (header(0x7F) + bytes(8), ErrorResponse, "error 0x0"),
        (header(0x7F) + b"\x03" + bytes(7), ErrorResponse, "BUSY"),
    ],
)
def test_a_wrong_answer_is_named(
    connect: Callable[..., None], answer: bytes, error: type[Exception], text: str
) -> None:
    connect(lambda message: answer)
    with pytest.raises(error, match=text):
        run(flows.get_state(FUNCTION))


def test_another_protocol_does_not_answer_tdisp(monkeypatch: pytest.MonkeyPatch) -> None:
    def answer(standard_id: int, vendor_id: bytes, payload: bytes) -> Flow[bytes]:
        return b"\x00" + header(0x05) + b"\0"
        yield

    monkeypatch.setattr(flows, "vendor_exchange", answer)
    with pytest.raises(PeerViolation, match="protocol"):
        run(flows.get_state(FUNCTION))


def test_no_common_version(connect: Callable[..., None]) -> None:
    connect(lambda message: header(0x01) + b"\x01\x20")
    with pytest.raises(Incompatible, match="0x20"):
        run(flows.get_version(FUNCTION))


def portion(size: int, remainder: int) -> bytes:
    return header(0x04) + size.to_bytes(2, "little") + remainder.to_bytes(2, "little") + bytes(size)


@pytest.mark.parametrize(
    "portions",
    [
        [portion(0, 10)],
        [portion(0x401, 0)],
        [portion(4, 10), portion(4, 10)],
        [portion(4, 10), portion(0, 10)],
        [portion(0x400, 0xFFFF)],
    ],
    ids=["empty", "more than asked", "growing", "stuck", "too long"],
)
def test_an_endless_or_inconsistent_report_is_refused(connect: Callable[..., None], portions: list[bytes]) -> None:
    answers = iter(portions)
    connect(lambda message: next(answers))
    with pytest.raises(PeerViolation):
        run(flows.get_device_interface_report_bytes(FUNCTION))
