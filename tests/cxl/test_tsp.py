"""TSP: states x requests, the reference sequence, configurations beyond the capabilities, sessions, any bytes."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from strategies import mutated, records
from teeio.cxl.tsp import TSP_RULES, CxlTspResponder
from teeio.cxl.tsp_messages import (
    BY_CODE,
    Configuration,
    ConfigurationFeatures,
    ConfigurationReport,
    EncryptionAlgorithms,
    EncryptionFeatures,
    ErrorCode,
    ErrorResponse,
    GetTargetCapabilities,
    GetTargetConfiguration,
    GetTargetConfigurationReport,
    GetTargetTspVersion,
    Granularity,
    LockTargetConfiguration,
    MemoryRange,
    Message,
    Opcode,
    SetTargetConfiguration,
    SetTargetTeState,
    TeStateFeatures,
    TspState,
    decode_message,
)
from teeio.errors import DecodeError
from teeio.observe import Event, Refused, StateChanged
from teeio.wire import NO_FACTS

SESSION, OTHER = 0x11, 0x22
GRANULARITIES = (Granularity(length_index=0), *(Granularity() for _ in range(7)))
CONFIGURATION: dict[str, Any] = {
    "encryption_features": EncryptionFeatures.ENCRYPTION,
    "encryption_algorithm": EncryptionAlgorithms.AES_XTS_256,
    "te_state_features": TeStateFeatures(0x16),
    "configuration_features": ConfigurationFeatures.LOCKED_TARGET_FW_UPDATE,
    "ib_granularities": GRANULARITIES,
}
RANGE = MemoryRange(start=0x100000, length=0x10000)
REQUESTS: dict[Opcode, Message] = {
    Opcode.GET_TARGET_TSP_VERSION: GetTargetTspVersion(),
    Opcode.GET_TARGET_CAPABILITIES: GetTargetCapabilities(),
    Opcode.SET_TARGET_CONFIGURATION: SetTargetConfiguration(**CONFIGURATION),
    Opcode.GET_TARGET_CONFIGURATION: GetTargetConfiguration(),
    Opcode.GET_TARGET_CONFIGURATION_REPORT: GetTargetConfigurationReport(offset=0, length=0x200),
    Opcode.LOCK_TARGET_CONFIGURATION: LockTargetConfiguration(),
    Opcode.SET_TARGET_TE_STATE: SetTargetTeState(te_state=1, ranges=(RANGE,)),
}


def ask(responder: CxlTspResponder, message: Message | bytes, session: int = SESSION) -> Any:
    data = message if isinstance(message, bytes) else message.encode()
    return decode_message(responder.respond(session, data, 0.0))


def refused(responder: CxlTspResponder, message: Message | bytes, session: int = SESSION) -> ErrorCode:
    answer = ask(responder, message, session)
    assert isinstance(answer, ErrorResponse), answer
    return answer.code


@pytest.mark.parametrize("locked", [False, True])
@pytest.mark.parametrize("opcode", list(TSP_RULES))
def test_every_state_and_request(opcode: Opcode, locked: bool) -> None:
    responder = CxlTspResponder()
    if locked:
        ask(responder, LockTargetConfiguration())
    rule = TSP_RULES[opcode]
    if responder.state in rule.legal:
        assert opcode & 0x7F == ask(responder, REQUESTS[opcode]).CODE
    else:
        assert refused(responder, REQUESTS[opcode]) is rule.error


@pytest.mark.parametrize("opcode", list(TSP_RULES))
def test_other_sessions_only_read_version_and_capabilities(opcode: Opcode) -> None:
    responder = CxlTspResponder()
    ask(responder, GetTargetTspVersion())
    if TSP_RULES[opcode].primary_only:
        assert refused(responder, REQUESTS[opcode], OTHER) is ErrorCode.NO_PRIVILEGE
    else:
        assert opcode & 0x7F == ask(responder, REQUESTS[opcode], OTHER).CODE


def test_the_sequence_of_the_reference_requester() -> None:
    seen: list[Event] = []
    responder = CxlTspResponder(observer=seen.append)
    assert ask(responder, GetTargetTspVersion()).versions == (0x10,)
    capabilities = ask(responder, GetTargetCapabilities())
    assert capabilities.number_of_secondary_sessions == 0
    assert not capabilities.configuration_features & ConfigurationFeatures.SUPPORTS_ADDITIONAL_SPDM_SESSIONS
    ask(responder, SetTargetConfiguration(**CONFIGURATION))
    current = ask(responder, GetTargetConfiguration())
    assert {name: getattr(current, name) for name in CONFIGURATION} == CONFIGURATION
    assert current.state is TspState.CONFIG_UNLOCKED
    report = ask(responder, GetTargetConfigurationReport(offset=0, length=0x200))
    assert report.remainder_length == 0
    assert ConfigurationReport.decode(report.portion) == ConfigurationReport(valid_fields=0)
    ask(responder, LockTargetConfiguration())
    assert ask(responder, GetTargetConfiguration()).state is TspState.CONFIG_LOCKED
    for te_state in (1, 0):
        ask(responder, SetTargetTeState(te_state=te_state, ranges=(RANGE,)))
        assert responder.te_states == {(0x100000, 0x10000): te_state}
    assert seen == [StateChanged("CXL target", "CONFIG_UNLOCKED", "CONFIG_LOCKED", "LOCK_TARGET_CONFIGURATION")]


def test_the_end_of_the_primary_session_leaves_nothing() -> None:
    responder = CxlTspResponder()
    ask(responder, SetTargetConfiguration(**CONFIGURATION))
    ask(responder, LockTargetConfiguration())
    ask(responder, REQUESTS[Opcode.SET_TARGET_TE_STATE])
    responder.session_ended(OTHER)
    assert responder.state is TspState.CONFIG_LOCKED
    responder.session_ended(SESSION)
    assert responder.state is TspState.CONFIG_UNLOCKED
    assert responder.te_states == {}
    current = ask(responder, GetTargetConfiguration(), OTHER)
    assert current.encryption_features == Configuration().encryption_features
    assert ask(responder, SetTargetConfiguration(**CONFIGURATION), OTHER).CODE == 0x03


@pytest.mark.parametrize(
    "change",
    [
        {"encryption_features": EncryptionFeatures.ENCRYPTION | EncryptionFeatures.CKID_BASED},
        {"encryption_features": EncryptionFeatures(0)},
        {"encryption_algorithm": EncryptionAlgorithms.AES_XTS_128},
        {"encryption_algorithm": EncryptionAlgorithms.AES_XTS_128 | EncryptionAlgorithms.AES_XTS_256},
        {"encryption_algorithm": EncryptionAlgorithms(0)},
        {"te_state_features": TeStateFeatures.WRITE_ACCESS_CONTROL},
        {"oob_granularity": 1},
        {"number_of_ckids": 2},
        {"ib_granularities": (Granularity(length_index=8),) * 8},
        {"ib_granularities": (Granularity(length_index=1),) * 8},
        {"validity_flags": 1},
    ],
)
def test_a_configuration_must_fit_the_capabilities(change: dict[str, Any]) -> None:
    responder = CxlTspResponder()
    assert refused(responder, SetTargetConfiguration(**{**CONFIGURATION, **change})) is ErrorCode.INVALID_REQUEST


@pytest.mark.parametrize(
    "ranges",
    [
        (),
        (RANGE,) * 33,
        (MemoryRange(start=0, length=0),),
        (MemoryRange(start=(1 << 64) - 1, length=2),),
    ],
    ids=["none", "33", "empty", "beyond"],
)
def test_ranges_must_be_sound(ranges: tuple[MemoryRange, ...]) -> None:
    responder = CxlTspResponder()
    ask(responder, LockTargetConfiguration())
    assert refused(responder, SetTargetTeState(te_state=1, ranges=ranges)) is ErrorCode.INVALID_REQUEST
    assert responder.te_states == {}


def test_the_number_of_ranges_kept_is_bounded() -> None:
    responder = CxlTspResponder(range_limit=2)
    ask(responder, LockTargetConfiguration())
    three = tuple(MemoryRange(start=number << 20, length=64) for number in range(3))
    assert refused(responder, SetTargetTeState(te_state=1, ranges=three)) is ErrorCode.UNSPECIFIED
    ask(responder, SetTargetTeState(te_state=1, ranges=three[:2]))
    assert len(responder.te_states) == 2


def test_the_report_in_portions() -> None:
    responder = CxlTspResponder()
    first = ask(responder, GetTargetConfigurationReport(offset=0, length=3))
    rest = ask(responder, GetTargetConfigurationReport(offset=3, length=first.remainder_length))
    assert (len(first.portion), first.remainder_length, len(rest.portion), rest.remainder_length) == (3, 1, 1, 0)
    for offset, length in ((4, 1), (0, 0)):
        request = GetTargetConfigurationReport(offset=offset, length=length)
        assert refused(responder, request) is ErrorCode.INVALID_REQUEST


@pytest.mark.parametrize(
    ("message", "code"),
    [
        (b"", ErrorCode.INVALID_REQUEST),
        (b"\x10", ErrorCode.INVALID_REQUEST),
        (b"\x10\x81\0", ErrorCode.INVALID_REQUEST),
        (b"\x10\x81\0\0\0", ErrorCode.INVALID_REQUEST),
        (b"\x11\x81\0\0", ErrorCode.VERSION_MISMATCH),
        (b"\x10\x87\0\0", ErrorCode.UNSUPPORTED_REQUEST),
        (b"\x10\x01\0\0\x01\x10", ErrorCode.UNSUPPORTED_REQUEST),
    ],
)
def test_malformed_and_unknown_requests(message: bytes, code: ErrorCode) -> None:
    seen: list[Event] = []
    assert refused(CxlTspResponder(observer=seen.append), message) is code
    assert isinstance(seen[-1], Refused)


@pytest.mark.parametrize("cls", list(BY_CODE.values()), ids=lambda cls: cls.__name__)
@settings(max_examples=10, deadline=None)
@given(data=st.data())
def test_round_trip(cls: type[Message], data: st.DataObject) -> None:
    value = data.draw(records(cls, NO_FACTS))
    assert decode_message(value.encode()) == value


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_no_message_makes_the_responder_raise(data: st.DataObject) -> None:
    responder = CxlTspResponder()
    for _ in range(3):
        cls = data.draw(st.sampled_from(list(BY_CODE.values())))
        message = data.draw(mutated(data.draw(records(cls, NO_FACTS)).encode()))
        decode_message(responder.respond(SESSION, message, 0.0))
        with suppress(DecodeError):
            decode_message(message)
