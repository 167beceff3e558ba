"""What a function may send now: the TDI's state by the requester table, and Bus Master Enable (PCIe Base 11.2.1)."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from teeio.device.models.model import DmaError
from teeio.device.tdi import Tdi
from teeio.observe import Observer, Refused
from teeio.pcie.address import Bdf
from teeio.pcie.ports import EndpointPort
from teeio.pcie.tlp import CompletionStatus, memory_read
from teeio.tdisp.states import Event
from teeio.tdisp.tlp_rules import RequesterTlp, Sending

MESSAGES = frozenset({RequesterTlp.PAGE_REQUEST, RequesterTlp.INVALIDATE_COMPLETION, RequesterTlp.VENDOR_MESSAGE})
"""Kinds that are messages: Bus Master Enable does not rule them (PCIe Base 7.5.1.1.3)."""


class Way(NamedTuple):
    """How a TLP goes out; no `stream_id` leaves the stream to the associations."""

    t_bit: bool
    stream_id: int | None


class Gate:
    """The gate of one function; `function` gives its address now."""

    def __init__(self, tdi: Tdi, function: Callable[[], Bdf], port: EndpointPort, observer: Observer) -> None:
        self.tdi = tdi
        self.port = port
        self._function = function
        self._observer = observer

    @property
    def requester_id(self) -> int:
        """The function's Requester ID now."""
        return self._function().requester_id

    def permit(self, kind: RequesterTlp, what: str, translated: tuple[int, int] | None = None) -> Way:
        """Say how a TLP goes out. Raises `DmaError` if it may not.

        `translated` is address and size of a request by translated address: only these use peer-to-peer streams, all
        others stay on the default stream (11.4.10).
        """
        sending = self.tdi.sending(kind)
        if sending is Sending.FORBIDDEN:
            rule = f"not in {self.tdi.state.name} (PCIe Base 11.2.1)"
            self._observer(Refused(str(self._function()), what, rule))
            raise DmaError(f"{what} is not allowed in {self.tdi.state.name} (PCIe Base 11.2.1)")
        if kind not in MESSAGES and not self.tdi.function.header.bus_master:
            raise DmaError(f"{what} needs Bus Master Enable", remedy="set it in the function's Command register")
        if sending is not Sending.TRUSTED:
            return Way(False, None)
        chosen = self._chosen(*translated) if translated else None
        return Way(True, self.tdi.stream_for(chosen))

    def _chosen(self, address: int, size: int) -> int | None:
        """Give the stream that the associations choose, if a peer-to-peer stream is bound."""
        if not self.tdi.interface.p2p_streams:
            return None
        return self.port.ide.select(memory_read(self.requester_id, 0, address, size), True)

    def judge(self, status: CompletionStatus, t_bit: bool, what: str) -> None:
        """Raise `DmaError` for a request that failed; one with T=1 moves the TDI to ERROR (11.4.3, 11.4.10).

        Retries would be the device's own choice; this one makes none.
        """
        if status is CompletionStatus.SC:
            return
        if status is CompletionStatus.UNPROTECTED:
            self.tdi.interface.happen(Event.UNPROTECTED_TRANSLATION)
        elif t_bit:
            self.tdi.interface.happen(Event.REQUEST_FAILED)
        raise DmaError(f"{what} ended with {status.name}")
