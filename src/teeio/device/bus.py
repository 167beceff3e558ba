"""A function's way out: the TDI's state judges every TLP before it leaves (PCIe Base 11.2.1).

A transfer is cut so that each piece is one TLP: the state is asked again for each, and nothing of a transfer leaves
after the TDI has lost its right to it.
"""

from __future__ import annotations

from collections.abc import Callable

from teeio.device.gate import Gate, Way
from teeio.device.models.model import DmaError
from teeio.device.tdi import Tdi
from teeio.device.translating import Translating
from teeio.observe import Observer, ignore
from teeio.pcie.address import Bdf
from teeio.pcie.capabilities.msix import MsixMessage
from teeio.pcie.ports import EndpointPort
from teeio.pcie.registers import Register
from teeio.pcie.seams import Dma, Interrupts
from teeio.pcie.tlp import PAGE, MessageCode, Routing, message
from teeio.pcie.transfer import pieces
from teeio.tdisp.tlp_rules import RequesterTlp, completion_accepted

ADDRESS_LIMIT = 1 << 64


class FunctionBus:
    """The bus of one function; `dma` and `interrupts` are the seams, `function` gives its address now.

    ATS and messages go through the port, also where the seams lead elsewhere.
    """

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
        self._gate = Gate(tdi, function, port, observer)
        self.translating = Translating(self._gate, tdi.function.translations)

    # -- memory

    def read(self, address: int, size: int) -> bytes:
        """Read memory. Raises `DmaError`; a failed request with T=1 moves the TDI to ERROR (11.4.3)."""
        _check_span(address, size)
        data = bytearray()
        for at, part in pieces(address, size, self._tdi.function.shared_control.max_read_request):
            found = self.translating.cache.find(at, write=False)
            t_bit, stream_id = self._permit(found, part, "a memory read")
            dma, where = self._target(at, found)
            state = self._tdi.state
            reply = dma.dma_read(self._function().requester_id, where, part, t_bit, stream_id)
            if self._tdi.state is not state or (t_bit and not completion_accepted(state)):
                raise DmaError(f"the TDI left {state.name} before its read of {at:#x} was completed")
            self._gate.judge(reply.status, t_bit, f"the read of {part} bytes at {at:#x}")
            data += reply.data
        return bytes(data)

    def write(self, address: int, data: bytes) -> None:
        """Write memory. Raises `DmaError` if the request could not go out."""
        _check_span(address, len(data))
        for at, part in pieces(address, len(data), self._tdi.function.shared_control.max_payload):
            found = self.translating.cache.find(at, write=True)
            t_bit, stream_id = self._permit(found, part, "a memory write")
            dma, where = self._target(at, found)
            piece = data[at - address : at - address + part]
            status = dma.dma_write(self._function().requester_id, where, piece, t_bit, stream_id)
            self._gate.judge(status, t_bit, f"the write of {part} bytes at {at:#x}")

    def translate(self, address: int, size: int, *, write: bool) -> None:
        """Ask for the translations of these addresses that are not cached. Raises `DmaError`."""
        _check_span(address, size)
        for page in range(address & -PAGE, address + size, PAGE):
            if self.translating.cache.find(page, write=write) is None:
                self.translating.request(page, write=write)
                if self.translating.cache.find(page, write=write) is None:
                    raise DmaError(f"{page:#x} has no translation")

    def _permit(self, translated: int | None, size: int, what: str) -> Way:
        return self._gate.permit(RequesterTlp.MEMORY, what, None if translated is None else (translated, size))

    def _target(self, address: int, translated: int | None) -> tuple[Dma, int]:
        """Give who takes the request, and the address to ask for: the translated one where there is one."""
        return (self._dma(), address) if translated is None else (self._port.translated, translated)

    # -- interrupts

    def interrupt(self, vector: int) -> None:
        """Raise an interrupt by MSI-X, or by MSI if that is on; one masked stays pending, one forbidden is dropped."""
        if self._tdi.function.msi.enabled and not self._tdi.function.msix.enabled:
            self._signal(RequesterTlp.MSI, 0, self._tdi.function.msi.message)
        else:
            self._signal(RequesterTlp.MSIX, vector, lambda: self._tdi.function.msix.raise_vector(vector))

    def _signal(self, kind: RequesterTlp, vector: int, make: Callable[[], MsixMessage | None]) -> None:
        try:
            t_bit, stream_id = self._gate.permit(kind, f"{kind.name} vector {vector}")
        except DmaError:
            return
        made = make()
        if made is not None:
            self._interrupts().signal(self._function(), vector, made, t_bit, stream_id)

    def interrupts_ruled(self, register: Register, old: int, new: int) -> None:
        """Learn that software wrote where interrupts are ruled: MSI-X Control with its mask, Command with Bus Master Enable."""
        self.release_interrupts()

    def release_interrupts(self) -> None:
        """Raise the interrupts whose mask has been cleared meanwhile."""
        for vector in self._tdi.function.msix.due():
            self.interrupt(vector)

    # -- messages

    def vendor_message(self, body: bytes, data: bytes = b"") -> None:
        """Send a TDI-specific vendor-defined message: 8 bytes `body`, whole DWs `data`. Raises `DmaError`."""
        t_bit, stream_id = self._gate.permit(RequesterTlp.VENDOR_MESSAGE, "a vendor-defined message")
        requester_id = self._function().requester_id
        tlp = message(requester_id, MessageCode.VENDOR_DEFINED_1, Routing.TO_ROOT_COMPLEX, body, data)
        if not self._port.post(tlp, t_bit, stream_id):
            raise DmaError("the vendor-defined message was not sent")


def _check_span(address: int, size: int) -> None:
    if not 0 <= address <= address + size <= ADDRESS_LIMIT:
        raise DmaError(f"{size} bytes at {address:#x} do not lie in the 64-bit address space")
