"""A link between two ports: frames go down and up, and somebody may sit on it to listen and to tamper.

Delivery is immediate: what a frame causes has happened when `send` returns. Left out: the data link layer (LCRC,
sequence numbers, replay), flow-control credits.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import TypeAlias

from teeio.errors import Misuse
from teeio.observe import Observer, TlpMoved, ignore
from teeio.pcie.ide_tlp import PREFIX_SIZE, T_FLAG, is_ide
from teeio.pcie.tlp import TYPES


class Way(Enum):
    """Direction of a frame."""

    DOWN = "downstream"
    UP = "upstream"


Tamper: TypeAlias = Callable[[bytes, Way], "bytes | list[bytes] | None"]
"""Sees each frame and says what arrives: a frame, nothing, or several frames in order."""


class LinkEnd:
    """One end of a link: its port sends here and takes what arrives through `receiver`."""

    def __init__(self, link: Link, way: Way, name: str) -> None:
        self.name = name
        self.receiver: Callable[[bytes], None] | None = None
        self.on_down: Callable[[], None] | None = None
        self._link = link
        self._way = way

    def send(self, frame: bytes) -> None:
        """Send a frame to the other end."""
        self._link.carry(frame, self._way)


class Link:
    """A point-to-point link; `top` is the root port's end, `bottom` the endpoint's."""

    def __init__(
        self,
        top: str = "root port",
        bottom: str = "endpoint",
        *,
        tamper: Tamper | None = None,
        observer: Observer = ignore,
    ) -> None:
        self.top = LinkEnd(self, Way.DOWN, top)
        self.bottom = LinkEnd(self, Way.UP, bottom)
        self.tamper = tamper
        self.observer = observer
        self.up = True

    def carry(self, frame: bytes, way: Way) -> None:
        """Take a frame past whoever sits on the link to its receiver."""
        arriving: bytes | list[bytes] | None = frame if self.tamper is None else self.tamper(frame, way)
        if arriving is None:
            return
        for one in [arriving] if isinstance(arriving, bytes) else arriving:
            self.inject(one, way)

    def inject(self, frame: bytes, way: Way) -> None:
        """Deliver a frame that nobody need have sent."""
        if not self.up:
            return
        source, target = (self.top, self.bottom) if way is Way.DOWN else (self.bottom, self.top)
        if target.receiver is None:
            raise Misuse(f"nothing is attached to the {target.name} end of the link")
        if self.observer is not ignore:
            self.observer(described(frame, source.name, target.name))
        target.receiver(frame)

    def fail(self) -> None:
        """Take the link down: frames are lost, both ports are told."""
        self.up = False
        for end in (self.top, self.bottom):
            if end.on_down is not None:
                end.on_down()

    def restore(self) -> None:
        """Bring the link up again."""
        self.up = True


def described(frame: bytes, source: str, target: str) -> TlpMoved:
    """Say what a frame is, whatever its bytes are."""
    at = 0
    while at + 4 < len(frame) and frame[at] & 0xF0 == 0x90:
        at += PREFIX_SIZE
    kind = TYPES.get(frame[at]) if at < len(frame) else None
    protection = "plain"
    if is_ide(frame) and len(frame) >= PREFIX_SIZE:
        protection = f"IDE T={frame[3] & T_FLAG}"
    return TlpMoved(source, target, kind.value.label if kind else "unknown", protection, len(frame))
