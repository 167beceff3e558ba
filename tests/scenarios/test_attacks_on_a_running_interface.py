"""What a hostile VMM, or bad luck, does to an interface that a TVM trusts; every test names what must not happen."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from teeio.abi import VmmToTsm
from teeio.abi import device_seamcalls as d
from teeio.abi.declaration import Result
from teeio.abi.operands import DevifOperation
from teeio.abi.statuses import Status
from teeio.errors import TeeioError
from teeio.guest.accept import AssignedInterface
from teeio.guest.driver import TRUSTED_REGISTERS
from teeio.host.vmm.bus import PciFunction
from teeio.host.vmm.mailbox import Mailbox
from teeio.host.vmm.vfio import UnitKind
from teeio.pcie import doe
from teeio.pcie.seams import ResetKind
from teeio.platform import Guest, Platform
from teeio.spdm.messages import Error
from teeio.tdisp.messages import InterfaceState

BAR_REGISTER = 0x10


class Stage:
    """A platform with one VF of four at a TVM, in RUN."""

    def __init__(self, *, run: bool = True) -> None:
        self.platform = Platform.assemble(seed=1)
        self.vmm = self.platform.vmm
        (self.pf,) = self.vmm.bus.enumerate()
        self.vmm.bus.enable_vfs(self.pf, 4)
        self.before = self.platform.memory.accounting()
        self.vmm.pci_tsm.connect(self.pf, self.now())
        self.vf = self.pf.vfs[0]
        self.tdi = self.platform.device.tdi(self.vf.address)
        self.guest: Guest = self.platform.launch("TVM", self.vmm.vfio.unit(UnitKind.VF, self.vf.address))
        self.interface: AssignedInterface = self.guest.interface()
        if run:
            self.interface.bring_up(self.guest.verifier, TRUSTED_REGISTERS, self.now())

    def now(self) -> float:
        return self.platform.now()

    def move_bar(self, function: PciFunction, bar: int, address: int) -> None:
        at = BAR_REGISTER + 4 * bar
        function.config.write(at, 4, address & 0xFFFF_FFFF)
        function.config.write(at + 4, 4, address >> 32)
        function.command(memory_space=1)


@pytest.mark.parametrize("page", [0, 15])
@pytest.mark.parametrize("bar", [0, 2, 4])
def test_another_functions_bar_over_a_running_interface(bar: int, page: int) -> None:
    """Else the VMM reads with T=0 what the TVM writes with T=1 (PCIe Base 11.3.8, overlap)."""
    stage = Stage()
    target = stage.vf.bars[0].address + page * 0x1000
    stage.move_bar(stage.pf, bar, target & -stage.pf.bars[bar].size)
    assert stage.tdi.interface.state is InterfaceState.ERROR
    window = stage.interface.window(0, 0, 0x10000)
    window.write(page * 0x1000, 8, 0x5345_4352_4554, stage.now())
    seen = stage.platform.root_complex.vmm.mmio_read(target, 8)
    assert seen == b"\xff" * 8, "an address that two BARs claim is nobody's"
    assert stage.interface.check(stage.now()) is not InterfaceState.RUN


def test_a_forged_busy_does_not_put_the_answers_one_request_late() -> None:
    """The attacker answers once in the clear and hands each true answer over with the next request."""
    stage = Stage()
    real, held = Mailbox.carry, []
    version = stage.platform.module.records.contexts[1].agent.requester.connection.version

    def late(self: Mailbox, data_object: bytes, at: float) -> bytes:
        held.append(real(self, data_object, at))
        if len(held) == 1:
            return doe.encode_object(doe.SPDM, bytes([version, Error.CODE, 3, 0]))
        return held[-2]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Mailbox, "carry", late)
        assert stage.interface.check(stage.now()) is not InterfaceState.RUN
    assert stage.platform.module.records.contexts[1].agent.session is None


@pytest.mark.parametrize("reset", ResetKind, ids=lambda kind: kind.name)
def test_a_reset_of_the_device_frees_its_streams(reset: ResetKind) -> None:
    """Neither end may go on believing in a stream whose keys the other has lost."""
    stage = Stage(run=False)
    device = stage.platform.device
    device.reset(reset)
    assert not any(bound.stream.enabled for bound in device.port.ide._bound)
    assert not stage.platform.module.records.contexts[1].unit.is_secure(1)


@pytest.mark.parametrize("operation", [DevifOperation.LOCK, DevifOperation.START, DevifOperation.REPORT])
def test_an_answer_after_the_stream_was_blocked_is_not_believed(operation: DevifOperation) -> None:
    stage = Stage(run=False)
    tsm = stage.platform.module
    respond = tsm.tdh_devif_response
    seen: list[tuple[InterfaceState, int, bytes]] = []

    def block_first(call: d.TdhDevifResponse, now: float) -> Result[Any]:
        devif = tsm.records.devifs[stage.vf.function_id]
        if devif.operation_under_way is not operation:
            return respond(call, now)
        tsm.tdh_ide_stream_block(d.TdhIdeStreamBlock(spdm_id=1, stream_id=1))
        result = respond(call, now)
        seen.append((devif.state, devif.bind_session_id, devif.report_digest))
        return result

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tsm, "tdh_devif_response", block_first)
        with pytest.raises(TeeioError):
            stage.interface.bring_up(stage.guest.verifier, TRUSTED_REGISTERS, stage.now())
    assert seen
    for state, bind_session_id, report_digest in seen:
        assert state not in (InterfaceState.CONFIG_LOCKED, InterfaceState.RUN)
        assert not bind_session_id
        assert operation is not DevifOperation.REPORT or not report_digest


def _refuse_once(tsm: VmmToTsm, offset: int, patch: pytest.MonkeyPatch) -> None:
    """Let every third kind of removing call be refused the first time."""
    methods = [name for name in dir(tsm) if name.startswith("tdh_") and name.split("_")[-1] in _REMOVING]
    for name in methods[offset::3]:
        patch.setattr(tsm, name, _once(getattr(tsm, name)))


def _once(real: Callable[..., Any]) -> Callable[..., Any]:
    calls: list[object] = []

    def call(*operands: Any) -> Any:
        calls.append(operands)
        return real(*operands) if len(calls) > 1 else Result(Status.OPERAND_BUSY, reason="try again")

    return call


_REMOVING = {"block", "remove", "unmap", "delete", "clear", "reclaim", "freeid", "set", "req", "proc", "track"}


@pytest.mark.parametrize("offset", [0, 1, 2])
def test_what_cannot_be_taken_apart_at_once_is_taken_apart_later(offset: int) -> None:
    stage = Stage()
    with pytest.MonkeyPatch.context() as patch:
        _refuse_once(stage.platform.module, offset, patch)
        for _ in range(20):
            try:
                if stage.vmm.kvm.machines:
                    stage.platform.shut_down(stage.guest)
                if stage.vmm.pci_tsm.connections:
                    stage.vmm.pci_tsm.disconnect(stage.pf, stage.now())
                break
            except TeeioError:
                continue
    assert stage.platform.memory.accounting() == stage.before
    assert not stage.platform.module.records.contexts
    stage.vmm.pci_tsm.connect(stage.pf, stage.now())


def test_an_interface_left_in_error_can_be_used_by_the_next_tvm() -> None:
    stage = Stage()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Mailbox, "carry", lambda *_: b"")
        stage.platform.shut_down(stage.guest)
    assert stage.tdi.interface.state is not InterfaceState.CONFIG_UNLOCKED
    if stage.vmm.pci_tsm.connections:
        stage.vmm.pci_tsm.disconnect(stage.pf, stage.now())
    stage.vmm.pci_tsm.connect(stage.pf, stage.now())
    again = stage.platform.launch("next", stage.vmm.vfio.unit(UnitKind.VF, stage.vf.address))
    assert again.interface().bring_up(again.verifier, TRUSTED_REGISTERS, stage.now()).accepted
