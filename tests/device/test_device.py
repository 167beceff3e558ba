"""The device as a whole: functions, seams, resets."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from device.link_tap import Tap
from teeio.errors import Misuse
from teeio.pcie.address import Bdf
from teeio.pcie.capabilities.ats import AtsCapability
from teeio.pcie.capabilities.doe import DoeCapability
from teeio.pcie.capabilities.express import ExpressCapability
from teeio.pcie.capabilities.ide import IdeCapability
from teeio.pcie.capabilities.msix import MsixMessage
from teeio.pcie.ide import Direction, KeySet
from teeio.pcie.ide_port import ProgramResult
from teeio.pcie.seams import Reply, ResetKind
from teeio.pcie.tlp import CompletionStatus, SubStream
from teeio.pcie.translation import Translation
from teeio.spdm.state import Connection, Session
from teeio.tdisp.messages import InterfaceState, LockFlags
from teeio.tdisp.states import Event

UNLOCKED, LOCKED, RUN, ERROR = InterfaceState
PF, SESSION, STREAM = Bdf(0, 1, 0, 0), 0x11, 5


def test_vfs_are_present_while_they_are_enabled(make_rig: Callable[..., Any]) -> None:
    device = make_rig(vfs=2).device
    assert list(device.present().values()) == [*device.pfs, *device.vfs]
    device.pfs[0].sriov.write(8, 2, 0)
    assert list(device.present().values()) == device.pfs


@pytest.mark.parametrize("options", [{"vfs": 0}, {"vfs": 0, "functions": 2}, {"vfs": 1}])
def test_every_function_can_be_locked_and_run(make_rig: Callable[..., Any], options: dict[str, int]) -> None:
    rig = make_rig(**options).protect()
    for address in rig.device.present():
        tdi = rig.device.tdi(address)
        assert rig.bring(tdi, RUN).state is RUN
        assert rig.device.hosted()[address.requester_id] is tdi.interface


def test_a_whole_device_that_grows_vfs_is_no_longer_what_was_locked(make_rig: Callable[..., Any]) -> None:
    rig = make_rig(vfs=2).protect()
    sriov = rig.device.pfs[0].sriov
    sriov.write(8, 2, 0)
    tdi = rig.bring(rig.pf, RUN)
    rig.fabric.config_write(PF, sriov.base + 8, 2, 9)
    assert tdi.state is ERROR


def test_too_many_functions_are_refused(make_rig: Callable[..., Any]) -> None:
    with pytest.raises(Misuse, match="physical functions"):
        make_rig(functions=9)


def test_function_0_has_what_the_host_looks_for(rig: Any) -> None:
    space = rig.device.pfs[0].space
    assert {space.find(DoeCapability).ID, space.find(IdeCapability).ID} == {0x2E, 0x30}  # type: ignore[union-attr]
    express = space.need(ExpressCapability)
    assert express.get(express.DEVICE_CAPABILITIES, "tee_io")
    assert rig.fabric.config_read(PF, 0, 4) == 0x10A0_7EE0
    assert rig.fabric.config_read(Bdf(0, 1, 1, 0), 0, 4) == 0xFFFF_FFFF
    assert rig.device.config_read(Bdf(0, 1, 1, 0), 0x04, 2) is not None
    assert rig.device.config_read(Bdf(0, 1, 7, 0), 0, 4) is None
    assert not rig.device.config_write(Bdf(0, 1, 7, 0), 4, 2, 0)


# -- resets


def dirty(rig: Any, tdi: Any) -> None:
    """Leave a secret in the device, as a TVM would."""
    t_bit = tdi.state is RUN
    rig.fabric.memory_write(rig.bar(tdi, 0) + 0x1000, b"secret!!", t_bit)
    rig.fabric.memory_write(rig.bar(tdi, 0) + 0x10, (0x5000).to_bytes(8, "little"), t_bit)


def secrets(tdi: Any) -> list[bytes]:
    """Give what is left of it."""
    model = tdi.function.model
    return [found for found in (bytes(model.memory[:8]), model.read(0, 0x10, 8)) if any(found)]


@pytest.mark.parametrize("by", ["register", "seam"])
def test_flr_of_a_vf_hits_that_vf_alone(protected: Any, by: str) -> None:
    hit, spared = protected.bring(protected.vf(0), RUN), protected.bring(protected.vf(1), RUN)
    pf = protected.bring(protected.pf, LOCKED)
    for tdi in (hit, spared):
        dirty(protected, tdi)
    hit.function.msix.table.write(16, 16, 0x2000 | 0x77 << 64)
    if by == "register":
        at = hit.function.express.base + ExpressCapability.DEVICE_CONTROL.offset
        protected.fabric.config_write(protected.address(hit), at, 2, 0x8000)
    else:
        protected.device.reset(ResetKind.FUNCTION_LEVEL, protected.address(hit))
    assert (hit.state, spared.state, pf.state) == (ERROR, RUN, LOCKED)
    assert protected.causes()[-1] == Event.FLR.value
    assert not secrets(hit)
    assert secrets(spared)
    assert protected.device.port.ide.is_secure(STREAM)
    assert not hit.function.header.bus_master
    assert hit.function.msix.table.message(1).data == 0
    assert hit.function.msix.table.masked(1)


def test_flr_of_the_pf_hits_all_its_vfs_and_the_streams(protected: Any) -> None:
    tdis = [protected.bring(tdi, RUN) for tdi in protected.device.tdis.values()]
    for tdi in tdis:
        dirty(protected, tdi)
    at = protected.pf.function.express.base + ExpressCapability.DEVICE_CONTROL.offset
    protected.fabric.config_write(PF, at, 2, 0x8000)
    assert {tdi.state for tdi in tdis} == {ERROR}
    assert not any(secrets(tdi) for tdi in tdis)
    assert not protected.device.port.ide.keyed(STREAM)
    assert len(protected.device.present()) == 1
    assert protected.device.config_read(PF, 0x10, 4) & ~0xF == 0


def test_a_function_in_error_after_flr_waits_for_stop(protected: Any) -> None:
    tdi = protected.bring(protected.vf(0), RUN)
    protected.device.reset(ResetKind.FUNCTION_LEVEL, protected.address(tdi))
    tdi.interface.stop(SESSION)
    assert tdi.state is UNLOCKED


@pytest.mark.parametrize("state", list(InterfaceState), ids=lambda state: state.name)
def test_a_conventional_reset_unlocks_and_scrubs_everything(protected: Any, state: InterfaceState) -> None:
    tdis = [protected.bring(tdi, state) for tdi in protected.device.tdis.values()]
    for tdi in tdis:
        tdi.function.model.memory[:8] = b"secret!!"
    protected.device.reset(ResetKind.CONVENTIONAL)
    assert {tdi.state for tdi in tdis} == {UNLOCKED}
    assert not any(secrets(tdi) for tdi in tdis)
    assert not protected.device.port.ide.keyed(STREAM)
    assert list(protected.device.present().values()) == protected.device.pfs


def test_a_conventional_reset_ends_sessions_and_forgets_used_keys(protected: Any) -> None:
    ended: list[int] = []
    session = Session(SESSION, Connection().key_schedule)
    protected.device.responder.sessions[SESSION] = session
    session.observer = lambda event: ended.append(SESSION)
    port = protected.device.port.ide
    slot = KeySet.K1, Direction.RX, SubStream.PR
    assert port.program(STREAM, *slot, bytes(32), 1) is ProgramResult.OK
    port.erase_keys()
    assert port.program(STREAM, *slot, bytes(32), 1) is ProgramResult.KEY_REUSED
    protected.device.reset(ResetKind.CONVENTIONAL)
    assert ended
    assert protected.device.responder.sessions == {}
    assert port.program(0, *slot, bytes(32), 1) is ProgramResult.OK


def test_disabling_vfs_scrubs_them(protected: Any) -> None:
    tdi = protected.bring(protected.vf(3), RUN)
    dirty(protected, tdi)
    sriov = protected.device.pfs[0].sriov
    protected.fabric.config_write(PF, sriov.base + 8, 2, 0)
    assert tdi.state is ERROR
    assert not secrets(tdi)
    with pytest.raises(Misuse, match="does not exist"):
        protected.device.tdi(Bdf(0, 1, 1, 3))


def test_stop_leaves_nothing_of_the_tvm(protected: Any) -> None:
    tdi = protected.bring(protected.vf(0), RUN)
    dirty(protected, tdi)
    assert secrets(tdi)
    tdi.interface.stop(SESSION)
    assert not secrets(tdi)
    assert protected.fabric.memory_read(protected.bar(tdi, 0) + 0x1000, 8).data == bytes(8)


def test_resetting_a_function_that_is_not_there_is_misuse(rig: Any) -> None:
    with pytest.raises(Misuse, match="does not exist"):
        rig.device.reset(ResetKind.FUNCTION_LEVEL, Bdf(0, 9, 0, 0))


# -- the seams to the outside can be taken over


class Outside:
    """An emulator's side of the DMA and interrupt seams."""

    def __init__(self) -> None:
        self.memory = bytearray(4096)
        self.signals: list[tuple[Bdf, int, bool, int | None]] = []
        self.asked: list[tuple[int, bool, int | None]] = []

    def dma_read(self, requester_id: int, address: int, size: int, t_bit: bool, stream_id: int | None = None) -> Reply:
        self.asked.append((address, t_bit, stream_id))
        start = address % len(self.memory)
        return Reply(CompletionStatus.SC, bytes(self.memory[start : start + size]))

    def dma_write(
        self, requester_id: int, address: int, data: bytes, t_bit: bool, stream_id: int | None = None
    ) -> CompletionStatus:
        self.memory[address : address + len(data)] = data
        return CompletionStatus.SC

    def signal(
        self, function: Bdf, vector: int, message: MsixMessage, t_bit: bool, stream_id: int | None = None
    ) -> None:
        self.signals.append((function, vector, t_bit, stream_id))


def test_an_emulator_takes_the_place_of_link_and_host(rig: Any) -> None:
    outside = Outside()
    rig.device.dma = rig.device.interrupts = outside
    function = rig.vf(0).function
    function.msix.set(function.msix.CONTROL, enable=1)
    function.msix.table.write(32, 16, 0xFEE0_0000)
    bus = rig.device._buses[function]
    bus.write(16, b"abcd")
    assert bus.read(16, 4) == b"abcd"
    bus.interrupt(2)
    assert outside.signals == [(rig.address(rig.vf(0)), 2, False, None)]
    assert outside.asked == [(16, False, None)]
    assert rig.host.asked == []


def test_trusted_requests_use_bound_streams_only(make_rig: Callable[..., Any]) -> None:
    """A second stream that would serve the address is used only once it is bound as a peer-to-peer stream, by translated addresses."""
    rig, peer, window = make_rig(vfs=0).protect(), 9, 0x50_0000
    streams, block, port = rig.device.streams, rig.device.streams.streams[1], rig.device.port.ide
    limit, base = block.rid
    low = block.addresses[0][0]
    streams.write(limit.offset, 4, limit.put(0, limit=0x300))
    streams.write(base.offset, 4, base.put(0, base=0x300, valid=1))
    streams.write(low.offset, 4, low.put(0, base=window >> 20, limit=window >> 20, valid=1))
    streams.write(block.control.offset, 4, block.control.put(0, stream_id=peer))
    for direction in Direction:
        for sub_stream in SubStream:
            key = bytes([direction, sub_stream]) * 16
            assert port.program(peer, KeySet.K0, direction, sub_stream, key, 1) is ProgramResult.OK
            assert port.set_go(peer, KeySet.K0, direction, sub_stream)
    streams.write(block.control.offset, 4, block.control.put(0, stream_id=peer, enable=1))
    assert port.is_secure(peer)
    ats = rig.pf.function.space.need(AtsCapability)
    ats.set(ats.CONTROL, enable=1)
    rig.pf.function.msix.set(rig.pf.function.msix.CONTROL, enable=1)
    rig.pf.function.msix.table.write(0, 16, window)
    tdi = rig.bring(rig.pf, RUN, LockFlags.BIND_P2P | LockFlags.LOCK_MSIX)
    tdi.function.translations.keep(0x7000, Translation(read=1, write=1, page=window // 4096))
    bus, tap = rig.device.bus_of(rig.address(tdi)), Tap(rig.link)

    def streams_used() -> list[int | None]:
        tap.frames.clear()
        bus.write(0x1000, b"word")
        bus.write(window, b"word")
        bus.write(0x7000, b"word")
        bus.interrupt(0)
        return [one.stream_id for one in tap.up()]

    assert streams_used() == [STREAM] * 4
    tdi.interface.bind_p2p_stream(SESSION, peer)
    # Only the translated address names the peer; an interrupt has none.
    assert streams_used() == [STREAM, STREAM, peer, STREAM]
    tdi.interface.unbind_p2p_stream(SESSION, peer)
    assert streams_used() == [STREAM] * 4
