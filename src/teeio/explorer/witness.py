"""What happened and must not: who reached what with which T bit is noted where it is decided, in the root complex and the device.

A state tells what could happen next, a witness what did. It is told of every T=1 request that a function took or sent, of every
translation that the IOMMU gave, and of the TVMs' acceptance of trusted entries; it changes nothing.
"""

from __future__ import annotations

from typing import Any

from teeio.abi.operands import DmarLevel
from teeio.host.iommu import Fault
from teeio.host.memory import SHARED
from teeio.platform import Platform
from teeio.tdisp.messages import InterfaceState

PRIVATE = "no request without trust ends on private memory"
OWN_MEMORY = "with T=1 a device reaches its own TVM's memory alone"
ACCEPTED = "T=1 goes only where the TVM has accepted the entry"
IN_RUN = "no T=1 outside RUN"
OWN_NAME = "no T=1 in a stranger's name"
OWN_INTERFACE = "no call reaches another TVM's interface"

RULES = (PRIVATE, OWN_MEMORY, ACCEPTED, IN_RUN, OWN_NAME, OWN_INTERFACE)
"""What a witness can tell of."""


class Witness:
    """Watches one platform. `problems` says of each rule how it was broken first."""

    def __init__(self, platform: Platform) -> None:
        self.problems: dict[str, str] = {}
        self.accepted: set[tuple[int, int]] = set()
        """Trusted entries that a TVM has accepted and that were not removed since: requester id and TVM."""
        self._platform = platform
        self._watch_device()
        self._watch_iommu()
        self._watch_tables()

    def note(self, rule: str, problem: str) -> None:
        """Note that a rule was broken."""
        self.problems.setdefault(rule, problem)

    def _watch_device(self) -> None:
        completer: Any = self._platform.device._completer
        admit = completer._admit

        def admitting(function: Any, bar: int, offset: int, size: int, t_bit: bool, stream_id: int | None) -> Any:
            found = admit(function, bar, offset, size, t_bit, stream_id)
            if found is not None and t_bit:
                state = self._platform.device.tdi(function).state
                if state is not InterfaceState.RUN:
                    self.note(IN_RUN, f"{function} took a request with T=1 in {state.name}")
            return found

        completer._admit = admitting
        port: Any = self._platform.device.port
        read, write = port.dma_read, port.dma_write

        def reading(requester_id: int, address: int, size: int, t_bit: bool, stream_id: int | None = None) -> Any:
            self._sent(requester_id, t_bit)
            return read(requester_id, address, size, t_bit, stream_id)

        def writing(requester_id: int, address: int, data: bytes, t_bit: bool, stream_id: int | None = None) -> Any:
            self._sent(requester_id, t_bit)
            return write(requester_id, address, data, t_bit, stream_id)

        port.dma_read, port.dma_write = reading, writing

    def _sent(self, requester_id: int, t_bit: bool) -> None:
        """Look at a request that leaves the device; it may arrive when its TDI is in RUN no more."""
        device = self._platform.device
        for address, function in device.present().items() if t_bit else ():
            state = device.tdis[function].state
            if address.requester_id == requester_id and state is not InterfaceState.RUN:
                self.note(IN_RUN, f"{address} sent a request with T=1 in {state.name}")

    def _watch_iommu(self) -> None:
        iommu: Any = self._platform.root_complex.iommus[0]
        translate = iommu.translate

        def translating(requester_id: int, address: int, size: int, **how: Any) -> Any:
            found = translate(requester_id, address, size, **how)
            if how["t_bit"]:
                self._trusted(requester_id, found)
            if not isinstance(found, Fault):
                for segment in found:
                    self._reached(segment, requester_id)
            return found

        iommu.translate = translating

    def _trusted(self, requester_id: int, found: Any) -> None:
        """Look at a request with T=1 that the root complex has believed."""
        records = self._platform.module.records
        if not any(requester_id in context.requesters for context in records.contexts.values()):
            self.note(OWN_NAME, f"T=1 was believed of requester {requester_id:#06x}, for whom there is no stream")
        if isinstance(found, Fault):
            return
        devif = records.devifs.get(requester_id)
        tdr = devif.tvm.tdr if devif else 0
        if (requester_id, tdr) not in self.accepted:
            self.note(
                ACCEPTED, f"requester {requester_id:#06x} was translated with T=1 by an entry that nobody accepted"
            )
        owners = {segment.owner for segment in found} - {SHARED}
        if devif is None or owners - {devif.tvm.sept.owner}:
            self.note(OWN_MEMORY, f"requester {requester_id:#06x} was led to memory of another TVM")

    def _reached(self, segment: Any, requester_id: int) -> None:
        memory = self._platform.memory
        whose = memory.owner_of(segment.hpa)
        if segment.owner == SHARED and whose > SHARED:
            self.note(PRIVATE, f"requester {requester_id:#06x} was let through to the page at {segment.hpa:#x}")
        if segment.owner > SHARED and whose != segment.owner:
            self.note(OWN_MEMORY, f"requester {requester_id:#06x} was led to a page that its TVM has no more")

    def _watch_tables(self) -> None:
        tables: Any = self._platform.module.records.dmar[0]
        accept, remove = tables.accept, tables.remove

        def accepting(requester_id: int, tdr: int) -> None:
            accept(requester_id, tdr)
            self.accepted.add((requester_id, tdr))

        def removing(level: DmarLevel, requester_id: int) -> Any:
            removed = remove(level, requester_id)
            if level is DmarLevel.PASID:
                self.accepted = {one for one in self.accepted if one[0] != requester_id}
            return removed

        tables.accept, tables.remove = accepting, removing
