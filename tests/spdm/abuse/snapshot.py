"""What a responder remembers, as a flat table that can be compared.

Everything that decides a later answer is in it. Left out, since a refusal changes it too or since it only names things: the sequence
numbers of records (every record steps them), the time of a session's last message, the next handle and token, the random generator.
"""

from typing import Any

from teeio.spdm.responder import Responder
from teeio.spdm.state import Session

Snapshot = dict[str, Any]


def snapshot(r: Responder) -> Snapshot:
    """Take down a responder's state by name."""
    t, large = r.transcript, r.large
    found: Snapshot = {
        "connection": r.connection,
        "preserved": r.preserved,
        "transcript.vca": t.vca,
        "transcript.first_digests": t.first_digests,
        "transcript.b": t._b,
        "transcript.challenged": t._challenged,
        "transcript.window": t._digests_window,
        "sessions": tuple(r.sessions),
        "postponed": r._postponed,
        "pending": None if r.pending is None else (r.pending.request_id, r.pending.sent, r.pending.session_id),
        **{f"transcript.l[{place}]": held for place, held in t._l.items()},
        **_transfer("large", large),
    }
    for session_id, session in r.sessions.items():
        found |= {f"session {session_id:#x}.{name}": value for name, value in _session(session).items()}
    return found | _device(r)


def _session(s: Session) -> Snapshot:
    return {
        "phase": s.phase,
        "transcript": s.transcript,
        "request_key": s.request_key.secret,
        "response_key": s.response_key.secret,
        "previous_key": s.previous_key and s.previous_key.secret,
        "update_unverified": s.update_unverified,
        "requester_slot": s.requester_slot,
        "requester_chain": s.requester_chain,
        **_transfer("large", s.large),
    }


def _transfer(name: str, large: Any) -> Snapshot:
    coming, going = large.incoming, large.outgoing
    return {
        f"{name}.incoming": coming and (coming.handle, coming.number, coming.size, bytes(coming.data)),
        f"{name}.outgoing": going and (going.handle, going.number, going.sent, going.message),
    }


def _device(r: Responder) -> Snapshot:
    """What outlives the connection: slots, key pairs, what waits for a reset, events."""
    store, events = r.provisioning, r.events
    assert store is not None
    assert events is not None
    return {
        "slots": tuple(identity.slots for identity in store.identities),
        "key pairs": tuple((pair.key, pair.selected, pair.usage, pair.slots) for pair in store.key_pairs),
        "waiting for reset": (dict(store.staged), dict(store.orders), tuple(store.key_changes)),
        "subscriptions": dict(events.subscriptions),
        "events received": tuple(events.received),
    }


def changed(before: Snapshot, after: Snapshot) -> set[str]:
    """Name what differs."""
    return {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)}


def size(held: Any) -> int:
    """Count the bytes that a snapshot holds."""
    if isinstance(held, bytes | bytearray):
        return len(held)
    if isinstance(held, dict):
        return sum(map(size, held.values()))
    if isinstance(held, list | tuple):
        return sum(map(size, held))
    return 0
