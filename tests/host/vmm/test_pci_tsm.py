"""connect, bind, unbind, disconnect at the VMM: repeated, refused, failing half-way, with devices that lie or are silent."""

from __future__ import annotations

import pytest

from host_machine import NOW, Guest, Host
from teeio.abi import Result
from teeio.abi import hypercalls as v
from teeio.abi.operands import DevifOperation
from teeio.abi.statuses import Status, TdcmStatus
from teeio.errors import Incompatible, Misuse, TransportError
from teeio.host.vmm.mailbox import MAX_ROUNDS, Mailbox
from teeio.pcie import doe
from teeio.tdisp.messages import InterfaceState


def test_a_device_without_the_means_is_not_connected() -> None:
    host = Host(connect=False)
    host.pf.extended.pop(0x30)
    host.pf.capabilities.pop(0x10)
    with pytest.raises(Incompatible, match="is no DSM"):
        host.vmm.pci_tsm.connect(host.pf, NOW)
    with pytest.raises(Incompatible, match="is no DSM"):
        host.vmm.pci_tsm.connect(host.vfs[0], NOW)
    host.device.mailbox.protocols = (doe.DISCOVERY,)
    with pytest.raises(Incompatible, match="carries no SPDM"):
        Mailbox(host.pf)
    with pytest.raises(Misuse, match="is not connected"):
        host.vmm.pci_tsm.disconnect(host.pf, NOW)
    with pytest.raises(Misuse, match="not connected"):
        host.vmm.pci_tsm.bind(host.vfs[0], 0, NOW)
    assert host.memory.accounting() == host.before


def test_binding_twice_is_fine_for_the_same_tvm_only() -> None:
    host = Host()
    one, two = Guest(host, "one", 0), Guest(host, "two", 1)
    tsm = host.vmm.pci_tsm
    binding = tsm.bind(one.function, one.machine.tdr, NOW)
    assert tsm.bind(one.function, one.machine.tdr, NOW) is binding
    with pytest.raises(Misuse, match="another TVM"):
        tsm.bind(one.function, two.machine.tdr, NOW)
    assert tsm.is_bound(one.function)
    assert not tsm.is_bound(two.function)
    with pytest.raises(Misuse, match="is not bound"):
        tsm.guest_req(two.function, DevifOperation.STATE, NOW)
    two.bring_up()
    host.vmm.pci_tsm.disconnect(host.pf, NOW)
    assert not host.module.records.devifs, "disconnect unbinds all"
    assert two.tdi.state is InterfaceState.CONFIG_UNLOCKED


def test_a_device_that_falls_silent_is_taken_away_all_the_same() -> None:
    host = Host()
    guest = Guest(host)
    guest.bring_up()
    host.device.mailbox.handler = lambda data_object: None
    guest.unbind().require("TDCM.UNBIND")
    assert not host.port.ide.is_secure(1), "its stream is blocked"
    assert guest.tdi.state is InterfaceState.ERROR
    host.vmm.kvm.destroy(guest.machine, NOW)
    host.vmm.pci_tsm.disconnect(host.pf, NOW)
    assert host.memory.accounting() == host.before
    assert not host.module.records.contexts
    host.check_declared()


def test_a_mailbox_carries_one_exchange_at_a_time() -> None:
    host = Host()
    pci_tsm, mailbox = host.vmm.pci_tsm, host.connection.mailbox
    honest, refusals = mailbox.carry, []

    def impatient(data_object: bytes, now: float) -> bytes:
        with pytest.raises(Misuse, match="in use") as refused:
            pci_tsm.refresh_keys(host.pf, now)
        refusals.append(refused.value.remedy)
        return honest(data_object, now)

    mailbox.courier = impatient
    pci_tsm.refresh_keys(host.pf, NOW)
    assert set(refusals) == {"try again when the exchange under way is done"}
    assert host.device.port.ide.is_secure(host.connection.stream.stream_id)
    mailbox.courier = None
    pci_tsm.refresh_keys(host.pf, NOW)


def test_amid_an_exchange_nothing_is_bound_or_unbound_and_nobody_else_is_stopped() -> None:
    host = Host(vfs=3)
    one, two, three = Guest(host, "one", 0), Guest(host, "two", 1), Guest(host, "three", 2)
    one.bring_up()
    two.bring_up()
    mailbox = host.connection.mailbox
    honest, answers = mailbox.carry, []

    def amid(data_object: bytes, now: float) -> bytes:
        answers.append(one.unbind().status)
        lock = v.TdcmBind(function_id=three.function_id)
        answers.append(three.vmm.tdcm_bind(lock, NOW).status)
        return honest(data_object, now)

    mailbox.courier = amid
    host.vmm.pci_tsm.guest_req(two.function, DevifOperation.STATE, NOW)
    mailbox.courier = None
    assert answers == [TdcmStatus.WAIT] * 2
    assert [guest.tdi.state for guest in (one, two)] == [InterfaceState.RUN] * 2
    assert not host.vmm.pci_tsm.is_bound(three.function)
    one.unbind().require("TDCM.UNBIND")
    three.bring_up()
    assert [guest.tdi.state for guest in (two, three)] == [InterfaceState.RUN] * 2


def test_an_interface_that_is_being_unbound_is_not_unbound_within() -> None:
    host = Host()
    guest = Guest(host)
    guest.bring_up()
    mailbox, answers = host.connection.mailbox, []

    def amid(data_object: bytes, now: float) -> bytes:
        answers.append(guest.unbind().status)
        return mailbox.carry(data_object, now)

    mailbox.courier = amid
    guest.unbind().require("TDCM.UNBIND")
    assert answers == [TdcmStatus.WAIT]
    assert not host.vmm.pci_tsm.is_bound(guest.function)
    assert guest.tdi.state is InterfaceState.CONFIG_UNLOCKED


def test_the_pump_waits_and_gives_up_in_the_end() -> None:
    host = Host(connect=False)
    mailbox = Mailbox(host.pf)
    times: list[float] = []

    def waiting(response: bytes | None, now: float) -> Result[int]:
        times.append(now)
        if now < NOW + 3:
            return Result(Status.INTERRUPTED_RESUMABLE, resume_at=now + 1)
        return Result(Status.SUCCESS, 7)

    assert mailbox.pump(waiting, NOW).require("call") == 7
    assert times == [NOW, NOW + 1, NOW + 2, NOW + 3]
    rounds = 0

    def endless(response: bytes | None, now: float) -> Result[int]:
        nonlocal rounds
        rounds += 1
        return Result(Status.INTERRUPTED_RESUMABLE, resume_at=now)

    with pytest.raises(TransportError, match="is not done"):
        mailbox.pump(endless, NOW)
    assert rounds == MAX_ROUNDS
