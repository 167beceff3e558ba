"""What crosses a link, counted on the frames themselves."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields

from teeio.errors import DecodeError
from teeio.pcie.ide_key import MAC_SIZE
from teeio.pcie.ide_tlp import M_FLAG, PREFIX_SIZE, is_ide
from teeio.pcie.link import Way
from teeio.pcie.tlp import header_sizes


@dataclass(slots=True)
class Traffic:
    """Frames in one direction: TLPs, their payload, what IDE adds to them, and all their bytes, without framing."""

    tlps: int = 0
    payload: int = 0
    ide_tlps: int = 0
    ide_bytes: int = 0
    tlp_bytes: int = 0

    def __sub__(self, earlier: Traffic) -> Traffic:
        """Give what crossed since `earlier`."""
        return Traffic(*(getattr(self, one.name) - getattr(earlier, one.name) for one in fields(self)))

    def __add__(self, other: Traffic) -> Traffic:
        """Give both together."""
        return Traffic(*(getattr(self, one.name) + getattr(other, one.name) for one in fields(self)))

    def add(self, frame: bytes) -> None:
        """Count a frame."""
        self.tlps += 1
        self.tlp_bytes += len(frame)
        at = 0
        if is_ide(frame) and len(frame) >= PREFIX_SIZE:
            at = PREFIX_SIZE
            self.ide_tlps += 1
            self.ide_bytes += PREFIX_SIZE + (MAC_SIZE if frame[3] & M_FLAG else 0)
        try:
            self.payload += header_sizes(frame, at)[1]
        except DecodeError:
            return  # no TLP, but bytes all the same

    def on_link(self, framing: float) -> float:
        """Give the bytes that the link carries, `framing` bytes a TLP included."""
        return self.tlp_bytes + framing * self.tlps

    def as_dict(self) -> dict[str, int]:
        """Give the counts for JSON."""
        return asdict(self)


class LinkMeter:
    """Counts what crosses a link by direction. It sits where somebody could tamper, and does not."""

    def __init__(self) -> None:
        self.down = Traffic()
        self.up = Traffic()

    def __call__(self, frame: bytes, way: Way) -> bytes:
        """Count a frame and let it pass."""
        (self.down if way is Way.DOWN else self.up).add(frame)
        return frame

    def take(self) -> tuple[Traffic, Traffic]:
        """Give what went down and up since the last time, and begin anew."""
        taken = self.down, self.up
        self.down, self.up = Traffic(), Traffic()
        return taken
