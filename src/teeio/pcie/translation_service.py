"""Both ends of ATS on a link: what a device's port asks, and what a root port brings to its translation agent.

A request by translated address, a Translation Request or a message of ATS is served only where there is an agent (PCIe
Base 10.1); what the agent allows is its own affair.
"""

from __future__ import annotations

from typing import Protocol

from teeio.pcie.seams import DONE, UNSUPPORTED, Reply, TranslationAgent
from teeio.pcie.tlp import CompletionStatus, MessageCode, Tlp, TlpType, memory_read, memory_write
from teeio.pcie.translation import (
    ENTRY_SIZE,
    MAX_TRANSLATIONS,
    NO_WRITE,
    AddressType,
    address_type,
    translated,
    translation_request,
)

AGENT_MESSAGES = frozenset({MessageCode.PAGE_REQUEST, MessageCode.INVALIDATE_COMPLETION})


class RequestingPort(Protocol):
    """What is needed of a port."""

    def exchange(self, request: Tlp, size: int, address: int, t_bit: bool, stream_id: int | None) -> Reply:
        """Send a non-posted request; give what its completions bring."""
        ...

    def post(self, tlp: Tlp, t_bit: bool, stream_id: int | None) -> bool:
        """Send a posted request."""
        ...


class TranslatedDma:
    """A port's `Dma` by translated addresses, one TLP a request, and its way to ask for translations."""

    def __init__(self, port: RequestingPort) -> None:
        self._port = port

    def translate(
        self, requester_id: int, address: int, pages: int, no_write: bool, t_bit: bool, stream_id: int | None
    ) -> Reply:
        """Ask for translations; UNPROTECTED if they came with T clear to a request with T set (PCIe Base 11.4.10)."""
        request = translation_request(requester_id, address, pages, no_write=no_write)
        return self._port.exchange(request, pages * ENTRY_SIZE, address, t_bit, stream_id)

    def dma_read(self, requester_id: int, address: int, size: int, t_bit: bool, stream_id: int | None = None) -> Reply:
        """Read up to 4096 bytes inside a page."""
        return self._port.exchange(
            translated(memory_read(requester_id, 0, address, size)), size, address, t_bit, stream_id
        )

    def dma_write(
        self, requester_id: int, address: int, data: bytes, t_bit: bool, stream_id: int | None = None
    ) -> CompletionStatus:
        """Write up to 4096 bytes inside a page; SC says that it was sent."""
        sent = self._port.post(translated(memory_write(requester_id, 0, address, data)), t_bit, stream_id)
        return CompletionStatus.SC if sent else CompletionStatus.UR


def concerns_translation(tlp: Tlp) -> bool:
    """Tell whether a TLP that came up is the translation agent's."""
    if tlp.type.is_message:
        return tlp.message().code in AGENT_MESSAGES
    return tlp.type in (TlpType.MRD, TlpType.MWR) and address_type(tlp) != AddressType.UNTRANSLATED


def serve_translation(agent: TranslationAgent | None, tlp: Tlp, t_bit: bool, stream_id: int | None) -> Reply:
    """Bring it to the agent; Unsupported Request without one, or if it is malformed."""
    if agent is None:
        return UNSUPPORTED
    if tlp.type.is_message:
        return agent.receive(tlp, t_bit, stream_id)
    header = tlp.memory()
    if header.common.address_type == AddressType.TRANSLATED:
        return _by_translated_address(agent, tlp, t_bit, stream_id)
    pages, ragged = divmod(4 * header.dwords, ENTRY_SIZE)
    whole = not ragged and pages <= MAX_TRANSLATIONS and header.first_be == header.last_be == 0xF
    if tlp.type is not TlpType.MRD or header.common.address_type != AddressType.TRANSLATION_REQUEST or not whole:
        return UNSUPPORTED
    no_write = bool(header.address_low & NO_WRITE)
    return agent.translate(header.requester_id, header.address & ~0xFFF, pages, no_write, t_bit, stream_id)


def _by_translated_address(agent: TranslationAgent, tlp: Tlp, t_bit: bool, stream_id: int | None) -> Reply:
    header = tlp.memory()
    if tlp.type is TlpType.MRD:
        start, size = header.span
        return agent.translated.dma_read(header.requester_id, start, size, t_bit, stream_id) if size else DONE
    for address, data in header.enabled(tlp.payload):
        status = agent.translated.dma_write(header.requester_id, address, data, t_bit, stream_id)
        if status is not CompletionStatus.SC:
            return Reply(status)
    return DONE
