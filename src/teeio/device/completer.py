"""What a device makes of requests and messages to its functions, as the state of each TDI allows (PCIe Base 11.2.1).

A request that is not handled is unsupported: the completion of a read says so, of a posted write only the error log.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from teeio.device.bus import FunctionBus
from teeio.device.function import Function
from teeio.device.tdi import Tdi
from teeio.observe import Observer, Refused
from teeio.pcie.address import Bdf
from teeio.pcie.capabilities.aer import Uncorrectable
from teeio.pcie.config_space import Functions
from teeio.pcie.seams import DONE, UNSUPPORTED, Reply
from teeio.pcie.tlp import PAGE, CompletionStatus, MessageCode, Tlp, TlpType
from teeio.pcie.transfer import serve_memory
from teeio.tdisp.states import Event
from teeio.tdisp.tlp_rules import Access


class Completer:
    """The completer side of a device; `find` gives the function that has an address now, `log` records an error of the port."""

    def __init__(
        self,
        functions: Functions,
        find: Callable[[Bdf], Function | None],
        tdis: Mapping[Function, Tdi],
        buses: Mapping[Function, FunctionBus],
        *,
        log: Callable[[Uncorrectable, Tlp], None],
        observer: Observer,
    ) -> None:
        self._functions = functions
        self._find = find
        self._tdis = tdis
        self._buses = buses
        self._log = log
        self._observer = observer

    def bar_read(self, function: Bdf, bar: int, offset: int, size: int, t_bit: bool, stream_id: int | None) -> Reply:
        """Read a BAR as the TDI's state allows, else Unsupported Request."""
        found = self._admit(function, bar, offset, size, t_bit, stream_id)
        return UNSUPPORTED if found is None else Reply(CompletionStatus.SC, found.read(bar, offset, size))

    def bar_write(
        self, function: Bdf, bar: int, offset: int, data: bytes, t_bit: bool, stream_id: int | None
    ) -> CompletionStatus:
        """Write a BAR as the TDI's state allows, else Unsupported Request."""
        found = self._admit(function, bar, offset, len(data), t_bit, stream_id)
        if found is None:
            return CompletionStatus.UR
        found.write(bar, offset, data)
        self._buses[found].release_interrupts()
        return CompletionStatus.SC

    def _admit(
        self, function: Bdf, bar: int, offset: int, size: int, t_bit: bool, stream_id: int | None
    ) -> Function | None:
        """Find the function if the access lies in its BAR and its TDI handles it."""
        found = self._find(function)
        placed = found.placed().get(bar) if found else None
        if found is None or placed is None or offset < 0 or not 0 <= size <= PAGE or offset + size > placed.size:
            return None
        tdi = self._tdis[found]
        if not tdi.handles(bar, offset, size, t_bit, stream_id):
            rule = f"T={int(t_bit)} on stream {stream_id} in {tdi.state.name} (PCIe Base 11.2.1)"
            self._observer(Refused(str(function), f"an access to BAR {bar} at {offset:#x}", rule))
            return None
        return found

    def receive(self, tlp: Tlp, t_bit: bool, stream_id: int | None) -> Reply:
        """Take a memory request or a message from the link."""
        if tlp.type.is_message:
            return self._message(tlp, t_bit, stream_id)
        if tlp.type is TlpType.MWR and tlp.memory().common.poisoned:
            return self._poisoned(tlp, t_bit, stream_id)
        return serve_memory(self._functions, self, tlp, t_bit, stream_id)

    def _message(self, tlp: Tlp, t_bit: bool, stream_id: int | None) -> Reply:
        """Take what ATS has to say to a function.

        A Vendor_Defined Type 0 that means nothing here is unsupported, a Type 1 is ignored (PCIe Base 2.2.8.6).
        """
        header = tlp.message()
        if header.code in (MessageCode.INVALIDATE_REQUEST, MessageCode.PRG_RESPONSE):
            found = self._find(Bdf.of(int.from_bytes(header.body[:2], "big"), self._functions.first.segment))
            return UNSUPPORTED if found is None else self._buses[found].translating.receive(tlp, t_bit, stream_id)
        return UNSUPPORTED if header.code == MessageCode.VENDOR_DEFINED_0 else DONE

    def _poisoned(self, tlp: Tlp, t_bit: bool, stream_id: int | None) -> Reply:
        """Drop a poisoned write; one that a TDI would have taken from its own TVM cannot be recovered (11.4.6).

        What anybody may write, anybody may poison: nothing that a TVM trusts is lost with it, so the TDI goes on.
        """
        self._log(Uncorrectable.POISONED_TLP, tlp)
        start, size = tlp.memory().span
        hit = self._functions.decode(start, max(size, 1))
        found = self._admit(hit.function, hit.bar, hit.offset, size, t_bit, stream_id) if hit else None
        if found is not None and self._tdis[found].access(t_bit, stream_id) is Access.TRUSTED_BOUND:
            self._tdis[found].interface.happen(Event.POISONED)
        return DONE
