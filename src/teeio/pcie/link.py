"""A link between two ports: frames go down and up, and somebody may sit on it to listen and to tamper.

It comes up in Flit Mode if both ports support that and the upper one has not disabled it, else in Non-Flit Mode; what frames
look like then, its `mode` says. Delivery is immediate: what a frame causes has happened when `send` returns.

Left out: the data link layer (LCRC, sequence numbers, replay), packing into flits, flow-control credits.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from functools import lru_cache
from typing import Protocol, TypeAlias

from teeio.errors import Misuse
from teeio.observe import Observer, TlpMoved, heard, ignore
from teeio.pcie.address import Bdf
from teeio.pcie.capabilities.express import ExpressCapability
from teeio.pcie.flit_mode import FlitMode
from teeio.pcie.link_mode import NON_FLIT, LinkMode
from teeio.pcie.seams import ConfigRegisters
from teeio.pcie.tlp import TlpType


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
        self.on_up: Callable[[LinkMode], None] | None = None
        self.express: ExpressCapability | None = None
        """Set by a port: what it says about Flit Mode."""
        self.segment = 0
        """Set by a port: the segment that it belongs to."""
        self.access: Callable[[Bdf], ConfigRegisters | None] | None = None
        """Set by a port that lets configuration requests without IDE be served past it: gives who serves a function."""
        self._link = link
        self._way = way

    @property
    def up(self) -> bool:
        """Whether the link is up and has a port at its other end."""
        other = self._link.bottom if self._way is Way.DOWN else self._link.top
        return self._link.up and other.receiver is not None

    @property
    def mode(self) -> LinkMode:
        """What TLPs look like on the link."""
        return self._link.mode

    def beyond(self, function: Bdf) -> ConfigRegisters | None:
        """Give who serves configuration requests to a function at the other end; None if they must go as TLPs.

        They need not where nobody could tell the difference: nobody tampers with the link, nobody listens.
        """
        link = self._link
        access = (link.bottom if self is link.top else link.top).access
        return access(function) if access is not None and link.quiet else None

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
        self.mode: LinkMode = NON_FLIT

    @property
    def quiet(self) -> bool:
        """Whether the link is up and nobody tampers with it or hears what crosses it."""
        return self.up and self.tamper is None and not heard(self.observer)

    def carry(self, frame: bytes, way: Way) -> None:
        """Take a frame past whoever sits on the link to its receiver."""
        if self.tamper is None:
            self.inject(frame, way)
            return
        arriving = self.tamper(frame, way)
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
        if heard(self.observer):
            self.observer(described(frame, source.name, target.name, self.mode))
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
        self.train()

    def train(self) -> None:
        """Agree on the link's mode, and tell both ports."""
        self.mode = FlitMode(self.top.segment) if self._flit_mode() else NON_FLIT
        for end in (self.top, self.bottom):
            if end.on_up is not None:
                end.on_up(self.mode)

    def _flit_mode(self) -> bool:
        upper, lower = self.top.express, self.bottom.express
        if upper is None or lower is None or upper.get(ExpressCapability.LINK_CONTROL, "flit_mode_disable"):
            return False
        return all(one.get(ExpressCapability.CAPABILITIES, "flit_mode") for one in (upper, lower))


class Attachable(Protocol):
    """A port that can stand at an end of a link."""

    name: str

    def attach(self, end: LinkEnd) -> None:
        """Put the port at an end of a link."""


def join(top: Attachable, bottom: Attachable, *, tamper: Tamper | None = None, observer: Observer = ignore) -> Link:
    """Join two ports by a link; `top` is nearer to the root complex."""
    link = Link(top.name, bottom.name, tamper=tamper, observer=observer)
    top.attach(link.top)
    bottom.attach(link.bottom)
    link.train()
    return link


def described(frame: bytes, source: str, target: str, mode: LinkMode) -> TlpMoved:
    """Say what a frame is, whatever its bytes are."""
    ide = mode.ide_fields(frame)
    return _moved(source, target, mode.type_of(frame), None if ide is None else ide.t_bit, len(frame))


@lru_cache(maxsize=1024)
def _moved(source: str, target: str, kind: TlpType | None, t_bit: bool | None, size: int) -> TlpMoved:
    protection = "plain" if t_bit is None else f"IDE T={int(t_bit)}"
    return TlpMoved(source, target, kind.label if kind else "unknown", protection, size)
