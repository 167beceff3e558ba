"""What a function knows of translated addresses: its Address Translation Cache, and page requests on their way.

Only with ATS on is anything kept (PCIe Base 10.2.1), and nothing outlives a change of the TDI's state.
"""

from __future__ import annotations

from teeio.pcie.capabilities.ats import AtsCapability
from teeio.pcie.capabilities.page_request import PageRequestCapability
from teeio.pcie.registers import Register
from teeio.pcie.tlp import PAGE
from teeio.pcie.translation import GROUPS, Invalidation, PageResponse, ResponseCode, Translation

CACHE_SIZE = 64
"""Pages kept; the oldest makes room."""


class TranslationCache:
    """A function's translations by page, and its page request groups; `pages` is the capability of its PF, if any."""

    def __init__(self, ats: AtsCapability, pages: PageRequestCapability | None) -> None:
        self.ats = ats
        self.pages = pages
        self._entries: dict[int, Translation] = {}
        self._groups: dict[int, bool] = {}
        self._answers: dict[int, PageResponse] = {}
        ats.watch(AtsCapability.CONTROL, self._control_written)
        if pages is not None:
            pages.watch(PageRequestCapability.CONTROL, self._page_control_written)

    def __len__(self) -> int:
        return len(self._entries)

    def find(self, address: int, *, write: bool) -> int | None:
        """Translate an address; None if untranslated requests must do."""
        entry = self._entries.get(address // PAGE)
        if entry is None or entry.untranslated_only or not (entry.write if write else entry.read):
            return None
        return entry.page * PAGE + address % PAGE

    def keep(self, address: int, entry: Translation) -> None:
        """Keep the translation of a page; one without any right is none."""
        if not self.ats.enabled or not (entry.read or entry.write):
            return
        while len(self._entries) >= CACHE_SIZE:
            del self._entries[next(iter(self._entries))]
        self._entries[address // PAGE] = entry

    def invalidate(self, request: Invalidation) -> None:
        """Forget the translations of some pages (PCIe Base 10.3.1)."""
        for page in [page for page in self._entries if page in request.pages]:
            del self._entries[page]

    def clear(self) -> None:
        """Forget all translations and all page requests."""
        self._entries.clear()
        self._groups.clear()
        self._answers.clear()

    def _control_written(self, register: Register, old: int, new: int) -> None:
        if not register.get(new, "enable"):
            self._entries.clear()

    # -- page requests

    def begin_group(self, t_bit: bool) -> int | None:
        """Give a free group for a page request with this T; None if no request may be outstanding more."""
        if self.pages is None or len(self._groups) >= min(self.pages.allowed, GROUPS):
            return None
        group = next(number for number in range(GROUPS) if number not in self._groups)
        self._groups[group] = t_bit
        self._answers.pop(group, None)
        return group

    def end_group(self, group: int) -> None:
        """Give up a group whose request was not sent."""
        self._groups.pop(group, None)

    def answer(self, response: PageResponse, t_bit: bool) -> bool:
        """Take a PRG Response; False if its T is clear though the request's was set (PCIe Base 11.4.10)."""
        asked = self._groups.get(response.group)
        if asked is None:
            if self.pages is not None:
                self.pages.set(PageRequestCapability.STATUS, unexpected_group=1)
            return True
        if asked and not t_bit:
            return False
        del self._groups[response.group]
        self._answers[response.group] = response
        failed = response.code not in (ResponseCode.SUCCESS, ResponseCode.INVALID_REQUEST)
        if failed and self.pages is not None:
            self.pages.set(PageRequestCapability.STATUS, response_failure=1)
        return True

    def answered(self, group: int) -> ResponseCode | None:
        """Give the answer to a group; None if none has come."""
        found = self._answers.pop(group, None)
        if found is None:
            return None
        known = found.code in (ResponseCode.SUCCESS, ResponseCode.INVALID_REQUEST)
        return ResponseCode(found.code) if known else ResponseCode.FAILURE

    def _page_control_written(self, register: Register, old: int, new: int) -> None:
        if register.get(new, "reset") or not register.get(new, "enable"):
            self._groups.clear()
            self._answers.clear()
