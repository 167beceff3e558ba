"""Several devices, VFs and TVMs at once: everybody works on their own, one's failure is nobody else's, and all is given back."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from teeio.accelerator_interface import Operation
from teeio.device.configuration import Configuration
from teeio.errors import TeeioError
from teeio.guest.accept import AssignedInterface, Phase
from teeio.guest.cost import CostMeter
from teeio.guest.dma import BounceDma, DmaInterface, PrivateDma
from teeio.guest.driver import TRUSTED_REGISTERS, AcceleratorDriver, DeviceLost
from teeio.host.vmm.bus import PciFunction
from teeio.host.vmm.sysfs import HostSysfs
from teeio.host.vmm.vfio import UnitKind
from teeio.platform import Guest, Platform
from teeio.tdisp.messages import InterfaceState

VFS = 2
SIZE = 5000
MEMORY = 2 << 20


def no_clock() -> float:
    return 0.0


class Tenant:
    """A VF of a device in a TVM, with its driver once it works."""

    def __init__(self, scene: Scene, guest: Guest, vf: PciFunction) -> None:
        self.scene, self.guest, self.vf = scene, guest, vf
        taken = {one.interface.function.address for one in scene.tenants if one.guest is guest}
        function = next(one for one in guest.functions() if one.address not in taken)
        self.interface = AssignedInterface(guest.tvm, function)
        self.driver: AcceleratorDriver | None = None
        self.dma: DmaInterface | None = None

    def bring_up(self) -> None:
        platform = self.scene.platform
        verifier = platform.verifier(self.guest.tvm.entropy, platform.device_of(self.vf))
        assert self.interface.bring_up(verifier, TRUSTED_REGISTERS, platform.now()).accepted

    def state(self) -> InterfaceState:
        return self.scene.platform.device_of(self.vf).tdi(self.vf.address).state

    def probe(self) -> DmaInterface:
        trusted = self.interface if self.interface.phase is Phase.ACCEPTED else None
        self.driver, self.dma = self.guest.driver(self.interface.function, CostMeter(no_clock), interface=trusted)
        return self.dma

    def work(self) -> None:
        """Let the device copy this tenant's own bytes, and look at them."""
        if self.driver is None:
            self.probe()
        assert self.driver is not None
        tvm, now = self.guest.tvm, self.scene.platform.now
        secret = f"{self.vf.address} of {self.guest.machine.name} ".encode() * (SIZE // 16)
        source, result = tvm.allocate(len(secret)), tvm.allocate(len(secret))
        try:
            source.write(0, secret)
            self.driver.run(Operation.COPY, source.gpa, len(secret), result.gpa, now())
            assert result.read(0, len(secret)) == secret
        finally:
            tvm.free(source, now())
            tvm.free(result, now())

    def leave(self) -> None:
        """Take the driver off."""
        if self.driver is not None and self.dma is not None:
            self.driver.remove(self.scene.platform.now())
            self.dma.close(self.scene.platform.now())
        self.driver = self.dma = None


class Scene:
    """Two devices of two VFs, each behind its own root port; `before` is what everybody owned before anything was connected."""

    def __init__(self, iommus: int = 2) -> None:
        first = Configuration(vfs=VFS)
        self.platform = Platform.assemble(seed=7, configuration=first, others=[first.another(1)], iommus=iommus)
        self.vmm = self.platform.vmm
        self.pfs = self.vmm.bus.enumerate()
        self.vfs = [vf for pf in self.pfs for vf in self.vmm.bus.enable_vfs(pf, VFS)]
        self.before = self.platform.memory.accounting()
        self.tenants: list[Tenant] = []
        self.guests: list[Guest] = []
        for pf in self.pfs:
            self.vmm.pci_tsm.connect(pf, self.platform.now())

    def launch(self, name: str, *vfs: PciFunction) -> list[Tenant]:
        guest = self.platform.launch(name, memory_size=MEMORY)
        self.guests.append(guest)
        return [self.assign(guest, vf) for vf in vfs]

    def assign(self, guest: Guest, vf: PciFunction) -> Tenant:
        self.vmm.kvm.assign(guest.machine, self.vmm.vfio.unit(UnitKind.VF, vf.address))
        tenant = Tenant(self, guest, vf)
        self.tenants.append(tenant)
        return tenant

    def shut_down(self, guest: Guest) -> None:
        self.platform.shut_down(guest)
        self.guests.remove(guest)
        self.tenants = [one for one in self.tenants if one.guest is not guest]

    def end(self) -> None:
        """Give everything back, and see that nothing is missing anywhere."""
        for guest in list(self.guests):
            self.shut_down(guest)
        for address in list(self.vmm.pci_tsm.connections):
            self.vmm.pci_tsm.disconnect(self.vmm.bus.function(address), self.platform.now())
        assert self.platform.memory.accounting() == self.before
        records = self.platform.module.records
        kept = (records.contexts, records.devifs, records.tvms, records.iommu_pages)
        assert not any(kept)
        for number, iommu in self.platform.root_complex.iommus.items():
            unit, tables = iommu.trusted, records.dmar[number]
            assert not any((unit.root_table, unit.contexts, unit.pasids, unit.iotlb, unit.second_stages))
            assert not list(tables.entries())
            assert not tables.waiting
        for device in self.platform.devices:
            assert not device.responder.sessions
            assert not any(block.field("enable") for block in device.streams.streams)
            assert {tdi.state for tdi in device.tdis.values()} == {InterfaceState.CONFIG_UNLOCKED}


@pytest.mark.parametrize("iommus", [1, 2])
def test_three_tvms_with_vfs_of_two_devices(iommus: int) -> None:
    scene = Scene(iommus)
    tenants = [
        *scene.launch("A", scene.vfs[0], scene.vfs[2]),
        *scene.launch("B", scene.vfs[1]),
        *scene.launch("C", scene.vfs[3]),
    ]
    for tenant in tenants:
        tenant.bring_up()
    assert [tenant.state() for tenant in tenants] == [InterfaceState.RUN] * 4
    records = scene.platform.module.records
    assert len({devif.bind_session_id for devif in records.devifs.values()}) == 4
    assert {context.iommu_id for context in records.contexts.values()} == set(range(iommus))
    for tenant in (*tenants, *reversed(tenants)):
        tenant.work()
    a0, a1, b, c = tenants
    scene.shut_down(a0.guest)
    assert set(records.devifs) == {b.vf.function_id, c.vf.function_id}
    for tenant in (b, c):
        tenant.work()
    (again,) = scene.launch("D", a1.vf)
    again.bring_up()
    again.work()
    scene.end()


def _link_down(scene: Scene) -> None:
    scene.platform.links[0].fail()


def _device_reset(scene: Scene) -> None:
    scene.vmm.vfio.reset(scene.pfs[0])


def _tampered_link(scene: Scene) -> None:
    link = scene.platform.links[0]
    link.tamper = lambda frame, way: frame[:-1] + bytes([frame[-1] ^ 1])


def _silence(scene: Scene) -> None:
    scene.platform.links[0].tamper = lambda frame, way: None


@pytest.mark.parametrize("failure", [_link_down, _device_reset, _tampered_link, _silence])
def test_one_device_fails_and_the_other_goes_on(failure: Callable[[Scene], None]) -> None:
    """A TVM with a VF of each loses one of them; the other VF, and the TVM on the healthy device, do not notice."""
    scene = Scene()
    lost, kept = scene.launch("A", scene.vfs[0], scene.vfs[2])
    (beside,) = scene.launch("B", scene.vfs[3])
    (also_lost,) = scene.launch("C", scene.vfs[1])
    for tenant in (lost, kept, beside, also_lost):
        tenant.bring_up()
        tenant.work()
    failure(scene)
    for tenant in (kept, beside):
        tenant.work()
        assert tenant.state() is InterfaceState.RUN
    for tenant in (lost, also_lost):
        with pytest.raises(TeeioError) as raised:
            tenant.work()
        assert isinstance(raised.value, DeviceLost)
    for tenant in (kept, beside):
        tenant.work()
    # The way back: the VMM restores the device, connects it anew, and the TVM goes the whole way again.
    link = scene.platform.links[0]
    link.tamper = None
    link.restore()
    for tenant in (lost, also_lost):
        tenant.leave()
        tenant.interface.unlock(scene.platform.now())
    pf = scene.pfs[0]
    scene.vmm.pci_tsm.disconnect(pf, scene.platform.now())
    scene.vmm.vfio.reset(pf)
    for tenant in (kept, beside):
        tenant.work()
    scene.vmm.pci_tsm.connect(pf, scene.platform.now())
    for tenant in (lost, also_lost):
        tenant.bring_up()
        tenant.work()
    scene.end()


def test_each_device_has_its_own_data_path() -> None:
    """One TVM uses an accepted interface on private memory and an unaccepted one of the other device on bounce buffers."""
    scene = Scene()
    trusted, untrusted = scene.launch("A", scene.vfs[0], scene.vfs[2])
    trusted.bring_up()
    assert isinstance(trusted.probe(), PrivateDma)
    assert isinstance(untrusted.probe(), BounceDma)
    for tenant in (trusted, untrusted, trusted):
        tenant.work()
    assert untrusted.state() is InterfaceState.CONFIG_UNLOCKED
    scene.end()


def test_evidence_of_one_device_is_not_the_others() -> None:
    """Two devices of one make differ by their serial numbers, and a verifier that expects one rejects the other."""
    scene = Scene()
    (tenant,) = scene.launch("A", scene.vfs[2])
    wrong = scene.platform.verifier(tenant.guest.tvm.entropy, scene.platform.devices[0])
    with pytest.raises(TeeioError, match="not accepted"):
        tenant.interface.bring_up(wrong, TRUSTED_REGISTERS, scene.platform.now())
    tenant.bring_up()
    scene.end()


class Lives(RuleBasedStateMachine):
    """Up to three TVMs take VFs of both devices, bring them up, work, lose and leave them, in any order."""

    scene: Scene

    @initialize()
    def assemble(self) -> None:
        self.scene = Scene()

    def teardown(self) -> None:
        if hasattr(self, "scene"):
            self.scene.end()

    def some(self, data: st.DataObject, *phases: Phase) -> Tenant | None:
        found = [one for one in self.scene.tenants if one.interface.phase in phases]
        return data.draw(st.sampled_from(found)) if found else None

    @precondition(lambda self: len(self.scene.guests) < 3)
    @rule()
    def launch(self) -> None:
        self.scene.launch(f"TVM {len(self.scene.guests)}")

    @precondition(lambda self: self.scene.guests and len(self.scene.tenants) < len(self.scene.vfs))
    @rule(data=st.data())
    def assign(self, data: st.DataObject) -> None:
        free = [vf for vf in self.scene.vfs if all(one.vf is not vf for one in self.scene.tenants)]
        self.scene.assign(data.draw(st.sampled_from(self.scene.guests)), data.draw(st.sampled_from(free)))

    @rule(data=st.data())
    def bring_up(self, data: st.DataObject) -> None:
        tenant = self.some(data, Phase.UNLOCKED)
        if tenant is not None:
            tenant.leave()
            tenant.bring_up()

    @rule(data=st.data())
    def work(self, data: st.DataObject) -> None:
        tenant = self.some(data, Phase.UNLOCKED, Phase.ACCEPTED)
        if tenant is not None:
            tenant.work()

    @rule(data=st.data())
    def unlock(self, data: st.DataObject) -> None:
        tenant = self.some(data, Phase.ACCEPTED, Phase.LOST)
        if tenant is not None:
            tenant.leave()
            tenant.interface.unlock(self.scene.platform.now())

    @rule(data=st.data())
    def lose(self, data: st.DataObject) -> None:
        """The VMM resets a running VF: its TVM finds it lost, by its next job."""
        tenant = self.some(data, Phase.ACCEPTED)
        if tenant is None:
            return
        self.scene.vmm.vfio.reset(tenant.vf)
        with pytest.raises(TeeioError):
            tenant.work()
        assert tenant.interface.phase is Phase.LOST

    @precondition(lambda self: self.scene.guests)
    @rule(data=st.data())
    def shut_down(self, data: st.DataObject) -> None:
        self.scene.shut_down(data.draw(st.sampled_from(self.scene.guests)))


TestLives = Lives.TestCase
TestLives.settings = settings(max_examples=4, stateful_step_count=16, deadline=None)


def test_streams_of_several_devices_in_sysfs() -> None:
    """Streams have numbers of their host bridge, which stay theirs when another one goes."""
    scene = Scene()
    tree, now = HostSysfs(scene.vmm), scene.platform.now
    bridge = "/sys/devices/pci0000:00"
    first, second = (f"/sys/bus/pci/devices/{pf.address}" for pf in scene.pfs)
    assert tree.resolve(f"{bridge}/stream0.0.0") == tree.resolve(first)
    assert tree.resolve(f"{bridge}/stream1.0.0") == tree.resolve(second)
    assert tree.read(f"{bridge}/available_secure_streams") == "6\n"
    tree.write(f"{first}/tsm/disconnect", "tsm0", now())
    assert not tree.exists(f"{bridge}/stream0.0.0")
    assert tree.resolve(f"{bridge}/stream1.0.0") == tree.resolve(second)
    tree.write(f"{first}/tsm/connect", "tsm0", now())
    assert tree.resolve(f"{bridge}/stream0.0.0") == tree.resolve(first)
    scene.end()
