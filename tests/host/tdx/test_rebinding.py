"""An interface that has run is bound again only after its stream got new keys (CVE-2025-9614)."""

from __future__ import annotations

import pytest

from host.tdx.exchanges import bring_to, drive
from host_machine import NOW, Guest, Host
from teeio.abi import CallRefused
from teeio.abi.operands import DevifOperation
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


def test_one_that_never_ran_needs_none() -> None:
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
    assert not devif.has_run
    devif.take_nonce()
    drive(guest, DevifOperation.STOP)
    guest.unbind().require("unbind")
    assert guest.function_id in next(host.module.records.streams()).has_run
    guest.bring_up()
    assert keys(host) == ["K1"]
