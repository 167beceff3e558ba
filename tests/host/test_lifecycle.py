"""The whole life of a trusted device on the host: connect, bind, accept, run, stop, disconnect; and what must not work."""

from __future__ import annotations

from host_machine import MEMORY, NOW, Guest, Host
from teeio.abi import hypercalls as v
from teeio.abi import tdcalls as g
from teeio.abi.operands import GPA_SHARED_BIT, PAGE_SIZE, DevifOperation
from teeio.abi.statuses import HypercallError
from teeio.accelerator_interface import (
    COMPLETION_SIZE,
    DESCRIPTOR_SIZE,
    AcceleratorRegisters,
    Completion,
    Descriptor,
    DescriptorFlags,
    Operation,
    Result,
)
from teeio.host.iommu_faults import FaultReason
from teeio.host.memory import FREE
from teeio.host.vmm.vfio import UnitKind
from teeio.observe import BoundaryCalled, FrameMoved, StateChanged, TlpMoved
from teeio.pcie.registers import Register
from teeio.tdisp.messages import InterfaceState

RING, DONE, SOURCE, TARGET = (page * PAGE_SIZE for page in (2, 3, 4, 5))
SECRET = b"the TVM's secret" * 16
VECTOR = 0x41


def write(guest: Guest, register: Register, *, shared: bool = False, **fields: int) -> None:
    address = guest.bar(0) + register.offset | (GPA_SHARED_BIT if shared else 0)
    guest.processor.store(address, register.put(0, **fields).to_bytes(register.size, "little"))


def read(guest: Guest, register: Register, field: str, *, shared: bool = False) -> int:
    address = guest.bar(0) + register.offset | (GPA_SHARED_BIT if shared else 0)
    return register.get(int.from_bytes(guest.processor.load(address, register.size), "little"), field)


def work(guest: Guest, *, shared: bool = False, bit: int = 0) -> Completion:
    """Let the accelerator copy SOURCE to TARGET; `shared` says how its registers are reached."""
    registers = AcceleratorRegisters
    descriptor = Descriptor(
        operation=Operation.COPY,
        flags=DescriptorFlags.INTERRUPT,
        length=len(SECRET),
        source=SOURCE,
        destination=TARGET,
        completion=DONE,
    )
    index = read(guest, registers.STATUS, "consumed", shared=shared)
    guest.processor.store(RING + index * DESCRIPTOR_SIZE | bit, descriptor.encode())
    guest.processor.store(DONE | bit, bytes(COMPLETION_SIZE))
    write(guest, registers.CONTROL, shared=shared)
    write(guest, registers.RING_LOW, shared=shared, address=RING >> 6)
    write(guest, registers.RING_SIZE, shared=shared, count=4)
    write(guest, registers.CONTROL, shared=shared, enable=1, vector=0)
    write(guest, registers.DOORBELL, shared=shared, index=(index + 1) % 4)
    guest.host.device.work()
    return Completion.decode(guest.processor.load(DONE | bit, COMPLETION_SIZE))


def enable_msix(guest: Guest) -> None:
    """Set the first entry of the MSI-X table by hypercalls, as a guest without a mapping does."""
    table = guest.bar(2)
    for offset, value in ((0, 0xFEE0_0000), (4, 0), (8, VECTOR), (12, 0)):
        call = v.TdvmcallRequestMmio(gpa=table + offset, size=4, value=value)
        guest.vmm.tdvmcall_request_mmio(call, NOW).require("write")
    config = 0xE000_0000 + (guest.assigned.address.requester_id << 12)
    at = guest.function.capabilities[0x11]
    call = v.TdvmcallRequestMmio(gpa=config + at + 2, size=2, value=0x8000)
    guest.vmm.tdvmcall_request_mmio(call, NOW).require("enable")


def test_the_whole_life_gives_everything_back() -> None:
    host = Host(connect=False)
    assert host.before == {FREE: MEMORY // PAGE_SIZE}
    host.vmm.pci_tsm.connect(host.pf, NOW)
    guest = Guest(host)
    guest.bring_up()
    enable_msix(guest)
    guest.processor.store(SOURCE, SECRET)
    done = work(guest)
    assert done.status is Result.DONE
    assert guest.processor.load(TARGET, len(SECRET)) == SECRET
    assert guest.vectors == [VECTOR]
    assert SECRET[:16] not in host.memory.vmm.read(0, host.memory.size), "private all the way"
    guest.unbind().require("unbind")
    assert guest.tdi.state is InterfaceState.CONFIG_UNLOCKED
    assert guest.tdi.function.model.memory == bytes(len(guest.tdi.function.model.memory)), "scrubbed"
    host.vmm.kvm.destroy(guest.machine, NOW)
    host.vmm.pci_tsm.disconnect(host.pf, NOW)
    assert host.memory.accounting() == host.before
    assert not host.device.responder.sessions
    assert not list(host.module.records.dmar[0].entries())
    assert not host.iommu.trusted.iotlb
    assert not host.port.ide.is_secure(1)
    assert not host.module.records.contexts
    host.vmm.pci_tsm.connect(host.pf, NOW)
    assert Guest(host).bring_up(), "and again"
    host.check_declared()


def test_what_happens_is_observed(host: Host) -> None:
    start = len(host.events)
    guest = Guest(host)
    guest.bring_up()
    guest.processor.store(SOURCE, SECRET)
    work(guest)
    seen = host.events[start:]
    calls = {event.name for event in seen if isinstance(event, BoundaryCalled)}
    assert {"TDH.DEVIF.CREATE", "TDH.DEVIF.RESPONSE", "TDG.MMIO.ACCEPT", "TDG.TDI.START", "TDCM.BIND"} <= calls
    assert any(isinstance(event, FrameMoved) and event.source == "VMM" for event in seen)
    states = [event.new for event in seen if isinstance(event, StateChanged) and "TSM knows" in event.subject]
    assert states == ["CONFIG_LOCKED", "RUN"]
    transfers = {event.kind for event in seen if isinstance(event, TlpMoved) and event.protection == "IDE T=1"}
    assert {"MRd", "MWr", "CplD"} <= transfers
    assert guest.machine.exits["TDCM.BIND"] == 1


def test_untrusted_use_reaches_shared_memory_only(host: Host) -> None:
    guest = Guest(host)
    for gpa in (RING, DONE, TARGET):
        call = v.TdvmcallMapGpa(gpa=gpa, size=PAGE_SIZE, shared=True)
        guest.vmm.tdvmcall_map_gpa(call, NOW).require("share")
    guest.processor.store(SOURCE, SECRET)
    done = work(guest, shared=True, bit=GPA_SHARED_BIT)
    assert done.status is not Result.DONE, "the source is private"
    assert host.iommu.faults[-1].reason is FaultReason.NOT_MAPPED
    guest.vmm.tdvmcall_map_gpa(v.TdvmcallMapGpa(gpa=SOURCE, size=PAGE_SIZE, shared=True), NOW).require("share")
    assert guest.processor.load(SOURCE | GPA_SHARED_BIT, 8) == bytes(8), "nothing private is left in it"
    guest.processor.store(SOURCE | GPA_SHARED_BIT, SECRET)
    host.vmm.vfio.reset(guest.function)
    assert work(guest, shared=True, bit=GPA_SHARED_BIT).status is Result.DONE
    assert guest.processor.load(TARGET | GPA_SHARED_BIT, 16) == SECRET[:16]


def test_the_vmm_cannot_point_untrusted_dma_at_private_memory(host: Host) -> None:
    guest = Guest(host)
    guest.processor.store(SOURCE, SECRET)
    leaf = host.module.records.tvms[guest.machine.tdr].sept.leaf(SOURCE)
    assert leaf is not None
    guest.machine.domain.map(SOURCE, leaf.hpa)
    port = host.port.host
    assert not port.dma_read(guest.function_id, SOURCE, 64, False).ok
    assert host.iommu.faults[-1].reason is FaultReason.PRIVATE_MEMORY
    assert not port.dma_read(guest.function_id, SOURCE, 64, True, 1).ok, "no trusted entry was accepted"
    guest.bring_up()
    assert port.dma_read(guest.function_id, SOURCE, 16, True, 1).data == SECRET[:16]
    assert not port.dma_read(host.vfs[1].function_id, SOURCE, 16, True, 1).ok, "nor for another interface"


def test_the_vmm_cannot_touch_a_running_interface(host: Host) -> None:
    """Attack 55: T=0 accesses to a locked TDI."""
    guest = Guest(host)
    guest.bring_up()
    place = guest.bar(0) + 0x1000
    guest.processor.store(place, b"register")
    physical = guest.function.bars[0].address + 0x1000
    bus = host.root_complex.vmm
    assert bus.mmio_read(physical, 8) == b"\xff" * 8
    bus.mmio_write(physical, b"tampered")
    assert guest.processor.load(place | GPA_SHARED_BIT, 8) == b"\xff" * 8
    assert guest.processor.load(place, 8) == b"register"
    assert guest.tdi.state is InterfaceState.RUN


def test_a_moved_bar_is_noticed_and_the_data_stay_out_of_reach(host: Host) -> None:
    """Attack 48: the VMM moves a BAR of the locked device."""
    guest = Guest(host)
    lock = guest.bring_up()
    guest.processor.store(guest.bar(0) + 0x1000, SECRET[:64])
    bar = host.pf.vf_bars[0]
    at = host.pf.extended[0x10] + 0x24
    host.pf.config.write(at, 4, (bar.address + (1 << 20)) & 0xFFFF_FFFF)
    assert guest.tdi.state is InterfaceState.ERROR
    assert guest.processor.load(guest.bar(0) + 0x1000, 8) == b"\xff" * 8
    guest.ask(DevifOperation.STATE, lock).require("ask")
    guest.vmm.tdcm_get_tdi_state(v.TdcmGetTdiState(function_id=guest.function_id), NOW).require("state")
    answer = guest.tsm.tdg_devif_response(g.TdgDevifResponse(function_id=guest.function_id)).require("response")
    assert answer.state == InterfaceState.ERROR
    for address in (bar.address + 0x1000, bar.address + (1 << 20) + 0x1000):
        assert host.root_complex.vmm.mmio_read(address, 8) == b"\xff" * 8
    host.pf.config.write(at, 4, bar.address & 0xFFFF_FFFF)
    guest.unbind().require("unbind")
    assert SECRET[:64] not in host.root_complex.vmm.mmio_read(bar.address + 0x1000, 64), "scrubbed"
    assert guest.bring_up(), "and attested anew"


def test_a_tampered_link_kills_the_stream_not_the_secret() -> None:
    host = Host()
    guest = Guest(host)
    guest.bring_up()
    guest.processor.store(SOURCE, SECRET)
    frames: list[bytes] = []

    def flip(frame: bytes, way: object) -> bytes:
        frames.append(frame)
        return frame[:-1] + bytes([frame[-1] ^ 1])

    host.link.tamper = flip
    assert guest.processor.load(guest.bar(0), 4) == b"\xff" * 4
    host.link.tamper = None
    assert not host.port.ide.is_secure(1) or guest.tdi.state is InterfaceState.ERROR
    assert guest.processor.load(guest.bar(0), 4) == b"\xff" * 4
    assert not any(SECRET[:16] in frame for frame in frames)
    host.vmm.kvm.destroy(guest.machine, NOW)
    host.vmm.pci_tsm.disconnect(host.pf, NOW)
    assert host.memory.accounting() == host.before
    host.vmm.pci_tsm.connect(host.pf, NOW)
    assert Guest(host).bring_up()
    host.check_declared()


def test_two_tvms_share_a_device_and_nothing_else(host: Host) -> None:
    one, two = Guest(host, "one", 0), Guest(host, "two", 1)
    for guest, text in ((one, b"one's secret"), (two, b"two's secret")):
        guest.bring_up()
        guest.processor.store(SOURCE, text)
        guest.processor.store(guest.bar(0) + 0x2000, text)
        assert work(guest).status is Result.DONE
    assert one.processor.load(TARGET, 12) == b"one's secret"
    assert two.processor.load(TARGET, 12) == b"two's secret"
    call = v.TdcmUnbind(function_id=two.function_id)
    assert one.vmm.tdcm_unbind(call, NOW).error is HypercallError.INVALID_OPERAND
    one.unbind().require("unbind")
    assert two.tdi.state is InterfaceState.RUN
    assert two.processor.load(two.bar(0) + 0x2000, 12) == b"two's secret"
    assert work(two).status is Result.DONE


def test_a_page_that_is_taken_away_is_out_of_the_devices_reach(host: Host) -> None:
    guest = Guest(host)
    guest.bring_up()
    guest.processor.store(SOURCE, SECRET)
    assert work(guest).status is Result.DONE
    call = v.TdvmcallMapGpa(gpa=SOURCE, size=PAGE_SIZE, shared=True)
    guest.vmm.tdvmcall_map_gpa(call, NOW).require("share")
    assert not host.port.host.dma_read(guest.function_id, SOURCE, 16, True, 1).ok
    assert host.port.host.dma_read(guest.function_id, SOURCE | GPA_SHARED_BIT, 16, True, 1).data == bytes(16)


def test_a_whole_device_is_a_unit_too() -> None:
    host = Host(vfs=0)
    unit = host.vmm.vfio.unit(UnitKind.DEVICE, host.pf.address)
    machine = host.vmm.kvm.create("guest", 8 * PAGE_SIZE)
    host.vmm.kvm.assign(machine, unit)
    hypercalls = host.vmm.hypercalls(machine)
    hypercalls.tdcm_bind(v.TdcmBind(function_id=host.pf.function_id), NOW).require("bind")
    assert host.device.tdi(host.pf.address).state is InterfaceState.CONFIG_LOCKED
    hypercalls.tdcm_unbind(v.TdcmUnbind(function_id=host.pf.function_id), NOW).require("unbind")
    host.vmm.kvm.destroy(machine, NOW)
    assert not host.vmm.pci_tsm.connections, "the reset of its DSM disconnects the device"
    assert host.memory.accounting() == host.before
    host.check_declared()
