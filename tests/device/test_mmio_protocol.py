"""What TDISP messages change in how a device's memory answers: SET_MMIO_ATTRIBUTE, LOCK_MSIX, STOP."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from teeio.observe import Refused
from teeio.pcie.capabilities.msix import MsixCapability
from teeio.pcie.tlp import CompletionStatus
from teeio.tdisp.messages import (
    PAGE_SIZE,
    DeviceInterfaceReport,
    DeviceInterfaceReportResponse,
    ErrorCode,
    GetDeviceInterfaceReport,
    InterfaceState,
    LockFlags,
    LockInterfaceRequest,
    LockInterfaceResponse,
    LockParameters,
    MessageType,
    MmioRange,
    RangeAttributes,
    Request,
    SetMmioAttributeRequest,
    SetMmioAttributeResponse,
    StartInterfaceRequest,
    StopInterfaceRequest,
    TdispError,
    decode_message,
)
from teeio.tdisp.responder import DsmCapabilities
from teeio.tdisp.states import Event

UNLOCKED, LOCKED, RUN, ERROR = InterfaceState
SESSION, STREAM, NOW, ENTRY = 0x11, 5, 1.8e9, 16
FLAGS = LockFlags.NO_FW_UPDATE | LockFlags.LOCK_MSIX
OFFSET = 0x4_0000_0000
NON_TEE, UPDATABLE = RangeAttributes.IS_NON_TEE_MEM, RangeAttributes.IS_MEM_ATTR_UPDATABLE


class Bench:
    """A VF's TDI, driven by TDISP messages as its TSM would, and read over the link as host and TVM would."""

    def __init__(self, make_rig: Callable[..., Any]) -> None:
        optional = frozenset({MessageType.SET_MMIO_ATTRIBUTE_REQUEST})
        self.rig = make_rig(capabilities=DsmCapabilities(optional=optional), lock_flags=FLAGS).protect()
        self.tdi = self.rig.vf(0)
        self.function_id = self.rig.address(self.tdi).requester_id
        self.nonce = bytes(32)

    def ask(self, request: Request[Any]) -> Any:
        answer = self.rig.device.dsm.protocols[0].respond(SESSION, request.encode(), NOW)
        return decode_message(answer)

    def lock(self, flags: LockFlags = LockFlags.NONE) -> Any:
        parameters = LockParameters(flags=flags, default_stream_id=STREAM, mmio_reporting_offset=OFFSET)
        answer = self.ask(LockInterfaceRequest(function_id=self.function_id, parameters=parameters))
        if isinstance(answer, LockInterfaceResponse):
            self.nonce = answer.nonce
        return answer

    def start(self) -> None:
        self.ask(StartInterfaceRequest(function_id=self.function_id, nonce=self.nonce))
        assert self.tdi.state is RUN

    def stop(self) -> None:
        self.ask(StopInterfaceRequest(function_id=self.function_id))
        assert self.tdi.state is UNLOCKED

    def run(self, flags: LockFlags = LockFlags.NONE) -> Bench:
        self.lock(flags)
        self.start()
        return self

    def report(self) -> DeviceInterfaceReport:
        asked = GetDeviceInterfaceReport(function_id=self.function_id, offset=0, length=4096)
        answer = self.ask(asked)
        assert isinstance(answer, DeviceInterfaceReportResponse)
        assert answer.remainder_length == 0
        return DeviceInterfaceReport.decode(answer.portion)

    def set(self, item: MmioRange, attributes: RangeAttributes, **fields: int) -> Any:
        wanted = MmioRange(
            **{"first_page": item.first_page, "pages": item.pages, "range_id": item.range_id, **fields},
            attributes=attributes,
        )
        return self.ask(SetMmioAttributeRequest(function_id=self.function_id, range=wanted))

    def may(self, item: MmioRange) -> tuple[bool, bool]:
        """Say whether the host (T=0) and the TVM (T=1) can read a reported range, at both ends of it."""
        first = item.first_page * PAGE_SIZE - OFFSET
        last = first + item.pages * PAGE_SIZE - 4
        found = [
            {self.rig.fabric.memory_read(at, 4, t_bit).status is CompletionStatus.SC for at in (first, last)}
            for t_bit in (False, True)
        ]
        assert all(len(one) == 1 for one in found)
        return found[0].pop(), found[1].pop()


def test_the_attribute_counts_at_once_and_until_stop(make_rig: Callable[..., Any]) -> None:
    bench = Bench(make_rig).run()
    before = bench.report()
    item = next(one for one in before.ranges if one.attributes & UPDATABLE)
    assert bench.may(item) == (False, True)
    assert isinstance(bench.set(item, NON_TEE), SetMmioAttributeResponse)
    assert bench.may(item) == (True, True)
    assert isinstance(bench.set(item, RangeAttributes.NONE), SetMmioAttributeResponse)
    assert bench.may(item) == (False, True)
    bench.set(item, NON_TEE)
    # The report keeps what was true when the TDI was locked (11.3.11).
    assert bench.report() == before
    bench.stop()
    bench.run()
    assert bench.may(item) == (False, True)


def test_what_was_opened_is_scrubbed_before_the_host_has_all_of_it(make_rig: Callable[..., Any]) -> None:
    bench = Bench(make_rig).run()
    item = next(one for one in bench.report().ranges if one.attributes & UPDATABLE)
    bench.rig.fabric.memory_write(item.first_page * PAGE_SIZE - OFFSET, b"of the TVM", True)
    bench.set(item, NON_TEE)
    assert bench.rig.fabric.memory_read(item.first_page * PAGE_SIZE - OFFSET, 10).data == b"of the TVM"
    bench.stop()
    assert bench.rig.fabric.memory_read(item.first_page * PAGE_SIZE - OFFSET, 10).data == bytes(10)


@pytest.mark.parametrize("flags", [LockFlags.NONE, LockFlags.LOCK_MSIX])
def test_only_updatable_ranges_change(make_rig: Callable[..., Any], flags: LockFlags) -> None:
    bench = Bench(make_rig).run(flags)
    ranges = bench.report().ranges
    for item in ranges:
        before = bench.may(item)
        answer = bench.set(item, NON_TEE)
        if item.attributes & UPDATABLE:
            assert isinstance(answer, SetMmioAttributeResponse)
        else:
            assert isinstance(answer, TdispError)
            assert answer.code == ErrorCode.INVALID_REQUEST
            assert bench.may(item) == before
    assert bench.tdi.state is RUN


@pytest.mark.parametrize(
    "fields",
    [{"first_page": 1}, {"pages": 1}, {"range_id": 3}, {"attributes": 1}, {"attributes": 2}],
    ids=str,
)
def test_a_range_that_is_not_the_reported_one_is_refused(make_rig: Callable[..., Any], fields: dict[str, int]) -> None:
    bench = Bench(make_rig).run()
    item = next(one for one in bench.report().ranges if one.attributes & UPDATABLE)
    attributes = NON_TEE | RangeAttributes(fields.get("attributes", 0))
    moved = {name: getattr(item, name) + value for name, value in fields.items() if name != "attributes"}
    answer = bench.set(item, attributes, **moved)
    assert isinstance(answer, TdispError)
    assert answer.code == ErrorCode.INVALID_REQUEST
    assert bench.may(item) == (False, True)


@pytest.mark.parametrize("state", [UNLOCKED, LOCKED, ERROR], ids=lambda state: state.name)
def test_outside_run_nothing_is_opened(make_rig: Callable[..., Any], state: InterfaceState) -> None:
    bench = Bench(make_rig)
    bench.lock()
    item = next(one for one in bench.report().ranges if one.attributes & UPDATABLE)
    if state is UNLOCKED:
        bench.stop()
    if state is ERROR:
        bench.tdi.interface.happen(Event.TRUST_CHANGED)
    before = bench.may(item)
    answer = bench.set(item, NON_TEE)
    assert isinstance(answer, TdispError)
    assert answer.code == ErrorCode.INVALID_INTERFACE_STATE
    assert bench.may(item) == before
    assert bench.tdi.state is state


# -- MSI-X


@pytest.mark.parametrize("flags", [LockFlags.NONE, LockFlags.LOCK_MSIX])
def test_the_report_says_whether_the_table_is_locked(make_rig: Callable[..., Any], flags: LockFlags) -> None:
    bench = Bench(make_rig)
    msix = bench.tdi.function.msix
    msix.set(MsixCapability.CONTROL, enable=1)
    bench.lock(flags)
    report = bench.report()
    attributes = [one.attributes for one in report.ranges if one.range_id == 2]
    if flags:
        assert attributes == [RangeAttributes.MSIX_TABLE, RangeAttributes.MSIX_PBA]
        assert report.msi_x_message_control == msix.value(MsixCapability.CONTROL)
    else:
        assert attributes == [NON_TEE, NON_TEE]
        assert report.msi_x_message_control == 0


def test_a_flag_that_the_device_lacks_locks_nothing(make_rig: Callable[..., Any]) -> None:
    bench = Bench(make_rig)
    answer = bench.lock(LockFlags.BIND_P2P)
    assert isinstance(answer, TdispError)
    assert bench.tdi.state is UNLOCKED


def test_a_locked_table_is_the_tvms_alone(make_rig: Callable[..., Any]) -> None:
    """The host can neither redirect an interrupt nor learn where it goes; what it tries is seen and reported."""
    bench = Bench(make_rig)
    bench.tdi.function.msix.set(MsixCapability.CONTROL, enable=1)
    entry = bench.rig.bar(bench.tdi, 2) + ENTRY
    write, read = bench.rig.fabric.memory_write, bench.rig.fabric.memory_read
    write(entry, (0x3000).to_bytes(8, "little") + (0x77).to_bytes(4, "little") + bytes(4))
    bench.lock(LockFlags.LOCK_MSIX)
    for state in (LOCKED, RUN):
        if state is RUN:
            bench.start()
        bench.rig.events.clear()
        write(entry, (0x5000).to_bytes(8, "little"))
        write(entry + 8, b"\xee\0\0\0")
        assert read(entry, 4).status is CompletionStatus.UR
        message = bench.tdi.function.msix.table.message(1)
        assert (message.address, message.data) == (0x3000, 0x77)
        assert len([one for one in bench.rig.events if isinstance(one, Refused) and "BAR 2" in one.what]) == 3
        assert bench.tdi.state is state
    # The TVM itself may change it, and mask vectors: that is no change behind its back.
    write(entry, (0x6000).to_bytes(8, "little"), True)
    assert read(entry, 4, True).data == b"\0\x60\0\0"
    assert bench.tdi.state is RUN
    bench.rig.device.bus_of(bench.rig.address(bench.tdi)).interrupt(1)
    assert bench.rig.host.asked[-1][1:] == (0x6000, True, STREAM)
    bench.stop()
    # What the host has back is as after a reset: nothing of the TVM, and every vector masked.
    assert read(entry, 16).data == bytes(12) + b"\1\0\0\0"


def test_a_table_that_is_not_locked_stays_the_hosts(make_rig: Callable[..., Any]) -> None:
    bench = Bench(make_rig).run()
    bench.tdi.function.msix.set(MsixCapability.CONTROL, enable=1)
    entry = bench.rig.bar(bench.tdi, 2) + ENTRY
    bench.rig.fabric.memory_write(entry, (0x3000).to_bytes(8, "little") + bytes(8))
    bench.rig.device.bus_of(bench.rig.address(bench.tdi)).interrupt(1)
    assert bench.rig.host.asked[-1][1:] == (0x3000, False, STREAM)
    assert bench.tdi.state is RUN
