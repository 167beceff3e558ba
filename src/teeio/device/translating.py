"""A function's ATS and page requests on the link: what it asks, and what it is told (PCIe Base chapter 10).

The accelerator asks where a descriptor wants it; requests by translated address follow from what is in the cache.
"""

from __future__ import annotations

from teeio.device.gate import Gate
from teeio.device.models.model import DmaError
from teeio.device.translations import TranslationCache
from teeio.errors import DecodeError
from teeio.pcie.seams import DONE, UNSUPPORTED, Reply
from teeio.pcie.tlp import PAGE, MessageCode, Tlp
from teeio.pcie.translation import (
    ENTRY_SIZE,
    ITAGS,
    Invalidation,
    InvalidationDone,
    PageRequest,
    PageResponse,
    ResponseCode,
    Translation,
    invalidate_completion,
    page_request,
)
from teeio.tdisp.states import Event
from teeio.tdisp.tlp_rules import RequesterTlp


class Translating:
    """The ATS side of one function's bus."""

    def __init__(self, gate: Gate, cache: TranslationCache) -> None:
        self._gate = gate
        self.cache = cache

    # -- what the function asks

    def request(self, address: int, pages: int = 1, *, write: bool = True) -> list[Translation]:
        """Ask for translations of whole pages, and keep them. Raises `DmaError`."""
        what = f"a Translation Request for {address:#x}"
        if not self.cache.ats.enabled:
            raise DmaError(f"{what} needs ATS", remedy="set Enable in the function's ATS Control")
        t_bit, stream_id = self._gate.permit(RequesterTlp.TRANSLATION_REQUEST, what)
        state = self._gate.tdi.state
        ask = self._gate.port.translated.translate
        reply = ask(self._gate.requester_id, address, pages, not write, t_bit, stream_id)
        if self._gate.tdi.state is not state:
            raise DmaError(f"the TDI left {state.name} before {what} was answered")
        self._gate.judge(reply.status, t_bit, what)
        entries = [Translation.decode(reply.data[at : at + ENTRY_SIZE]) for at in range(0, len(reply.data), ENTRY_SIZE)]
        for number, entry in enumerate(entries):
            self.cache.keep(address + number * PAGE, entry)
        return entries

    def request_page(self, address: int, *, write: bool = True) -> ResponseCode | None:
        """Ask for a page that has no translation; None if nobody answers. Raises `DmaError`."""
        what = f"a Page Request for {address:#x}"
        t_bit, stream_id = self._gate.permit(RequesterTlp.PAGE_REQUEST, what)
        group = self.cache.begin_group(t_bit)
        if group is None:
            raise DmaError(
                f"{what} needs page requests", remedy="enable them, and allocate some, in the PF's capability"
            )
        body = PageRequest(read=1, write=int(write), group=group, page=address // PAGE)
        state = self._gate.tdi.state
        sent = self._gate.port.post(page_request(self._gate.requester_id, body), t_bit, stream_id)
        if not sent or self._gate.tdi.state is not state:
            self.cache.end_group(group)
            raise DmaError(f"{what} was not answered in {state.name}")
        return self.cache.answered(group)

    # -- what the function is told

    def receive(self, tlp: Tlp, t_bit: bool, stream_id: int | None) -> Reply:
        """Take an Invalidate Request or a PRG Response; Unsupported Request if it is malformed or ATS is off."""
        try:
            if tlp.message().code == MessageCode.INVALIDATE_REQUEST:
                return self._invalidate(tlp, t_bit, stream_id)
            response = PageResponse.decode(tlp.message().body)
        except DecodeError:
            return UNSUPPORTED
        trusted = t_bit and stream_id in self._gate.tdi.interface.bound_streams
        if not self.cache.answer(response, trusted):
            self._gate.tdi.interface.happen(Event.UNPROTECTED_TRANSLATION)
        return DONE

    def _invalidate(self, tlp: Tlp, t_bit: bool, stream_id: int | None) -> Reply:
        header, request = tlp.message(), Invalidation.decode(tlp.payload)
        if not self.cache.ats.enabled or header.tag >= ITAGS:
            return UNSUPPORTED
        self.cache.invalidate(request)
        self._gate.permit(RequesterTlp.INVALIDATE_COMPLETION, "an Invalidate Completion")
        done = InvalidationDone(destination=tlp.requester_id, itags=1 << header.tag)
        self._gate.port.answer(invalidate_completion(self._gate.requester_id, done), t_bit, stream_id)
        return DONE
