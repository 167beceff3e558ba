"""An interface that had trusted traffic is bound again only after its stream got new keys (CVE-2025-9614)."""

from __future__ import annotations

from dataclasses import replace

import pytest

from host.tdx.exchanges import bring_to, drive
from host_machine import NOW, Guest, Host
from teeio.abi import CallRefused
from teeio.abi.operands import DevifOperation
from teeio.pcie.capabilities.sriov import VF_BARS_AT, SriovCapability
from teeio.pcie.ide_tlp import is_ide
from teeio.pcie.link import Way
from teeio.pcie.link_rules import AS_PUBLISHED
from teeio.tdisp.messages import InterfaceState


def keys(host: Host) -> list[str]:
    return [stream.key_set.name for stream in host.module.records.streams()]


def test_the_vmm_gives_the_stream_new_keys_between_two_bindings() -> None:
    host = Host()
    guest = Guest(host)
    guest.bring_up()
    guest.unbind().require("unbind")
    assert keys(host) == ["K0"], "not before somebody needs them"
    guest.bring_up()
    assert keys(host) == ["K1"]
    assert guest.tdi.state is InterfaceState.RUN
    host.check_declared()


def test_without_new_keys_it_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    host = Host()
    one, two = Guest(host, "one", 0), Guest(host, "two", 1)
    one.bring_up()
    one.unbind().require("unbind")
    with monkeypatch.context() as patched:
        patched.setattr(host.vmm.pci_tsm, "refresh_keys", lambda *_: None)
        with pytest.raises(CallRefused, match="IDE_STREAM_NEEDS_NEW_KEYS"):
            host.vmm.pci_tsm.bind(one.function, one.machine.tdr, NOW)
    two.bring_up()
    assert keys(host) == ["K0"], "another interface of the stream needs none"
    one.bring_up()
    assert keys(host) == ["K1"]
    assert two.tdi.state is InterfaceState.RUN
    host.check_declared()


def test_one_without_traffic_needs_none() -> None:
    host = Host()
    guest = Guest(host)
    guest.bind()
    guest.unbind().require("unbind")
    guest.bring_up()
    assert keys(host) == ["K0"]


def test_a_refresh_for_other_reasons_will_do() -> None:
    host = Host()
    guest = Guest(host)
    guest.bring_up()
    guest.unbind().require("unbind")
    host.vmm.pci_tsm.refresh_keys(host.pf, NOW)
    guest.bring_up()
    assert keys(host) == ["K1"]


def test_as_published_nobody_asks() -> None:
    host = Host()
    host.module.records.rules = AS_PUBLISHED
    guest = Guest(host)
    guest.bring_up()
    guest.unbind().require("unbind")
    guest.bring_up()
    assert keys(host) == ["K0"]


def test_one_whose_start_was_never_answered_counts_as_one_that_ran() -> None:
    host = Host()
    guest = Guest(host)
    bring_to(guest, InterfaceState.CONFIG_LOCKED)
    devif = host.module.records.devif(guest.function_id)
    assert not devif.had_traffic
    devif.take_nonce()
    drive(guest, DevifOperation.STOP)
    guest.unbind().require("unbind")
    assert guest.function_id in next(host.module.records.streams()).had_traffic
    guest.bring_up()
    assert keys(host) == ["K1"]


def write_held(host: Host, guest: Guest) -> list[bytes]:
    """Let a guest write its MMIO, and somebody on the link hold that."""
    held: list[bytes] = []

    def hold(frame: bytes, way: Way) -> bytes | None:
        if way is Way.DOWN and is_ide(frame):
            held.append(frame)
            return None
        return frame

    host.link.tamper = hold
    guest.processor.store(guest.bar(0) + 0x1000, b"planted!")
    host.link.tamper = None
    return held


def test_a_write_of_a_tvm_that_never_started_reaches_no_later_one() -> None:
    """T=1 goes down as soon as MMIO is accepted, before START: somebody on the link may hold it for the next TVM."""
    host = Host()
    one = Guest(host, "one")
    lock = one.bind()
    one.accept_mmio(lock, one.report(lock))
    held = write_held(host, one)
    assert held
    host.vmm.kvm.destroy(one.machine, NOW)
    two = Guest(host, "two")
    two.bring_up()
    assert two.tdi.state is InterfaceState.RUN
    for frame in held:
        host.link.inject(frame, Way.DOWN)
    assert two.tdi.function.read(0, 0x1000, 8) == bytes(8)
    assert keys(host) == ["K1"]


def moved_under_held_writes(host: Host) -> tuple[list[bytes], Guest]:
    """Hold writes to one VF's MMIO, end its TVM, and move another VF, a new TVM's, to where it was."""
    one = Guest(host, "one", 1)
    one.bring_up()
    held = write_held(host, one)
    assert held
    host.vmm.kvm.destroy(one.machine, NOW)
    vf, there = host.vfs[0], host.vfs[1].bars[0].address
    at = host.pf.extended[SriovCapability.ID] + VF_BARS_AT
    host.pf.config.write(at, 4, there & 0xFFFF_FFFF)
    host.pf.config.write(at + 4, 4, there >> 32)
    vf.bars[0] = replace(vf.bars[0], address=there)
    return held, Guest(host, "two", 0)


def test_mmio_that_was_another_interfaces_is_not_mapped_under_the_same_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    host = Host()
    _, two = moved_under_held_writes(host)
    monkeypatch.setattr(host.vmm.pci_tsm, "refresh_keys", lambda *_: None)
    with pytest.raises(CallRefused, match=r"TDH\.MMIO\.MAP: IDE_STREAM_NEEDS_NEW_KEYS"):
        two.bring_up()
    assert keys(host) == ["K0"]
    host.check_declared()


def test_a_write_reaches_no_other_interface_that_the_vmm_moves_to_its_address() -> None:
    host = Host()
    held, two = moved_under_held_writes(host)
    two.bring_up()
    assert keys(host) == ["K1"], "the VMM has renewed them of its own accord"
    assert two.tdi.state is InterfaceState.RUN
    for frame in held:
        host.link.inject(frame, Way.DOWN)
    assert two.tdi.function.read(0, 0x1000, 8) == bytes(8)
    host.check_declared()
