"""Somebody on the link: reads along, remembers the last IDE TLP, and loses, alters or holds the next one if told to."""

from __future__ import annotations

from collections.abc import Hashable
from enum import Enum
from typing import Any, NamedTuple

from teeio.errors import Misuse
from teeio.pcie.ide import Direction, KeySet
from teeio.pcie.ide_key import MAC_SIZE
from teeio.pcie.link import Way
from teeio.pcie.tlp import SubStream
from teeio.platform import Platform

SECRET = b"secret o"
"""How every secret begins, of whichever TVM it is."""


class Deed(Enum):
    """What befalls the next IDE TLP."""

    LOSE = "lose"
    FLIP = "flip a bit of"
    HOLD = "hold"


class Held(NamedTuple):
    """A TLP that was held back: whose it was then, by requester id and TVM, and the key with which it would be opened."""

    frame: bytes
    way: Way
    requester_id: int
    tdr: int
    key: object


class Tap:
    """Sits on a link for good."""

    def __init__(self, platform: Platform) -> None:
        self._platform = platform
        self._link = platform.link
        self.leaked: bytes | None = None
        """The first frame that showed a secret in the clear."""
        self._next: Deed | None = None
        self._held: Held | None = None
        self._last: tuple[bytes, Way] | None = None
        self.passed = 0
        """IDE TLPs that were sent so far."""
        self._link.tamper = self._pass

    def _pass(self, frame: bytes, way: Way) -> bytes | None:
        if SECRET in frame:
            self.leaked = self.leaked or frame
        if self._link.mode.ide_fields(frame) is None:
            return frame
        self._last = frame, way
        self.passed += 1
        deed, self._next = self._next, None
        if deed is Deed.HOLD:
            self._held = self._kept(frame, way)
        if deed is Deed.FLIP:
            # The last byte before the MAC: of the payload if there is one, else of the header.
            at = len(frame) - MAC_SIZE - 1
            return frame[:at] + bytes([frame[at] ^ 1]) + frame[at + 1 :]
        return frame if deed is None else None

    def do_next(self, deed: Deed) -> None:
        """Do this to the next IDE TLP. Raises `Misuse` if one is held already."""
        if deed is Deed.HOLD and self._held is not None:
            raise Misuse("a TLP is held already", remedy="let it go first")
        self._next = deed

    def let_go(self) -> None:
        """Let what is held arrive, after whatever has overtaken it."""
        if self._held is None:
            raise Misuse("no TLP is held", remedy="hold one first")
        held, self._held = self._held, None
        self._link.inject(held.frame, held.way)

    def replay(self) -> None:
        """Let the last IDE TLP arrive once more."""
        if self._last is None:
            raise Misuse("no IDE TLP has passed", remedy="replay one that has")
        self._link.inject(*self._last)

    def state(self) -> Hashable:
        """Give what the next steps depend on: of frames, the way, the sub-stream and the T bit, not the bytes."""
        held = self._held
        return self._next, self._kind(held and held[:2]), held and self._opens(held), self._kind(self._last)

    # -- what is held back

    def late(self) -> str | None:
        """Say whether what is held of one TVM's interface would still be opened, though the interface is another's now."""
        held = self._held
        if held is None or not held.tdr or not self._opens(held):
            return None
        devif = self._platform.module.records.devifs.get(held.requester_id)
        if devif is None or devif.tvm.tdr == held.tdr:
            return None
        return (
            f"a TLP of requester {held.requester_id:#06x}, held back since it was another TVM's, would be its new TVM's"
        )

    def _kept(self, frame: bytes, way: Way) -> Held:
        requester_id = self._link.mode.heading(frame).requester_id
        devif = self._platform.module.records.devifs.get(requester_id)
        return Held(frame, way, requester_id, devif.tvm.tdr if devif else 0, self._key(frame, way))

    def _opens(self, held: Held) -> bool:
        return held.key is not None and self._key(held.frame, held.way) is held.key

    def _key(self, frame: bytes, way: Way) -> Any:
        """Give the key with which the receiver would open a frame now."""
        fields = self._link.mode.ide_fields(frame)
        ports = self._platform.root_complex.fabric.ports[0], self._platform.device.port
        bound = ports[way is Way.DOWN].ide._named(fields.stream_id) if fields else None
        if fields is None or bound is None or not bound.stream.secure:
            return None
        return bound.stream.slot(KeySet(fields.key_set), Direction.RX, SubStream(fields.sub_stream))._key

    def _kind(self, taken: tuple[bytes, Way] | None) -> Hashable:
        if taken is None:
            return None
        fields = self._link.mode.ide_fields(taken[0])
        return None if fields is None else (taken[1].name, fields.sub_stream, fields.t_bit, fields.key_set)
