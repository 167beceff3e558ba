"""The translation agent above a root port: ATS and page requests of T=0 devices in the VMM's legacy domains.

The VMM says which requesters may use ATS. Their requests by translated address reach whatever is the VMM's in memory,
past their domain, as ATS means; a private page is never reached, however old the translation. A translation taken back
must be invalidated in the device too, which is the VMM's duty. With T=1 everything is refused (TDX Connect has no
trusted ATS and no trusted page requests) but what the TSM's peer-to-peer profile serves: `trusted_translation`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from teeio.abi.operands import PAGE_SIZE
from teeio.errors import DecodeError, Misuse
from teeio.host.iommu import Fault, Iommu, Segment
from teeio.host.trusted_translation import TrustedAgent
from teeio.observe import Observer, Refused, ignore
from teeio.pcie.address import Bdf
from teeio.pcie.ports import RootPort
from teeio.pcie.seams import DONE, UNSUPPORTED, Dma, Reply
from teeio.pcie.tlp import CompletionStatus, MessageCode, Tlp
from teeio.pcie.translation import (
    ITAGS,
    Invalidation,
    InvalidationDone,
    PageRequest,
    PageResponse,
    ResponseCode,
    Translation,
    invalidate_request,
    page_response,
)

NOT_TRUSTED = "TDX Connect: no trusted ATS, no trusted page requests"
NOT_ALLOWED = "ATS only for requesters whose domain allows it"

PageHandler: TypeAlias = Callable[[int, PageRequest], ResponseCode]
"""Asked to make a page present: Requester ID and request."""


def _nobody(requester_id: int, request: PageRequest) -> ResponseCode:
    return ResponseCode.INVALID_REQUEST


class HostTranslationAgent:
    """The agent of one root port; `translated` serves memory by translated address."""

    def __init__(self, port: RootPort, iommu: Iommu, translated: Dma, observer: Observer = ignore) -> None:
        self.on_page_request: PageHandler = _nobody
        self.trusted = TrustedAgent(port)
        self._port = port
        self._iommu = iommu
        self._translated = translated
        self._observer = observer
        self._completed: dict[int, int] = {}
        self._waiting: dict[int, int] = {}

    @property
    def translated(self) -> Dma:
        """Memory by translated address."""
        return self._translated

    def translate(
        self, requester_id: int, address: int, pages: int, no_write: bool, t_bit: bool, stream_id: int | None
    ) -> Reply:
        """Answer a Translation Request; a page without translation gets an entry without rights (PCIe Base 10.2.3)."""
        trusted = self.trusted.translate(requester_id, address, pages, no_write, stream_id) if t_bit else None
        if trusted is not None:
            return trusted
        if not self._may(requester_id, t_bit, f"a Translation Request for {address:#x}"):
            return UNSUPPORTED
        entries = [self._entry(requester_id, address + n * PAGE_SIZE, no_write) for n in range(pages)]
        return Reply(CompletionStatus.SC, b"".join(entry.encode() for entry in entries))

    def _entry(self, requester_id: int, page: int, no_write: bool) -> Translation:
        readable = self._iommu.grant(requester_id, page, write=False)
        writable = None if no_write else self._iommu.grant(requester_id, page, write=True)
        if readable is None:
            return Translation()
        return Translation(read=1, write=int(writable is not None), page=readable // PAGE_SIZE)

    def receive(self, tlp: Tlp, t_bit: bool, stream_id: int | None) -> Reply:
        """Take a Page Request, and answer it if it is the last of its group, or an Invalidate Completion."""
        header = tlp.message()
        try:
            if header.code == MessageCode.INVALIDATE_COMPLETION:
                done = InvalidationDone.decode(header.body)
                if t_bit:
                    return DONE if self.trusted.completed(tlp.requester_id, done, stream_id) else UNSUPPORTED
                return self._invalidated(tlp.requester_id, done)
            request = PageRequest.decode(header.body)
        except DecodeError:
            return UNSUPPORTED
        code = ResponseCode.INVALID_REQUEST
        if self._may(tlp.requester_id, t_bit, f"a Page Request for page {request.page:#x}"):
            code = self.on_page_request(tlp.requester_id, request)
        if request.last:
            response = PageResponse(destination=tlp.requester_id, group=request.group, code=code)
            self._port.answer(page_response(self._port.function.requester_id, response), t_bit, stream_id)
        return DONE

    def invalidate(self, requester_id: int, address: int, pages: int = 1) -> bool:
        """Take translations out of a function's cache; False if the function did not complete it.

        `pages` is a power of two, and `address` aligned to that many pages.
        """
        if pages < 1 or pages & pages - 1 or address % (pages * PAGE_SIZE):
            raise Misuse(f"an invalidation of {pages} pages at {address:#x}", remedy="a power of two, aligned to it")
        itag = self._waiting.get(requester_id, -1) + 1 & ITAGS - 1
        self._waiting[requester_id] = itag
        self._completed.pop(requester_id, None)
        # With S set, the lowest clear bit of the page number says how many pages are meant.
        page = address // PAGE_SIZE | (pages // 2 - 1 if pages > 1 else 0)
        request = Invalidation(page=page, large=int(pages > 1))
        self._port.post(invalidate_request(self._port.function.requester_id, requester_id, itag, request), False, None)
        return bool(self._completed.pop(requester_id, 0) >> itag & 1)

    def _invalidated(self, requester_id: int, done: InvalidationDone) -> Reply:
        if done.destination != self._port.function.requester_id or requester_id not in self._waiting:
            return UNSUPPORTED
        self._completed[requester_id] = done.itags
        return DONE

    def _may(self, requester_id: int, t_bit: bool, what: str) -> bool:
        allowed = not t_bit and self._iommu.legacy.allows_ats(requester_id)
        if not allowed:
            rule = NOT_TRUSTED if t_bit else NOT_ALLOWED
            self._observer(Refused(f"root complex, {self._iommu.name}", f"{what} by {Bdf.of(requester_id)}", rule))
        return allowed


class TranslatedMemory:
    """Memory by translated address: `read` and `write` act on what the IOMMU lets through."""

    def __init__(
        self,
        iommu: Iommu,
        read: Callable[[int, Fault | list[Segment], int], Reply],
        write: Callable[[int, Fault | list[Segment], bytes], CompletionStatus],
    ) -> None:
        self._iommu = iommu
        self._read = read
        self._write = write

    def dma_read(self, requester_id: int, address: int, size: int, t_bit: bool, stream_id: int | None = None) -> Reply:
        """Read memory for a requester that may use ATS."""
        found = self._iommu.pass_translated(requester_id, address, size, False, t_bit)
        return self._read(requester_id, found, size)

    def dma_write(
        self, requester_id: int, address: int, data: bytes, t_bit: bool, stream_id: int | None = None
    ) -> CompletionStatus:
        """Write memory for a requester that may use ATS."""
        found = self._iommu.pass_translated(requester_id, address, len(data), True, t_bit)
        return self._write(requester_id, found, data)
