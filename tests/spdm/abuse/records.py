"""Abuses of records: sessions that do not exist, sessions of others, damaged and repeated records."""

from collections.abc import Iterator
from dataclasses import dataclass

from spdm.abuse.scene import Scene
from spdm.abuse.snapshot import changed, snapshot
from spdm.abuse.verdict import error_of
from spdm_pair import PlainBinding
from teeio.crypto.entropy import SeededEntropy
from teeio.errors import AuthenticationFailed
from teeio.spdm import flows
from teeio.spdm.record import MAX_LENGTH
from teeio.spdm.state import Session

BINDING = PlainBinding()
HEADER = 8
"""Bytes of a record before its ciphertext: session id, sequence number, length."""


def sealed(session: Session, message: bytes) -> bytes:
    """Make a record as the requester does; its key steps."""
    return session.request_key.seal(session.session_id, message, BINDING, SeededEntropy(b"record"))


@dataclass(frozen=True)
class Struck:
    """What came of a record: the plain answer, whether it came protected, what changed, which sessions are gone."""

    answer: bytes | None
    protected: bool
    changed: set[str]
    ended: set[int]

    @property
    def error(self) -> int | None:
        found = error_of(self.answer)
        return found and found[0]


def strike(scene: Scene, record: bytes, session: Session | None) -> Struck:
    """Send a record; the answer is opened with the keys of `session`."""
    r = scene.pair.responder
    before = snapshot(r)
    answer = r.respond(BINDING.wrap(record, secured=True), scene.pair.now)
    after = snapshot(r)
    ended = set(before["sessions"]) - set(after["sessions"])
    protected = answer is not None and answer[:1] == b"\1"
    if answer is not None:
        answer = _opened(session, answer[1:]) if protected else answer[1:]
    return Struck(answer, protected, _beside(ended, changed(before, after)), ended)


def _opened(session: Session | None, record: bytes) -> bytes | None:
    assert session is not None, "a protected answer in a session that nobody has"
    for key in (session.response_key, session.response_key.updated()):
        try:
            return key.open(record, BINDING)
        except AuthenticationFailed:
            continue
    return None


def _beside(ended: set[int], names: set[str]) -> set[str]:
    """Leave out what goes with a session that has ended."""
    gone = {f"session {number:#x}." for number in ended} | {f"transcript.l[{number}]" for number in ended}
    gone |= {"sessions", "subscriptions"} if ended else set()
    return {name for name in names if not any(name.startswith(start) for start in gone)}


def damaged(record: bytes) -> Iterator[tuple[str, bytes]]:
    """Change each part of a record that names a live session."""
    length = int.from_bytes(record[6:8], "little")
    yield "the sequence number before", record[:4] + (0xFFFF).to_bytes(2, "little") + record[6:]
    yield (
        "the sequence number after",
        record[:4] + (int.from_bytes(record[4:6], "little") + 1).to_bytes(2, "little") + record[6:],
    )
    yield "the first byte of ciphertext", record[:HEADER] + bytes([record[HEADER] ^ 1]) + record[HEADER + 1 :]
    yield "the last byte of the tag", record[:-1] + bytes([record[-1] ^ 0x80])
    shorter = (length - 1).to_bytes(2, "little")
    yield "one byte cut off, Length with it", record[:6] + shorter + record[HEADER:-1]
    longer = (length + 1).to_bytes(2, "little")
    yield "one byte more, Length with it", record[:6] + longer + record[HEADER:] + b"\0"


def unreadable(record: bytes) -> Iterator[tuple[str, bytes]]:
    """Make what is no record at all: it is dropped, since nobody can be told under which keys."""
    for cut in (0, 3, 4, 6, HEADER, HEADER + 15, len(record) - 1):
        yield f"cut at byte {cut}", record[:cut]
    for length in (0, 15, int.from_bytes(record[6:8], "little") + 1, MAX_LENGTH):
        yield f"Length {length}", record[:6] + length.to_bytes(2, "little") + record[HEADER:]
    yield "a byte behind it", record + b"\0"


def second_session(scene: Scene) -> Session:
    """Open another session beside that of the scene."""
    return scene.pair.run(flows.key_exchange(scene.pair.requester))


def of_nobody(record: bytes, live: set[int]) -> Iterator[bytes]:
    """Give a record the ids of sessions that do not exist."""
    for number in (0, 1, 0x7FFF_FFFF, 0xFFFF_0000, 0x0000_FFFF):
        if number not in live:
            yield number.to_bytes(4, "little") + record[4:]
