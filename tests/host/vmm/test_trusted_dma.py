"""The VMM's part in the trusted tables: all of the way to a TVM or none of it, and what breaks off is gone on with."""

from __future__ import annotations

from typing import Any

import pytest

from host_machine import NOW, Guest, Host
from teeio.abi import CallRefused, Result
from teeio.abi.operands import DmarLevel
from teeio.abi.statuses import Status
from teeio.host.memory import TSM
from teeio.host.vmm.teardown import Teardown


class Scene:
    """A TVM's interface that is bound; calls can be refused."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.host = Host()
        self.guest = Guest(self.host)
        self.guest.bind()
        self.mappings = self.host.vmm.pci_tsm.mappings
        self.mapped = self.host.connection.bindings[self.guest.function.address].mapped
        self._patch = monkeypatch

    def entries(self) -> list[DmarLevel]:
        return [level for level, _, _ in self.host.module.records.dmar[0].entries()]

    def refuse(self, name: str, number: int, *, after: bool = False) -> None:
        """Refuse the call of that number from now on, or say so though it is done."""
        honest, count = getattr(self.host.module, name), iter(range(1000))

        def call(operands: Any) -> Result[Any]:
            if next(count) != number:
                return honest(operands)
            if after:
                honest(operands)
            return Result(Status.OPERAND_INVALID, reason="on purpose")

        self._patch.setattr(self.host.module, name, call)


@pytest.mark.parametrize("number", range(4))
def test_what_is_refused_halfway_is_taken_down_again(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    scene = Scene(monkeypatch)
    Teardown(scene.mappings.remove_dma(scene.mapped)).run()
    before, in_use = scene.host.memory.accounting(), scene.mappings.in_use
    scene.refuse("tdh_dmar_add", number)
    with pytest.raises(CallRefused, match="on purpose"):
        scene.mappings.add_dma(scene.mapped)
    assert not scene.entries()
    assert scene.host.memory.accounting() == before
    assert scene.mappings.in_use == in_use
    scene.mappings.add_dma(scene.mapped)
    assert len(scene.entries()) == 4
    assert scene.host.memory.accounting()[TSM] == before[TSM] + 3


@pytest.mark.parametrize("name", ["tdh_dmar_block", "tdh_iqinv_req", "tdh_iqinv_proc", "tdh_dmar_remove"])
@pytest.mark.parametrize("number", [0, 3])
def test_taking_down_goes_on_where_it_broke_off(name: str, number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    scene = Scene(monkeypatch)
    before = scene.host.memory.accounting()[TSM]
    steps = Teardown(scene.mappings.remove_dma(scene.mapped))
    scene.refuse(name, number)
    with pytest.raises(CallRefused, match="on purpose"):
        steps.run()
    steps.run()
    assert not scene.entries()
    assert scene.host.memory.accounting()[TSM] == before - 3


def test_an_invalidation_whose_answer_was_lost_is_not_asked_for_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    scene = Scene(monkeypatch)
    steps = Teardown(scene.mappings.remove_dma(scene.mapped))
    scene.refuse("tdh_iqinv_req", 0, after=True)
    with pytest.raises(CallRefused, match="on purpose"):
        steps.run()
    steps.run()
    assert not scene.entries()


@pytest.mark.parametrize("number", range(4))
def test_what_was_blocked_though_the_answer_was_lost_is_as_wanted(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    scene = Scene(monkeypatch)
    scene.refuse("tdh_dmar_block", number, after=True)
    Teardown(scene.mappings.remove_dma(scene.mapped)).run()
    assert not scene.entries()


def test_who_comes_while_the_root_entry_goes_waits_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """The last interface of a bus leaves and is broken off; the next one is refused, and bound when that is done."""
    scene = Scene(monkeypatch)
    steps = Teardown(scene.mappings.remove_dma(scene.mapped))
    scene.refuse("tdh_dmar_remove", 3)
    with pytest.raises(CallRefused):
        steps.run()
    assert scene.entries() == [DmarLevel.ROOT]
    other = Guest(scene.host, "other", 1)
    with pytest.raises(CallRefused, match="DMAR_ENTRY_NOT_PRESENT"):
        scene.host.vmm.pci_tsm.bind(other.function, other.machine.tdr, NOW)
    steps.run()
    assert not scene.entries()
    other.bind()
    assert len(scene.entries()) == 4
