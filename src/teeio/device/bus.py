"""A function's way out: the TDI's state judges every memory request and interrupt before it leaves (PCIe Base 11.2.1).

A transfer is cut so that each piece is one TLP: the state is asked again for each, and nothing of a transfer leaves
after the TDI has lost its right to it.
"""

from __future__ import annotations

from collections.abc import Callable

from teeio.device.models.model import DmaError
from teeio.device.tdi import Tdi
from teeio.observe import Observer, Refused, ignore
from teeio.pcie.address import Bdf
from teeio.pcie.ports import EndpointPort
from teeio.pcie.seams import Dma, Interrupts
from teeio.pcie.tlp import CompletionStatus, memory_read
from teeio.pcie.transfer import pieces
from teeio.tdisp.states import Event
from teeio.tdisp.tlp_rules import RequesterTlp, Sending, completion_accepted

ADDRESS_LIMIT = 1 << 64


class FunctionBus:
    """The bus of one function; `dma` and `interrupts` are the seams, `function` gives its address now."""

    def __init__(
        self,
        tdi: Tdi,
        function: Callable[[], Bdf],
        port: EndpointPort,
        *,
        dma: Callable[[], Dma],
        interrupts: Callable[[], Interrupts],
        observer: Observer = ignore,
    ) -> None:
        self._tdi = tdi
        self._function = function
        self._port = port
        self._dma = dma
        self._interrupts = interrupts
        self._observer = observer

    def read(self, address: int, size: int) -> bytes:
        """Read memory. Raises `DmaError`; a failed request with T=1 moves the TDI to ERROR (11.4.3)."""
        _check_span(address, size)
        data = bytearray()
        for at, part in pieces(address, size, self._tdi.function.shared_control.max_read_request):
            t_bit, stream_id = self._permit(at, part, "a memory read")
            state = self._tdi.state
            reply = self._dma().dma_read(self._function().requester_id, at, part, t_bit, stream_id)
            if self._tdi.state is not state or (t_bit and not completion_accepted(state)):
                raise DmaError(f"the TDI left {state.name} before its read of {at:#x} was completed")
            self._judge(reply.status, t_bit, f"the read of {part} bytes at {at:#x}")
            data += reply.data
        return bytes(data)

    def write(self, address: int, data: bytes) -> None:
        """Write memory. Raises `DmaError` if the request could not go out."""
        _check_span(address, len(data))
        for at, part in pieces(address, len(data), self._tdi.function.shared_control.max_payload):
            t_bit, stream_id = self._permit(at, part, "a memory write")
            piece = data[at - address : at - address + part]
            status = self._dma().dma_write(self._function().requester_id, at, piece, t_bit, stream_id)
            self._judge(status, t_bit, f"the write of {part} bytes at {at:#x}")

    def interrupt(self, vector: int) -> None:
        """Raise an MSI-X interrupt; one that is masked stays pending, one that is forbidden is dropped."""
        sending = self._tdi.sending(RequesterTlp.MSIX)
        if sending is Sending.FORBIDDEN or not self._tdi.function.header.bus_master:
            self._refused(f"MSI-X vector {vector}")
            return
        message = self._tdi.function.msix.raise_vector(vector)
        if message is None:
            return
        t_bit, stream_id = self._protection(sending, message.address, 4)
        self._interrupts().signal(self._function(), vector, message, t_bit, stream_id)

    def release_interrupts(self) -> None:
        """Raise the interrupts whose mask has been cleared meanwhile."""
        for vector in self._tdi.function.msix.due():
            self.interrupt(vector)

    # -- what the state allows

    def _permit(self, address: int, size: int, what: str) -> tuple[bool, int | None]:
        """Give T bit and stream for a memory request, or raise `DmaError`."""
        sending = self._tdi.sending(RequesterTlp.MEMORY)
        if sending is Sending.FORBIDDEN:
            self._refused(what)
            raise DmaError(f"{what} is not allowed in {self._tdi.state.name} (PCIe Base 11.2.1)")
        if not self._tdi.function.header.bus_master:
            raise DmaError(f"{what} needs Bus Master Enable", remedy="set it in the function's Command register")
        return self._protection(sending, address, size)

    def _protection(self, sending: Sending, address: int, size: int) -> tuple[bool, int | None]:
        if sending is not Sending.TRUSTED:
            return False, None
        selected = None
        if self._tdi.interface.p2p_streams:
            probe = memory_read(self._function().requester_id, 0, address, size)
            selected = self._port.ide.select(probe, True)
        return True, self._tdi.stream_for(selected)

    def _judge(self, status: CompletionStatus, t_bit: bool, what: str) -> None:
        if status is CompletionStatus.SC:
            return
        if t_bit:
            # Retries would be the device's own choice; this one makes none.
            self._tdi.interface.happen(Event.REQUEST_FAILED)
        raise DmaError(f"{what} ended with {status.name}")

    def _refused(self, what: str) -> None:
        rule = f"not in {self._tdi.state.name} (PCIe Base 11.2.1)"
        self._observer(Refused(str(self._function()), what, rule))


def _check_span(address: int, size: int) -> None:
    if not 0 <= address <= address + size <= ADDRESS_LIMIT:
        raise DmaError(f"{size} bytes at {address:#x} do not lie in the 64-bit address space")
