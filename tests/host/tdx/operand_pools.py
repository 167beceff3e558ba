"""Operands that a hostile but well-informed caller passes: mostly real handles and addresses, in any combination."""

from __future__ import annotations

import dataclasses
import random
import typing
from typing import Any

from host_machine import Guest, Host
from teeio.abi import Call
from teeio.abi.operands import (
    PAGE_SIZE,
    DevifOperation,
    DmarLevel,
    Invalidation,
    KmOperation,
    LockParameters,
    PageLevel,
    SpdmOperation,
    StreamOptions,
)
from teeio.abi.tdcalls import NO_BIND_SESSION
from teeio.host.dmar_tables import offered, qwords
from teeio.host.root_complex import DEVICE_MEMORY
from teeio.host.tdx.records import MAX_PAGES
from teeio.host.vmm.guest_function import guest_address
from teeio.pcie.address import AddressRange

OPERATIONS = (SpdmOperation, KmOperation, DevifOperation)


class Operands:
    """Chooses the operands of calls on one host."""

    def __init__(self, host: Host, guests: list[Guest], chooser: random.Random) -> None:
        self.host, self.guests, self.chooser = host, guests, chooser
        self.spare = [host.memory.vmm.allocate() for _ in range(4)]
        self.ended = host.memory.vmm.allocate()

    def of(self, row: Call) -> Any:
        """Choose all operands of a call."""
        hints = typing.get_type_hints(row.arguments)
        return row.arguments(
            **{
                one.name: self.chooser.choice(self._pool(one.name, hints[one.name]))
                for one in dataclasses.fields(row.arguments)
            }
        )

    def _pool(self, name: str, kind: Any) -> list[Any]:
        if name == "operation":
            return [*next(one for one in OPERATIONS if one is kind), 77]
        if kind is DmarLevel:
            return [*DmarLevel, 9]
        pool = getattr(self, f"_{name}", None)
        if pool is not None:
            return list(pool())
        return list(POOLS[name])

    # -- what depends on the host as it is now

    def _tdr(self) -> list[int]:
        return [*self.host.module.records.tvms, self.ended, 0, 5]

    def _target(self) -> list[int]:
        return [*self._tdr(), *self._function_id()]

    def _function_id(self) -> list[int]:
        return [vf.function_id for vf in self.host.vfs] * 3 + [self.host.pf.function_id, 0, 1 << 30]

    _peer_function_id = _function_id

    def _spdm_id(self) -> list[int]:
        return [*self.host.module.records.contexts, 99]

    _peer_spdm_id = _spdm_id

    def _gpa(self) -> list[int]:
        bars = [guest_address(bar) for vf in self.host.vfs for bar in vf.bars.values()]
        return [0, PAGE_SIZE, 31 * PAGE_SIZE, 40 * PAGE_SIZE, 1 << 21, 5, *bars, 1 << 51]

    def _mmio(self) -> list[int]:
        bars = [bar.address for vf in self.host.vfs for bar in vf.bars.values()]
        regions = [at & -PageLevel.PAGE_2M.size for at in bars]
        return [*bars, *regions, 0, DEVICE_MEMORY.end - PageLevel.PAGE_2M.size]

    def _hpa(self) -> list[int]:
        return [*self.spare, self._private_page(), self._tdr()[0], 5, self.host.memory.size]

    _page = _source = _hpa

    def _private_page(self) -> int:
        leaves = (leaf.hpa for tvm in self.host.module.records.tvms.values() for _, leaf in tvm.sept.leaves())
        return next(leaves, 0)

    def _pages(self) -> list[tuple[int, ...]]:
        few = [(self.spare[0],), (self.spare[1], self.spare[2]), tuple(self.spare[1:]), ()]
        return [*few, (self._private_page(),), (0,) * (MAX_PAGES + 1)]

    def _entry(self) -> list[tuple[int, ...]]:
        good = [
            qwords(offered(level, page))
            for level in DmarLevel
            for page in ([0] if level is DmarLevel.PASID else [*self.spare, self._private_page()])
        ]
        return [*good, (1,), ()]

    def _requesters(self) -> list[tuple[int, int]]:
        first, last = self.host.pf.function_id, self.host.pf.last_requester
        return [(first, last), (first, first), (last, last), (0, 0)]

    def _memory(self) -> list[AddressRange]:
        window = self.host.vmm.bus.windows[self.host.pf.root_port]
        free = AddressRange(DEVICE_MEMORY.end - (1 << 21), 1 << 21)
        return [window, free, AddressRange(0, 1 << 20), AddressRange(5, 7)]

    _peer_memory = _memory

    def _root_port(self) -> list[int]:
        return [self.host.port.function.requester_id, 0]

    def _bind_session_id(self) -> list[int]:
        locks = [devif.bind_session_id for devif in self.host.module.records.devifs.values()]
        return [*locks, *locks, NO_BIND_SESSION, 1 << 20]

    _peer_bind_session_id = _bind_session_id

    def _public_key_hash(self) -> list[bytes]:
        found = [context.agent.evidence for context in self.host.module.records.contexts.values()]
        return [*(evidence.public_key_hash for evidence in found if evidence is not None), bytes(48)]

    def _nonce(self) -> list[bytes]:
        return [b"", b"", self.chooser.randbytes(32), bytes(32)]


POOLS: dict[str, list[Any]] = {
    "iommu_id": [0, 0, 0, 7],
    "stream_id": [1, 1, 2, 256],
    "response": [None, b"", b"nonsense" * 4],
    "lock": [None, LockParameters(1), LockParameters(2), LockParameters(1, 1 << 64)],
    "options": [
        StreamOptions(),
        StreamOptions(True, (3, 2, 1)),
        StreamOptions(False, (4, 0, 0)),
        StreamOptions(False, ()),
    ],  # type: ignore[arg-type]
    "attributes": [0, 0, 1],
    "tdx_connect": [True, True, False],
    "level": [PageLevel.PAGE_4K, PageLevel.PAGE_4K, PageLevel.PAGE_2M, 9],
    "present": [True, False],
    "scope": [*Invalidation, 9],
    "count": [1, 15, 512, 0, -1],
    "range_index": [0, 1, 2, 9],
    "page_offset": [0, 1, -1, 99],
}
