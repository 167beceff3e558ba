"""The sessions of a key log offered to those of a capture, and which of them have found their own.

One key log serves all connections of a capture, so a session id alone does not say whose a secret is: ids begin anew
with each connection. What a session has proven to be its own is offered to others last.
"""

from __future__ import annotations

from collections.abc import Collection
from itertools import chain, islice

from teeio.capture.keylog import KeyLog, SessionSecrets

MAX_CANDIDATES = 256
"""Key-log entries tried for one session."""


class KeyRing:
    """The session secrets of one key log."""

    def __init__(self, log: KeyLog) -> None:
        self.log = log
        self._places = {id(entry): at for at, entry in enumerate(log.sessions)}
        self._unspent = dict(enumerate(log.sessions))
        self._spent: dict[int, SessionSecrets] = {}
        self._latest = -1

    @property
    def empty(self) -> bool:
        """Tell whether there is nothing to decrypt with."""
        return self.log.empty

    def candidates(self, session_id: int, *, psk: bool) -> list[SessionSecrets]:
        """Give what may be the secrets of a session, the likeliest first, at most `MAX_CANDIDATES`.

        Entries of its id come first, then those of other ids, since a log may name sessions otherwise. Among those of
        its id an entry with the secret that a session begins with goes before one without, which may be a fragment: a
        log that sessions of one id have written in turns. Unspent ones come first, beginning behind the last spent.
        """
        later = [entry for at, entry in self._unspent.items() if at > self._latest]
        earlier = [entry for at, entry in self._unspent.items() if at < self._latest]
        entries = [*later, *earlier, *islice(reversed(self._spent.values()), MAX_CANDIDATES)]
        whole = [entry for entry in entries if (shared := entry.shared) and (shared[0] == "psk") == psk]
        same = (entry for entry in whole if entry.session_id == session_id)
        fragments = (entry for entry in entries if entry.session_id == session_id and entry.shared is None)
        others = (entry for entry in whole if entry.session_id != session_id)
        return list(islice(chain(same, fragments, others), MAX_CANDIDATES))

    def spend(self, entry: SessionSecrets | None) -> None:
        """Mark the entry that a session has proven to be its own."""
        at = self._places.get(id(entry))
        if at is not None and self._unspent.pop(at, None) is not None:
            self._spent[at] = self.log.sessions[at]
            self._latest = at

    def left_over(self, used: Collection[bytes]) -> list[SessionSecrets]:
        """Give the entries that no session has proven to be its own; `used` are the secrets of all sessions.

        Of an entry that begins with a secret that one decides, of a fragment any.
        """

        def served(entry: SessionSecrets) -> bool:
            shared = entry.shared
            return shared[1] in used if shared else any(value in used for _, _, value in entry.lines())

        return [entry for entry in self._unspent.values() if not served(entry)]
