"""What is counted is really taken by a life, and what a fault takes is given back."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from faults.striking import Struck
from peer_scene import A, B, PeerHost, Tenant
from teeio.device.configuration import Configuration
from teeio.errors import Misuse
from teeio.faults import (
    ACCOUNTS,
    Ending,
    Returned,
    State,
    counts,
    left,
)
from teeio.faults.accounts import Account, distinct
from teeio.faults.life import Life
from teeio.faults.points import Seam
from teeio.faults.scene import Scene
from teeio.host.memory import VmmMemory
from teeio.host.vmm.bus import PciFunction
from teeio.host.vmm.mailbox import Mailbox
from teeio.host.vmm.page_lender import PageLender
from teeio.observe import Observer
from teeio.pcie.seams import ResetKind
from teeio.platform import Platform
from teeio.spdm.constants import MIN_DATA_TRANSFER_SIZE
from teeio.spdm.state import RESPONDER_CAPABILITIES, Settings


class Counting(Scene):
    """Remembers the most that each account had when something passed."""

    def __init__(self) -> None:
        self.most: Counter[str] = Counter()
        super().__init__()

    def passes(self, seam: Seam, name: str, act: Callable[[Any], Any], subject: Any) -> Any:
        def counted(subject: Any) -> Any:
            if not self.step or self.points[-1].count > (8 if "KM" in name or "CfgRd0" in name else 2):
                return act(subject)
            self.most |= Counter(counts(self.platform))
            answer = act(subject)
            self.most |= Counter(counts(self.platform))
            return answer

        return super().passes(seam, name, counted, subject)


def taken_by_one_device() -> Counter[str]:
    """Live the life that faults strike."""
    scene = Counting()
    assert left(counts(scene.platform)) == {}
    Life(scene).live()
    assert left(counts(scene.platform)) == {}
    return scene.most


def taken_by_peers() -> Counter[str]:
    """Let two devices write to each other, then reset one of them while they are bound."""
    host = PeerHost(vfs=1)
    tenant = Tenant(host)
    tenant.connect()
    tenant.send(A, B)
    most = Counter(counts(host.platform))
    host.platform.devices[B].reset(ResetKind.FUNCTION_LEVEL, tenant.vfs[B].address)
    most |= Counter(counts(host.platform))
    host.platform.shut_down(tenant.guest)
    for pf in host.pfs:
        host.vmm.pci_tsm.disconnect(pf, host.now())
    assert left(counts(host.platform)) == {}
    return most


def taken_by_chunks() -> Counter[str]:
    """Connect a device that takes only as much at once as DSP0274 says it must."""
    settings = Settings(capabilities=RESPONDER_CAPABILITIES, data_transfer_size=MIN_DATA_TRANSFER_SIZE)
    platform = Platform.assemble(seed=1, configuration=Configuration(settings=settings))
    most: Counter[str] = Counter()

    def counting(function: PciFunction, observer: Observer) -> Mailbox:
        def carried(data_object: bytes, now: float) -> bytes:
            nonlocal most
            answer = mailbox.carry(data_object, now)
            most |= Counter(counts(platform))
            return answer

        mailbox = Mailbox(function, observer)
        mailbox.courier = carried
        return mailbox

    platform.vmm.pci_tsm.mailboxes = counting
    (pf,) = platform.vmm.bus.enumerate()
    platform.vmm.pci_tsm.connect(pf, platform.now())
    platform.vmm.pci_tsm.disconnect(pf, platform.now())
    assert left(counts(platform)) == {}
    return most


def test_every_account_rises_in_a_life_and_returns_to_zero() -> None:
    """One device needs no peer, no ATS and no chunks, and none of its TDIs fails: two more lives do."""
    by_one, by_peers, by_chunks = map(set, map(left, (taken_by_one_device(), taken_by_peers(), taken_by_chunks())))
    of_peers = {
        "TDIs in ERROR (device)",
        "peer-to-peer streams bound (device)",
        "cached translations (device)",
        "P2P streams (TSM)",
        "pairs that TVMs have allowed (TSM)",
        "pairs of interfaces (VMM)",
    }
    assert by_peers - by_one == of_peers
    assert by_chunks - by_one == {"messages in chunks under way (device)"}
    assert by_one | by_peers | by_chunks == {str(account) for account in ACCOUNTS}


def test_no_two_accounts_have_one_name() -> None:
    """The counts are kept by name: one would hide the other."""
    one = ACCOUNTS[0]
    with pytest.raises(Misuse, match=re.escape(str(one))):
        distinct(*ACCOUNTS, Account(one.what, one.where, lambda _: 0))
    assert len(counts(Platform.assemble(seed=1))) == len(ACCOUNTS)


# -- the VMM broken off: its memory is in nobody's records but its own


@pytest.mark.parametrize(
    ("step", "call"),
    [("connect", "TDH.SPDM.CREATE"), ("connect", "TDH.IDE.STREAM.CREATE"), ("launch", "TDH.MEM.PAGE.AUG")],
)
def test_a_page_for_a_call_that_was_never_made_comes_back(struck: Struck, step: str, call: str) -> None:
    played = struck("break-off", step, call)
    assert (played.ending, played.returned, played.problems) == (Ending.UNDONE, Returned.AT_ONCE, [])


def test_a_page_that_is_lost_with_its_call_is_noticed(struck: Struck, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PageLender, "_take_one", lambda lender, undo: VmmMemory.allocate(lender._memory))
    played = struck("break-off", "connect", "TDH.SPDM.CREATE")
    assert any("1 pages that the VMM uses or shares" in problem for problem in played.problems)


def test_an_exchange_that_is_broken_off_goes_on_or_is_given_up(struck: Struck) -> None:
    played = struck("break-off", "refresh", "KEY_PROG")
    assert (played.ending, played.state, played.problems) == (Ending.UNFINISHED, State.RUNNING, [])


def test_a_tvm_whose_hypercall_never_returns_is_ended_from_outside(struck: Struck) -> None:
    played = struck("break-off", "lock", "LOCK_INTERFACE_REQUEST")
    assert (played.ending, played.state, played.returned) == (Ending.HALTED, State.BOUND, Returned.AFTER_LAPSE)
    assert played.problems == []


# -- calls that are repeated


def test_a_call_that_is_never_let_through_fails_its_step(struck: Struck) -> None:
    played = struck("busy-long", "launch", "TDH.MEM.PAGE.AUG")
    assert (played.ending, played.state, played.problems) == (Ending.UNDONE, State.CONNECTED, [])
    assert "OPERAND_BUSY" in played.refusal


@pytest.mark.parametrize(
    ("step", "call"),
    [("launch", "TDH.MEM.PAGE.AUG"), ("lock", "TDCM.BIND"), ("accept", "TDG.MMIO.ACCEPT"), ("unlock", "TDCM.UNBIND")],
)
def test_a_call_that_is_made_twice_is_done_once(struck: Struck, step: str, call: str) -> None:
    played = struck("call-twice", step, call)
    assert (played.ending, played.state, played.problems) == (Ending.WENT_ON, State.NOT_CONNECTED, [])
