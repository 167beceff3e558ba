"""The VMM's view of the bus: enumeration through real configuration space, VFs, capabilities, what cannot be."""

from __future__ import annotations

from itertools import combinations

import pytest

from host_machine import NOW, ROOT_PORT, Guest, Host
from teeio.abi.operands import PRIVATE_MMIO_BASE
from teeio.errors import Misuse, TransportError
from teeio.host.root_complex import DEVICE_MEMORY
from teeio.host.vmm.bus import (
    Config,
    FunctionKind,
    Space,
    capabilities,
    extended_capabilities,
    is_dsm,
    sized_bars,
)
from teeio.host.vmm.guest_function import GUEST_DEVICE_MEMORY, guest_address
from teeio.host.vmm.stream_registers import DeviceStream
from teeio.pcie.address import AddressRange, Bdf
from teeio.pcie.capabilities.ide import IdeCapability
from teeio.tdisp.messages import InterfaceState


@pytest.fixture
def host() -> Host:
    return Host(vfs=0, connect=False, functions=1)


def test_functions_are_found_with_their_capabilities(host: Host) -> None:
    pf = host.pf
    assert pf.address == Bdf(0, 1, 0, 0)
    assert pf.root_port == ROOT_PORT
    assert pf.kind is FunctionKind.PF
    assert pf.tee_io
    assert is_dsm(pf)
    assert {0x2E, 0x30, 0x10, 0x01} <= set(pf.extended)
    assert {0x10, 0x11} <= set(pf.capabilities)
    assert pf.last_requester == 0x100 + 8 + 3


def test_bars_are_placed_apart_and_above_4_gib(host: Host) -> None:
    host.vmm.bus.enable_vfs(host.pf, 4)
    places = [
        range(bar.address, bar.address + bar.size)
        for function in host.vmm.bus.functions.values()
        for bar in function.bars.values()
    ]
    assert len(places) == 15
    window = host.vmm.bus.windows[ROOT_PORT]
    for place in places:
        assert place.start % len(place) == 0
        assert place.start >= PRIVATE_MMIO_BASE
        assert window.start <= place.start
        assert place.stop <= window.end
    for one, other in combinations(places, 2):
        assert one.stop <= other.start or other.stop <= one.start
    for function in host.device.present().values():
        address = host.device.address_of(function)
        seen = host.vmm.bus.function(address).bars
        assert {n: placed.start for n, placed in function.placed().items()} == {n: b.address for n, b in seen.items()}


def test_both_ends_of_the_link_get_the_max_payload_size(host: Host) -> None:
    ends = host.device.port, host.root_complex.fabric.ports[0]
    assert [port.max_payload for port in ends] == [128, 128]
    host.vmm.bus.set_max_payload(host.pf, 256)
    assert [port.max_payload for port in ends] == [256, 256]
    for size in (0, 64, 200, 512):
        with pytest.raises(Misuse, match="Max_Payload_Size"):
            host.vmm.bus.set_max_payload(host.pf, size)


def test_vfs_come_and_go(host: Host) -> None:
    bus, pf = host.vmm.bus, host.pf
    vfs = bus.enable_vfs(pf, 2)
    assert [vf.address for vf in vfs] == [Bdf.of(0x108), Bdf.of(0x109)]
    assert all(vf.kind is FunctionKind.VF and vf.tee_io and vf.parent is pf and not is_dsm(vf) for vf in vfs)
    assert vfs[0].device_id == host.device.configuration.manufacture.pci.device + 1
    with pytest.raises(Misuse, match="VFs of"):
        bus.enable_vfs(pf, 1)
    bus.disable_vfs(pf)
    assert set(bus.functions) == {pf.address}
    assert len(host.device.present()) == 1
    for count in (0, 5):
        with pytest.raises(Misuse, match="VFs of"):
            bus.enable_vfs(pf, count)
    with pytest.raises(Misuse, match="no function"):
        bus.function(vfs[0].address)


def test_guests_find_bars_at_one_distance(host: Host) -> None:
    distances = {guest_address(bar) - bar.address for bar in host.pf.bars.values()}
    assert distances == {GUEST_DEVICE_MEMORY - DEVICE_MEMORY.start}
    host.pf.bars[0].address = 0xF000_0000
    assert guest_address(host.pf.bars[0]) == 0xF000_0000


def test_stream_blocks_are_found_and_left_as_they_were(host: Host) -> None:
    registers = host.device.streams.copied_registers()
    stream = DeviceStream.free(host.pf, 9)
    assert stream.base == host.pf.extended[IdeCapability.ID] + 0x0C
    stream.associate(ROOT_PORT)
    block = host.device.streams.streams[0]
    assert (block.field("stream_id"), block.field("default")) == (9, 1)
    assert block.rid_range() == range(ROOT_PORT.requester_id, ROOT_PORT.requester_id + 1)
    assert not stream.enable(), "there are no keys"
    second = DeviceStream.free(host.pf, 10)
    assert second.base == stream.base + 20 + 12 * host.device.configuration.address_blocks
    stream.clear()
    assert host.device.streams.copied_registers() == registers


class Loop:
    """Configuration space whose capability lists never end."""

    def config_read(self, function: Bdf, offset: int, size: int) -> int:
        return {0x34: 0x40, 0x40: 0x4001, 0x100: 0x1000_0001}.get(offset, 0)

    def config_write(self, function: Bdf, offset: int, size: int, value: int) -> None:
        return None


def test_capability_lists_without_an_end_are_given_up() -> None:
    config = Config(Loop(), Bdf(0, 1, 0, 0))  # type: ignore[arg-type]
    with pytest.raises(TransportError, match="loop"):
        capabilities(config)
    with pytest.raises(TransportError, match="loop"):
        extended_capabilities(config)
    assert sized_bars(config, 0x10) == {}


def test_a_removed_device_is_said_not_to_answer(host: Host) -> None:
    vfs = host.vmm.bus.enable_vfs(host.pf, 1)
    host.link.fail()
    gone = f"{host.pf.address} does not answer.*all ones"
    with pytest.raises(TransportError, match=gone):
        host.vmm.bus.set_max_payload(host.pf, 256)
    with pytest.raises(TransportError, match=gone):
        host.vmm.pci_tsm.connect(host.pf, 0.0)
    for function in (host.pf, *vfs):
        with pytest.raises(TransportError, match="does not answer") as caught:
            extended_capabilities(function.config)
        assert "bring it back" in caught.value.remedy


def test_no_vfs_of_a_removed_device_are_made_up(host: Host) -> None:
    host.link.fail()
    with pytest.raises(TransportError, match="does not answer"):
        host.vmm.bus.enable_vfs(host.pf, 2)
    assert (host.pf.vfs, set(host.vmm.bus.functions)) == ([], {host.pf.address})
    host.link.restore()
    host.vmm.bus.restore(host.pf)
    assert len(host.vmm.bus.enable_vfs(host.pf, 2)) == 2


@pytest.mark.parametrize(("offset", "total"), [(0xFF00, 1), (0xFEFF, 2), (0xFFFF, 0xFFFF)])
def test_a_device_that_tells_of_vfs_beyond_the_last_bus_is_broken(host: Host, offset: int, total: int) -> None:
    sriov = host.device.pfs[0].sriov
    sriov.set(sriov.TOTAL_VFS, count=total)
    sriov.set(sriov.FIRST_VF_OFFSET, offset=offset)
    with pytest.raises(TransportError, match="beyond the last bus"):
        _ = host.pf.last_requester
    sriov.set(sriov.FIRST_VF_OFFSET, offset=0xFEFF)
    sriov.set(sriov.TOTAL_VFS, count=1)
    assert host.pf.last_requester == 0xFFFF


def test_address_space_runs_out() -> None:
    space = Space(AddressRange(0x1000, 0x2000))
    assert space.take(0x1000, 0x1000) == 0x1000
    assert space.take(8, 0x1000) == 0x2000
    with pytest.raises(Misuse, match="no 0x1000 bytes"):
        space.take(0x1000, 0x1000)


def test_vfs_that_a_guest_has_are_not_taken_away() -> None:
    host = Host()
    guest = Guest(host)
    guest.bring_up()
    with pytest.raises(Misuse, match=rf"in use: {guest.function.address}$|in use: {guest.function.address}\n"):
        host.vmm.bus.disable_vfs(host.pf)
    assert guest.tdi.state is InterfaceState.RUN
    assert host.pf.vfs == host.vfs
    host.vmm.kvm.destroy(guest.machine, NOW)
    host.vmm.bus.disable_vfs(host.pf)
    assert not host.pf.vfs
