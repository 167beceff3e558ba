"""What is said of a whole capture: what could not be read, and what the capture or the key log lacks."""

from __future__ import annotations

from collections.abc import Sequence

from teeio.capture.conversation import Ledger
from teeio.capture.message import DissectedMessage, Protection
from teeio.capture.pcap import Capture
from teeio.capture.sessions import NO_FIT, DissectedSession

MAX_NAMED = 8
"""How many of a kind are named; of more the number is said."""


def problems(capture: Capture, sessions: Sequence[DissectedSession], *, with_keys: bool) -> list[str]:
    """Say what could not be read: the rest of a damaged file, records whose session has its secrets, all records."""
    found = [str(capture.problem)] if capture.problem else []
    locked = [session for session in sessions if session.unopened]
    if not with_keys:
        count = sum(len(session.unopened) for session in locked)
        return [*found, f"{count} records are encrypted: give the key log of this run"] if count else found
    if locked and not any(session.opened for session in sessions):
        return [*found, "the key log opens no record of this capture: are they of the same run?"]
    return found + [_unopened(session) for session in locked if session.opened or session.proven]


def notes(capture: Capture, messages: Sequence[DissectedMessage], ledger: Ledger, *, with_keys: bool) -> list[str]:
    """Say what is missing: beginnings that the capture lacks, sessions without secrets, secrets without a session."""
    found = []
    if capture.left_out:
        found.append(f"{capture.left_out} frames of interfaces with other link types are left out")
    found += [
        f"connection {c.number} begins before the capture (its first frame here is {c.first_frame}): what is signed "
        "or derived from its beginning cannot be checked"
        for c in ledger.connections
        if not c.whole
    ]
    orphans = [message for message in messages if _is_orphan(message)]
    if orphans:
        ids = _named([f"{found_id:#010x}" for found_id in dict.fromkeys(m.session for m in orphans) if found_id])
        found.append(
            f"{len(orphans)} records belong to no session that begins in the capture, the first in frame "
            f"{orphans[0].frame}: {ids}"
        )
    if with_keys:
        locked = [s for s in ledger.sessions if s.unopened and not (s.opened or s.proven)]
        found += [_unopened(session) for session in locked]
        used = {value for session in ledger.sessions for _, _, value in session.log_entry().lines()}
        left = ledger.key_ring.left_over(used)
        if left:
            ids = _named(list(dict.fromkeys(f"{entry.session_id:#010x}" for entry in left)))
            found.append(f"{len(left)} sessions of the key log match none of the capture: {ids}")
    return found


def _is_orphan(message: DissectedMessage) -> bool:
    return message.protection is Protection.UNOPENED and message.session is not None and message.connection is None


def _unopened(session: DissectedSession) -> str:
    count, first = len(session.unopened), session.unopened[0]
    why = session.reason or ("no key fits" if session.opened or session.proven else NO_FIT)
    return (
        f"session {session.number} ({session.session_id:#010x} of connection {session.connection}, from frame "
        f"{session.first_frame}): {count} records not opened, the first in frame {first}: {why}"
    )


def _named(names: list[str]) -> str:
    more = len(names) - MAX_NAMED
    return ", ".join(names[:MAX_NAMED]) + (f" and {more} more" if more > 0 else "")
