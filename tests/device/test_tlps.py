"""TLPs at the device: what it takes and what it sends, in every state, over a link with IDE."""

from __future__ import annotations

from typing import Any

import pytest

from teeio.accelerator_interface import AcceleratorRegisters
from teeio.device.models.model import DmaError
from teeio.observe import Refused
from teeio.pcie.capabilities.aer import AerCapability, Uncorrectable
from teeio.pcie.seams import Reply
from teeio.pcie.tlp import CompletionStatus, memory_write
from teeio.tdisp.messages import InterfaceState, LockFlags, MmioRange, RangeAttributes
from teeio.tdisp.states import Event
from teeio.tdisp.tlp_rules import (
    Access,
    Handling,
    RequesterTlp,
    Sending,
    Target,
    completer_rule,
    requester_rule,
)

UNLOCKED, LOCKED, RUN, ERROR = InterfaceState
SESSION, STREAM = 0x11, 5
MSIX = LockFlags.LOCK_MSIX
MAGIC = AcceleratorRegisters.IDENTITY.reset_value.to_bytes(4, "little")
TARGETS = {Target.TEE: 0, Target.LOCKED_MSIX: 2, Target.NON_TEE: 4}
"""A BAR that holds each kind of MMIO."""
ACCESSES = {Access.TRUSTED_BOUND: (True, STREAM), Access.TRUSTED_ELSEWHERE: (True, 9), Access.UNTRUSTED: (False, None)}


def states() -> Any:
    return pytest.mark.parametrize("state", list(InterfaceState), ids=lambda state: state.name)


# -- as completer


@states()
@pytest.mark.parametrize("access", Access, ids=lambda access: access.name)
@pytest.mark.parametrize("target", Target, ids=lambda target: target.name)
@pytest.mark.parametrize("which", ["pf", "vf"])
def test_a_request_is_handled_as_the_table_says(
    protected: Any, which: str, target: Target, access: Access, state: InterfaceState
) -> None:
    tdi = protected.bring(protected.pf if which == "pf" else protected.vf(1), state, MSIX)
    function, bar, how = protected.address(tdi), TARGETS[target], ACCESSES[access]
    # Before the lock the MSI-X table is the host's, so non-TEE.
    kind = Target.NON_TEE if state is UNLOCKED and target is Target.LOCKED_MSIX else target
    wanted = completer_rule(kind, access, state) is Handling.HANDLE
    assert protected.device.bar_read(function, bar, 0, 4, *how).ok is wanted
    assert (protected.device.bar_write(function, bar, 8, b"\1\0\0\0", *how) is CompletionStatus.SC) is wanted


@states()
@pytest.mark.parametrize("t_bit", [False, True])
def test_over_the_link_only_the_tvm_reaches_tee_memory(protected: Any, state: InterfaceState, t_bit: bool) -> None:
    tdi = protected.bring(protected.vf(0), state)
    reply = protected.fabric.memory_read(protected.bar(tdi, 0), 4, t_bit)
    if completer_rule(Target.TEE, Access.TRUSTED_BOUND if t_bit else Access.UNTRUSTED, state) is Handling.HANDLE:
        assert reply == Reply(CompletionStatus.SC, MAGIC)
    else:
        assert reply.status is CompletionStatus.UR
        assert not reply.data


def test_a_refused_write_leaves_no_trace_and_is_reported(protected: Any) -> None:
    tdi = protected.bring(protected.pf, RUN)
    address = protected.bar(tdi, 0) + 0x1000
    protected.fabric.memory_write(address, b"evil", False)
    assert protected.fabric.memory_read(address, 4, True).data == bytes(4)
    assert protected.device.pfs[0].space.need(AerCapability).recorded(Uncorrectable.UNSUPPORTED_REQUEST)
    assert any(isinstance(event, Refused) and "BAR 0" in event.what for event in protected.events)


def test_a_moved_bar_keeps_its_kind(protected: Any) -> None:
    """Moving the register BAR to where the telemetry was must not make the registers readable."""
    tdi = protected.bring(protected.pf, RUN)
    protected.fabric.memory_write(protected.bar(tdi, 0) + 0x1000, b"secret!!", True)
    header, place = tdi.function.header, protected.bar(tdi, 4) & ~0xFFFF
    header.place(4, place + 0x10_0000)
    header.place(0, place)
    assert tdi.state is ERROR
    for t_bit in (False, True):
        assert protected.fabric.memory_read(place + 0x1000, 8, t_bit).status is CompletionStatus.UR


def test_an_access_across_pages_needs_both(protected: Any) -> None:
    tdi = protected.bring(protected.pf, RUN)
    report = tdi.interface.report(SESSION)
    memory = report.ranges[1]
    wanted = MmioRange(
        first_page=memory.first_page,
        pages=memory.pages,
        range_id=0,
        attributes=memory.attributes | RangeAttributes.IS_NON_TEE_MEM,
    )
    tdi.interface.set_mmio_attribute(SESSION, wanted)
    function = protected.address(tdi)
    assert protected.device.bar_read(function, 0, 0x1000, 8, False, None).ok
    assert not protected.device.bar_read(function, 0, 0xFFC, 8, False, None).ok
    assert protected.device.bar_read(function, 0, 0xFFC, 8, True, STREAM).data[:4] == bytes(4)


@pytest.mark.parametrize(
    ("bar", "offset", "size"), [(0, 0xFFFF, 2), (0, 0x10000, 1), (0, -1, 1), (1, 0, 4), (6, 0, 4), (0, 0, 4097)]
)
def test_what_lies_outside_a_bar_is_unsupported(rig: Any, bar: int, offset: int, size: int) -> None:
    function = rig.address(rig.pf)
    assert rig.device.bar_read(function, bar, offset, size, False, None).status is CompletionStatus.UR
    assert rig.device.bar_write(function, bar, offset, bytes(size), False, None) is CompletionStatus.UR


@pytest.mark.parametrize(("t_bit", "state"), [(True, ERROR), (False, RUN)])
def test_a_poisoned_write_hurts_only_where_it_would_have_been_taken(
    protected: Any, t_bit: bool, state: InterfaceState
) -> None:
    tdi = protected.bring(protected.pf, RUN)
    tlp = memory_write(protected.root.function.requester_id, 0, protected.bar(tdi, 0) + 0x1000, b"spoilt!!")
    header = bytearray(tlp.header)
    header[2] |= 0x40
    protected.root.ide.transmit(tlp._replace(header=bytes(header)), t_bit)
    assert tdi.state is state
    assert bytes(tdi.function.model.memory[:8]) == bytes(8)
    assert protected.device.pfs[0].space.need(AerCapability).recorded(Uncorrectable.POISONED_TLP)


# -- as requester


@states()
def test_memory_requests_go_out_as_the_table_says(protected: Any, state: InterfaceState) -> None:
    tdi = protected.bring(protected.vf(2), state)
    bus = protected.device._buses[tdi.function]
    sending = requester_rule(RequesterTlp.MEMORY, state)
    if sending is Sending.FORBIDDEN:
        for attempt in (lambda: bus.read(0x1000, 16), lambda: bus.write(0x1000, b"x" * 16)):
            with pytest.raises(DmaError):
                attempt()
        assert protected.host.asked == []
        return
    bus.write(0x1000, b"payload " * 2)
    assert bus.read(0x1000, 16) == b"payload " * 2
    requester = protected.address(tdi).requester_id
    assert {(who, t, stream) for who, _, t, stream in protected.host.asked} == {
        (requester, sending is Sending.TRUSTED, STREAM)
    }


@pytest.mark.parametrize("locked_table", [False, True])
@states()
def test_interrupts_go_out_as_the_table_says(protected: Any, state: InterfaceState, locked_table: bool) -> None:
    tdi = protected.vf(1)
    tdi.function.msix.set(tdi.function.msix.CONTROL, enable=1)
    tdi.function.msix.table.write(16, 16, 0x2000 | 0x77 << 64)
    protected.bring(tdi, state, LockFlags.LOCK_MSIX if locked_table else LockFlags.NONE)
    protected.device._buses[tdi.function].interrupt(1)
    kind = RequesterTlp.LOCKED_MSIX if locked_table and state is not UNLOCKED else RequesterTlp.MSIX
    sending = requester_rule(kind, state)
    asked = (
        []
        if sending is Sending.FORBIDDEN
        else [(protected.address(tdi).requester_id, 0x2000, sending is Sending.TRUSTED, STREAM)]
    )
    assert protected.host.asked == asked
    assert protected.host.memory[0x2000:0x2004] == (b"\x77\0\0\0" if asked else bytes(4))


def test_private_memory_is_reached_in_run_only(protected: Any) -> None:
    tdi = protected.pf
    bus = protected.device._buses[tdi.function]
    with pytest.raises(DmaError, match="UR"):
        bus.read(0x90000, 64)
    assert tdi.state is UNLOCKED
    protected.bring(tdi, RUN)
    assert bus.read(0x90000, 64) == bytes(64)


def test_a_failed_request_with_trust_is_the_end_of_it(protected: Any) -> None:
    tdi = protected.bring(protected.pf, RUN)
    with pytest.raises(DmaError, match="UR"):
        protected.device._buses[tdi.function].read(0x200000, 4)
    assert tdi.state is ERROR
    assert protected.causes()[-1] == Event.REQUEST_FAILED.value


def test_a_lost_completion_is_the_end_of_it(protected: Any) -> None:
    tdi = protected.bring(protected.pf, RUN)
    protected.link.tamper = lambda frame, way: None if way.value == "downstream" else frame
    with pytest.raises(DmaError, match="TIMEOUT"):
        protected.device._buses[tdi.function].read(0x1000, 4)
    assert tdi.state is ERROR


def test_poisoned_data_are_not_taken(rig: Any) -> None:
    def spoil(frame: bytes, way: Any) -> bytes:
        return frame[:2] + bytes([frame[2] | 0x40]) + frame[3:] if frame[0] == 0x4A else frame

    rig.link.tamper = spoil
    with pytest.raises(DmaError, match="CA"):
        rig.device._buses[rig.pf.function].read(0x1000, 64)


def test_a_transfer_ends_where_the_state_does(protected: Any) -> None:
    """The first piece is under way when the TDI goes to ERROR: its data does not count, and no second piece leaves."""
    tdi = protected.bring(protected.pf, RUN)
    protected.host.meanwhile = lambda: tdi.interface.happen(Event.TRUST_CHANGED)
    with pytest.raises(DmaError, match="left RUN"):
        protected.device._buses[tdi.function].read(0x1000, 4096)
    assert len(protected.host.asked) == 1


def test_transfers_are_cut_at_the_sizes_that_the_host_set(protected: Any) -> None:
    express = protected.device.pfs[0].express
    express.set(express.DEVICE_CONTROL, max_payload=0, max_read_request=1)
    bus = protected.device._buses[protected.vf(0).function]
    data = bytes(range(256)) * 3
    bus.write(0x1FF0, data)
    assert [address for _, address, _, _ in protected.host.asked] == [
        0x1FF0,
        0x2000,
        0x2080,
        0x2100,
        0x2180,
        0x2200,
        0x2280,
    ]
    protected.host.asked.clear()
    assert bus.read(0x1FF0, 768) == data
    assert [address for _, address, _, _ in protected.host.asked] == [0x1FF0, 0x2000, 0x2100, 0x2200]


@pytest.mark.parametrize("span", [(-8, 4), ((1 << 64) - 4, 8), (0, -1)])
def test_addresses_beyond_64_bits_are_refused(rig: Any, span: tuple[int, int]) -> None:
    with pytest.raises(DmaError):
        rig.device._buses[rig.pf.function].read(*span)


def test_without_bus_master_nothing_leaves(rig: Any) -> None:
    tdi = rig.pf
    tdi.function.msix.set(tdi.function.msix.CONTROL, enable=1)
    tdi.function.msix.table.write(0, 16, 0x2000)
    tdi.function.header.set(tdi.function.header.COMMAND, bus_master=0)
    bus = rig.device._buses[tdi.function]
    with pytest.raises(DmaError, match="Bus Master"):
        bus.write(0, b"x")
    bus.interrupt(0)
    assert rig.host.asked == []


def test_a_masked_interrupt_waits_for_its_mask(rig: Any) -> None:
    tdi = rig.vf(0)
    tdi.function.msix.set(tdi.function.msix.CONTROL, enable=1)
    tdi.function.msix.table.write(0, 8, 0x2000)
    rig.device._buses[tdi.function].interrupt(0)
    assert rig.host.asked == []
    assert rig.fabric.memory_read(rig.bar(tdi, 2) + 0x1000, 8).data == b"\1" + bytes(7)
    rig.fabric.memory_write(rig.bar(tdi, 2) + 12, bytes(4))
    assert [address for _, address, _, _ in rig.host.asked] == [0x2000]


@pytest.mark.parametrize("which", ["pf", "vf"])
def test_a_pending_interrupt_that_is_unmasked_waits_for_bus_master_enable(rig: Any, which: str) -> None:
    tdi = rig.pf if which == "pf" else rig.vf(0)
    command, function = tdi.function.header.COMMAND, rig.address(tdi)
    tdi.function.msix.set(tdi.function.msix.CONTROL, enable=1)
    tdi.function.msix.table.write(0, 8, 0x2000)
    rig.device._buses[tdi.function].interrupt(0)
    before = rig.device.config_read(function, command.offset, command.size)
    rig.device.config_write(function, command.offset, command.size, command.put(before, bus_master=0))
    rig.fabric.memory_write(rig.bar(tdi, 2) + 12, bytes(4))
    assert rig.host.asked == []
    rig.device.config_write(function, command.offset, command.size, before)
    assert [address for _, address, _, _ in rig.host.asked] == [0x2000]


def test_interrupts_of_the_time_before_the_lock_are_dropped(protected: Any) -> None:
    tdi = protected.pf
    tdi.function.msix.set(tdi.function.msix.CONTROL, enable=1)
    protected.device._buses[tdi.function].interrupt(0)
    protected.bring(tdi, RUN)
    tdi.function.msix.table.write(0, 16, 0x2000)
    protected.device._buses[tdi.function].release_interrupts()
    assert protected.host.asked == []
