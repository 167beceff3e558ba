"""The streams of one port with their keys, as IDE_KM and TDISP see them (PCIe Base 6.33.3).

A key that was installed once at a port is never installed again there, in whatever slot: with the slots' counters
that makes a second use of a key and IV impossible. The digests of used keys are kept until a conventional reset.
"""

from __future__ import annotations

import hashlib

from teeio.observe import Observer, Refused, StateChanged
from teeio.pcie.capabilities.ide import SECURE, IdeCapability, StreamBlock
from teeio.pcie.ide import Direction, KeySet
from teeio.pcie.ide_association import BoundStream
from teeio.pcie.ide_key import FIRST_INVOCATION, KEY_SIZE, SlotState
from teeio.pcie.ide_vocabulary import ProgramResult
from teeio.pcie.tlp import SubStream

MAX_KEYS = 1 << 16
"""Keys that a port takes between two conventional resets: its memory of used keys is bounded."""

_NO_REUSE = "no key and IV twice (PCIe Base 6.33.5)"


class KeyedStreams:
    """The streams that a port's capability declares; none without one."""

    def __init__(self, capability: IdeCapability | None, name: str, observer: Observer) -> None:
        self.name = name
        self._observer = observer
        self._used_keys: set[bytes] = set()
        self._bound = [BoundStream(block) for block in capability.streams] if capability else []

    def _show(self, bound: BoundStream, cause: str) -> None:
        """Bring the status register up to date and tell of a change."""
        state = SECURE if bound.stream.secure else 0
        before = bound.block.block.get(bound.block.status, "state")
        bound.block.block.set(bound.block.status, state=state)
        if state != before:
            names = {0: "Insecure", SECURE: "Secure"}
            subject = f"IDE stream {bound.id} at {self.name}"
            self._observer(StateChanged(subject, names[before], names[state], cause))

    def _named(self, stream_id: int) -> BoundStream | None:
        """Find a stream by its ID; of several an enabled one, then one with a valid RID association."""
        found = [bound for bound in self._bound if bound.stream.enabled and bound.id == stream_id]
        if len(found) == 1:  # as with every TLP
            return found[0]
        found = [bound for bound in self._bound if bound.id == stream_id]
        found.sort(key=lambda bound: (not bound.stream.enabled, bound.block.rid_range() is None))
        return found[0] if found else None

    def program(
        self, stream_id: int, key_set: KeySet, direction: Direction, sub_stream: SubStream, key: bytes, ifv: int
    ) -> ProgramResult:
        """Install a key (KEY_PROG); `direction` is as this port sees it. Anything but OK installed nothing."""
        bound = self._named(stream_id)
        if bound is None:
            return ProgramResult.UNKNOWN_STREAM
        if len(key) != KEY_SIZE:
            return ProgramResult.BAD_KEY
        if ifv != FIRST_INVOCATION:
            return ProgramResult.BAD_IFV
        digest = hashlib.sha256(key).digest()[:16]
        if self.was_used(digest):
            self._observer(Refused(self.name, f"a key for IDE stream {stream_id}", _NO_REUSE))
            return ProgramResult.KEY_REUSED
        if len(self._used_keys) >= MAX_KEYS:
            return ProgramResult.TOO_MANY_KEYS
        if not bound.stream.program(key_set, direction, sub_stream, key):
            return ProgramResult.IN_USE
        self._used_keys.add(digest)
        return ProgramResult.OK

    def was_used(self, digest: bytes) -> bool:
        """Tell whether the key with this digest was installed before: under it IVs would come twice."""
        return digest in self._used_keys

    def set_go(self, stream_id: int, key_set: KeySet, direction: Direction, sub_stream: SubStream) -> bool:
        """Let a key be used (K_SET_GO); False if there is no such stream or key."""
        bound = self._named(stream_id)
        if bound is None or not bound.stream.set_go(key_set, direction, sub_stream):
            return False
        self._show(bound, "keys in use")
        return True

    def set_stop(self, stream_id: int, key_set: KeySet, direction: Direction, sub_stream: SubStream) -> bool:
        """Erase a key (K_SET_STOP); False if there is no such stream."""
        bound = self._named(stream_id)
        if bound is None:
            return False
        bound.stream.set_stop(key_set, direction, sub_stream)
        return True

    def slot_state(self, stream_id: int, key_set: KeySet, direction: Direction, sub_stream: SubStream) -> SlotState:
        """Tell what the slot that `program` would fill holds; EMPTY if there is no such stream."""
        bound = self._named(stream_id)
        return bound.stream.slot(key_set, direction, sub_stream).state if bound else SlotState.EMPTY

    def block(self, stream_id: int) -> StreamBlock | None:
        """Find the registers of the stream that `program` would address."""
        bound = self._named(stream_id)
        return bound.block if bound else None

    def is_secure(self, stream_id: int) -> bool:
        """Tell whether the stream is Secure."""
        bound = self._named(stream_id)
        return bound is not None and bound.stream.secure

    def keyed(self, stream_id: int) -> bool:
        """Tell whether one key set of the stream holds all six keys."""
        bound = self._named(stream_id)
        return bound is not None and bound.stream.keyed()

    def default_stream(self) -> int | None:
        """Give the ID of the enabled Default Stream."""
        return next((bound.id for bound in self._bound if bound.stream.enabled and bound.default), None)

    def owns(self, stream_id: int) -> bool:
        """Tell whether a stream with this ID is enabled here; else an IDE TLP of it is for another port, or astray."""
        return any(bound.stream.enabled and bound.id == stream_id for bound in self._bound)
