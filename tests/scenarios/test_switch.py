"""The trusted life of a device below a switch: nothing in it is different but the way of the frames."""

from __future__ import annotations

import time

import pytest

from teeio.accelerator_interface import Operation
from teeio.device.configuration import Configuration
from teeio.guest.accept import AssignedInterface
from teeio.guest.cost import CostMeter
from teeio.guest.driver import TRUSTED_REGISTERS, DeviceLost
from teeio.host.vmm.vfio import UnitKind
from teeio.observe import TlpMoved
from teeio.pcie.address import Bdf
from teeio.pcie.capabilities.ide import SwitchIdeCapability
from teeio.platform import Platform
from teeio.scenarios import Journal, live

SECRET = b"a secret of the TVM that both devices work on"


def test_the_trusted_life_runs_across_a_switch() -> None:
    journal = Journal()
    platform = Platform.assemble(seed=1, switch=True, observer=journal)
    life = live(platform, journal, time.thread_time, UnitKind.VF)
    assert life.tdi_states == ["CONFIG_UNLOCKED", "CONFIG_LOCKED", "RUN", "CONFIG_UNLOCKED"]
    assert life.verdict is not None
    assert life.verdict.accepted
    assert life.pages_returned
    assert life.streams_returned
    trusted, bounce = life.data_paths
    assert trusted.correct
    assert bounce.correct
    moved = [event for step in journal.steps for event in step.events if isinstance(event, TlpMoved)]
    hops = {(event.source, event.target) for event in moved if event.protection == "IDE T=1"}
    up, down = "switch, upstream port", "switch, downstream port 0"
    assert hops == {("root port", up), (down, "device"), ("device", down), (up, "root port")}


def test_the_vmm_enumerates_through_the_switch() -> None:
    platform = Platform.assemble(seed=1, switch=True)
    (pf,) = platform.vmm.bus.enumerate()
    assert pf.address == Bdf(0, 3, 0, 0)
    assert pf.above == (Bdf(0, 1, 0, 0), Bdf(0, 2, 0, 0))
    assert pf.bridge == Bdf(0, 2, 0, 0)
    windows = platform.vmm.bus.windows
    assert windows[pf.bridge] == windows[pf.root_port]
    assert not windows[Bdf(0, 2, 1, 0)].size, "nothing is below the second downstream port"
    assert platform.switch is not None
    ports = (platform.switch.upstream, *platform.switch.downstream)
    assert [port.capability.flows_through for port in ports] == [False] * 3
    platform.vmm.pci_tsm.connect(pf, platform.now())
    assert [port.config.need(SwitchIdeCapability).flows_through for port in ports] == [True, True, False]
    assert platform.device.port.ide.is_secure(1)


def test_max_payload_size_is_that_of_all_ports_on_the_way() -> None:
    platform = Platform.assemble(seed=1, switch=True)
    (pf,) = platform.vmm.bus.enumerate()
    platform.vmm.bus.set_max_payload(pf, 256)
    assert platform.device.port.max_payload == 256


def test_two_devices_below_one_switch_serve_one_tvm() -> None:
    """What one device writes to the TVM's private memory the other reads: shared memory as today, but private."""
    configuration = Configuration(vfs=1)
    platform = Platform.assemble(seed=1, switch=True, configuration=configuration, others=[configuration.another(1)])
    vmm, now = platform.vmm, platform.now
    pfs = vmm.bus.enumerate()
    assert [pf.address for pf in pfs] == [Bdf(0, 3, 0, 0), Bdf(0, 4, 0, 0)]
    assert [device.functions.first for device in platform.devices] == [pf.address for pf in pfs]
    assert len({vmm.bus.windows[pf.bridge] for pf in pfs}) == 2
    guest = platform.launch("TVM", memory_size=2 << 20)
    drivers = []
    for pf in pfs:
        (vf,) = vmm.bus.enable_vfs(pf, 1)
        vmm.pci_tsm.connect(pf, now())
        vmm.kvm.assign(guest.machine, vmm.vfio.unit(UnitKind.VF, vf.address))
        taken = [driver.address for driver, _ in drivers]
        function = next(one for one in guest.functions() if one.address not in taken)
        interface = AssignedInterface(guest.tvm, function)
        verifier = platform.verifier(guest.tvm.entropy, platform.device_of(vf))
        assert interface.bring_up(verifier, TRUSTED_REGISTERS, now()).accepted
        drivers.append((function, guest.driver(function, CostMeter(lambda: 0.0), interface=interface)[0]))
    first, between, last = (guest.tvm.allocate(4096) for _ in range(3))
    first.write(0, SECRET)
    drivers[0][1].run(Operation.COPY, first.gpa, 4096, between.gpa, now())
    drivers[1][1].run(Operation.COPY, between.gpa, 4096, last.gpa, now())
    assert last.read(0, len(SECRET)) == SECRET
    assert SECRET not in vmm.memory.read(0, platform.memory.size)
    assert [stream.stream_id for stream in platform.module.records.streams()] == [1, 2]
    platform.links[0].fail()
    with pytest.raises(DeviceLost):
        drivers[0][1].run(Operation.COPY, first.gpa, 4096, between.gpa, now())
    drivers[1][1].run(Operation.COPY, first.gpa, 4096, last.gpa, now())


def test_a_device_takes_its_bus_number_from_the_request_that_configures_it() -> None:
    platform = Platform.assemble(seed=1, switch=True, configuration=Configuration(address=Bdf(0, 0x33, 0, 0)))
    (pf,) = platform.vmm.bus.enumerate()
    assert pf.address == platform.device.functions.first == platform.device.port.function == Bdf(0, 3, 0, 0)
    platform.vmm.pci_tsm.connect(pf, platform.now())
    assert platform.device.port.ide.is_secure(1)
