"""How the VMM builds the trusted DMA tables of its IOMMUs for interfaces, and takes them down (TDX Connect).

It keeps no table, only which entries it has had added and for how many interfaces: a root entry serves half a bus, so
the interfaces there have it, and the context table below it, in common; the rest is each interface's own. Entries come
from the root down; they go from the leaf up, each blocked, invalidated and removed before the one above it.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import TypeAlias

from teeio.abi import VmmToTsm
from teeio.abi import memory_seamcalls as m
from teeio.abi.operands import DmarLevel, DmarState, Invalidation
from teeio.abi.statuses import Status
from teeio.errors import Incompatible
from teeio.host.dmar_tables import TABLES, offered, qwords
from teeio.host.vmm.page_lender import PageLender
from teeio.host.vmm.teardown import Teardown

MAX_INVALIDATION_STEPS = 4096
"""How often the VMM asks the IOMMU's queue to go on before it gives up."""

DOWN = (DmarLevel.ROOT, DmarLevel.CONTEXT, DmarLevel.PASID_DIRECTORY, DmarLevel.PASID)
"""The levels in the order in which they are built."""

Slot: TypeAlias = tuple[int, DmarLevel, int]
"""An entry: IOMMU, level, and the index of the root entry or the requester id."""


class TrustedDma:
    """The trusted tables of all IOMMUs of one host, as far as the VMM has a hand in them."""

    def __init__(self, tsm: VmmToTsm, lender: PageLender) -> None:
        self._tsm = tsm
        self._lender = lender
        self._users: dict[Slot, int] = {}

    @property
    def in_use(self) -> int:
        """How many entries there are."""
        return len(self._users)

    @property
    def iommus(self) -> frozenset[int]:
        """The IOMMUs on which interfaces of TVMs have entries."""
        return frozenset(iommu_id for iommu_id, level, _ in self._users if level is DmarLevel.PASID)

    def add(self, iommu_id: int, function_id: int, tdr: int) -> None:
        """Add what is missing of the way to a TVM, for the TVM to accept. All or nothing. Raises `CallRefused`."""
        with ExitStack() as undo:
            for level in DOWN:
                self._take(iommu_id, level, function_id, tdr)
                undo.callback(Teardown(self._release(iommu_id, level, function_id)).run)
            undo.pop_all()

    def remove(self, iommu_id: int, function_id: int) -> list[Callable[[], None]]:
        """Give the steps that take an interface's entries away. They raise `CallRefused`."""
        return [step for level in reversed(DOWN) for step in self._release(iommu_id, level, function_id)]

    def _take(self, iommu_id: int, level: DmarLevel, function_id: int, tdr: int) -> None:
        slot = _slot(iommu_id, level, function_id)
        if slot not in self._users:
            self._add_entry(iommu_id, level, function_id, tdr)
        self._users[slot] = self._users.get(slot, 0) + 1

    def _add_entry(self, iommu_id: int, level: DmarLevel, function_id: int, tdr: int) -> None:
        leaf = level is DmarLevel.PASID

        def add(page: int) -> m.TdhDmarAdd:
            entry = qwords(offered(level, page))
            return m.TdhDmarAdd(
                iommu_id=iommu_id, function_id=function_id, level=level, entry=entry, tdr=tdr if leaf else 0
            )

        if leaf:
            self._tsm.tdh_dmar_add(add(0)).require("TDH.DMAR.ADD")
        else:
            self._lender.give(lambda pages: self._tsm.tdh_dmar_add(add(pages[0]))).require("TDH.DMAR.ADD")

    def _release(self, iommu_id: int, level: DmarLevel, function_id: int) -> list[Callable[[], None]]:
        """Give the steps that take an entry away, unless others use it when it comes to that."""
        slot = _slot(iommu_id, level, function_id)

        def last() -> bool:
            return self._users.get(slot) == 1

        def block() -> None:
            if last():
                call = m.TdhDmarBlock(iommu_id=iommu_id, function_id=function_id, level=level)
                blocked = self._tsm.tdh_dmar_block(call)
                if blocked.status.is_error and not self._is_blocked(iommu_id, level, function_id):
                    blocked.require("TDH.DMAR.BLOCK")

        def invalidate() -> None:
            if last():
                self.invalidate(iommu_id, Invalidation[level.name], function_id)

        def remove() -> None:
            if last():
                call = m.TdhDmarRemove(iommu_id=iommu_id, function_id=function_id, level=level)
                removed = self._tsm.tdh_dmar_remove(call)
                removed.require("TDH.DMAR.REMOVE")
                self._lender.take_back(removed)
                del self._users[slot]
            else:
                self._users[slot] -= 1

        return [block, invalidate, remove]

    def _is_blocked(self, iommu_id: int, level: DmarLevel, function_id: int) -> bool:
        """Tell whether an entry is blocked already, by the VMM itself or before it was broken off."""
        call = m.TdhDmarRead(iommu_id=iommu_id, function_id=function_id, level=level)
        found = self._tsm.tdh_dmar_read(call)
        return found.values is not None and found.values.state is DmarState.BLOCKED

    def invalidate(self, iommu_id: int, scope: Invalidation, target: int) -> None:
        """Throw away what is cached, and wait until that is done. Raises `CallRefused`."""
        request = m.TdhIqinvReq(iommu_id=iommu_id, scope=scope, target=target)
        process = m.TdhIqinvProc(iommu_id=iommu_id)
        for _ in range(MAX_INVALIDATION_STEPS):
            asked = self._tsm.tdh_iqinv_req(request)
            if asked.status is not Status.IOMMU_QUEUE_FULL:
                break
            self._tsm.tdh_iqinv_proc(process)
        if asked.status is not Status.DMAR_INVALID_INV_STATE:  # asked for before, when the answer did not come
            asked.require("TDH.IQINV.REQ")
        for _ in range(MAX_INVALIDATION_STEPS):
            if not self._tsm.tdh_iqinv_proc(process).require("TDH.IQINV.PROC").waiting:
                return
        raise Incompatible(f"IOMMU {iommu_id} has not invalidated after {MAX_INVALIDATION_STEPS} steps")


def _slot(iommu_id: int, level: DmarLevel, function_id: int) -> Slot:
    index = TABLES[level].index_of(function_id & 0xFFFF) if level is DmarLevel.ROOT else function_id & 0xFFFF
    return iommu_id, level, index
