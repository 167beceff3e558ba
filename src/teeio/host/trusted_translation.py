"""The trusted half of a root port's translation agent: Translation Requests and invalidations with T=1.

TDX Connect has no trusted ATS, so without a `TrustedTranslator` every request is refused. With one (a TSM with the
peer-to-peer profile) it alone says what is translated. An invalidation is complete when the device has said so with T=1 on
the stream on which it was asked: nobody else can.
"""

from __future__ import annotations

from typing import Protocol

from teeio.abi.operands import PAGE_SIZE
from teeio.pcie.ports import RootPort
from teeio.pcie.seams import Reply
from teeio.pcie.tlp import CompletionStatus
from teeio.pcie.translation import ITAGS, Invalidation, InvalidationDone, Translation, invalidate_request

EVERYTHING = Invalidation(page=(1 << 51) - 1, large=1)
"""All pages: the lowest clear bit of the page number is its highest."""


class TrustedTranslator(Protocol):
    """Who says where a trusted request may go."""

    def translate(
        self, root_port: int, requester_id: int, page: int, no_write: bool, stream_id: int | None
    ) -> Translation | None:
        """Translate the page at a guest address for a request that came to that root port on that stream, or do not."""
        ...


class TrustedAgent:
    """The agent of one root port for what has T=1."""

    def __init__(self, port: RootPort) -> None:
        self.translator: TrustedTranslator | None = None
        self._port = port
        self._asked: dict[int, tuple[int, int]] = {}
        self._completed: set[int] = set()
        self._itag = 0

    def translate(
        self, requester_id: int, address: int, pages: int, no_write: bool, stream_id: int | None
    ) -> Reply | None:
        """Answer a Translation Request if all of its pages have a translation; None: refuse it."""
        entries = []
        for number in range(pages if self.translator is not None else 0):
            at, port = address + number * PAGE_SIZE, self._port.function.requester_id
            entry = self.translator.translate(port, requester_id, at, no_write, stream_id) if self.translator else None
            if entry is None:
                return None
            entries.append(entry)
        return Reply(CompletionStatus.SC, b"".join(entry.encode() for entry in entries)) if entries else None

    def invalidate(self, requester_id: int, stream_id: int) -> bool:
        """Take everything out of a function's cache; False if it did not complete that."""
        self._itag = (self._itag + 1) % ITAGS
        self._asked[requester_id] = self._itag, stream_id
        self._completed.discard(requester_id)
        request = invalidate_request(self._port.function.requester_id, requester_id, self._itag, EVERYTHING)
        self._port.post(request, True, stream_id)
        del self._asked[requester_id]
        return requester_id in self._completed

    def completed(self, requester_id: int, done: InvalidationDone, stream_id: int | None) -> bool:
        """Take an Invalidate Completion with T=1; False if it was not asked for, not so, or not there."""
        itag, asked_on = self._asked.get(requester_id, (0, None))
        mine = done.destination == self._port.function.requester_id and stream_id == asked_on is not None
        if mine and done.itags >> itag & 1:
            self._completed.add(requester_id)
        return mine
