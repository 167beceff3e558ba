"""What peer consumption is told by: the ways, what each cost on every link and the TVM's CPU, and who could read it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from enum import Enum
from typing import Any

from teeio.guest.cost import Cost
from teeio.pcie.link import Link
from teeio.pcie.link import Way as LinkWay

PAYLOAD = 32 << 10
"""Bytes that the first device produces and the second consumes."""

BLOCK = 16
"""A listener knows the payload by any so many bytes of it that stand together."""


class Way(Enum):
    """How the bytes get from one device to the other."""

    DIRECT = "p2p"
    PRIVATE = "private-memory"
    SHARED = "shared-memory"

    @property
    def title(self) -> str:
        """What it is, in a few words."""
        return _TITLES[self]


_TITLES = {
    Way.DIRECT: "directly over the bound peer-to-peer stream",
    Way.PRIVATE: "over the TVM's private memory, T=1 both ways",
    Way.SHARED: "over shared memory as today, encrypted by the TVM",
}


@dataclass(slots=True)
class LinkUse:
    """What crossed one link: TLPs and their bytes, IDE's included, and how many TLPs were of the peer-to-peer stream."""

    tlps: int = 0
    bytes: int = 0
    peer_tlps: int = 0


@dataclass(slots=True)
class Passage:
    """What one way cost, and who could read the payload. CPU time counts only where it was measured."""

    way: Way
    cost: Cost
    measured: bool
    links: dict[str, LinkUse]
    on_links: bool
    in_memory: bool
    in_devices: bool
    correct: bool

    def as_dict(self) -> dict[str, Any]:
        """Give it for JSON."""
        cost = asdict(self.cost)
        if not self.measured:
            cost["cpu_seconds"] = None
        return {
            "title": self.way.title,
            "tvm": cost,
            "links": {name: asdict(use) for name, use in self.links.items()},
            "payload_readable": {
                "on_a_link": self.on_links,
                "by_the_vmm_in_memory": self.in_memory,
                "by_the_vmm_in_device_memory": self.in_devices,
            },
            "result_correct": self.correct,
        }


@dataclass(slots=True)
class Consumption:
    """What the story produced; `seen` are observations, each a sentence with whether it is as it must be."""

    payload: int = PAYLOAD
    passages: list[Passage] = field(default_factory=list)
    seen: list[tuple[str, bool]] = field(default_factory=list)

    @property
    def went_well(self) -> bool:
        """Tell whether everything is as it must be."""
        return all(holds for _, holds in self.seen) and all(one.correct for one in self.passages)

    def as_dict(self) -> dict[str, Any]:
        """Give it for JSON."""
        return {
            "payload": self.payload,
            "ways": {one.way.value: one.as_dict() for one in self.passages},
            "seen": [{"what": what, "as_it_must_be": holds} for what, holds in self.seen],
            "went_well": self.went_well,
        }


class Listener:
    """Somebody on all links, who counts frames, tells them apart by Stream ID, and looks for a payload that he knows."""

    def __init__(self, links: dict[str, Link]) -> None:
        self.uses: dict[str, LinkUse] = {}
        self.found = False
        self._blocks: frozenset[bytes] = frozenset()
        self._peer_stream: int | None = None
        self._links = links
        for name, link in links.items():
            link.tamper = self._at(name)

    def begin(self, payload: bytes, peer_stream: int | None) -> None:
        """Count from now on, look for this payload, and for frames of that stream."""
        self._blocks = frozenset(payload[at : at + BLOCK] for at in range(0, len(payload), BLOCK))
        self._peer_stream, self.found = peer_stream, False
        self.uses = {name: LinkUse() for name in self._links}

    def end(self) -> dict[str, LinkUse]:
        """Count no more; give what crossed each link."""
        uses, self.uses, self._blocks = self.uses, {}, frozenset()
        return uses

    def _at(self, name: str) -> Callable[[bytes, LinkWay], bytes]:
        def pass_on(frame: bytes, way: LinkWay) -> bytes:
            use = self.uses.get(name)
            if use is not None:
                use.tlps += 1
                use.bytes += len(frame)
                ide = self._links[name].mode.ide_fields(frame)
                use.peer_tlps += ide is not None and ide.stream_id == self._peer_stream
                self.found = self.found or self._holds_payload(frame)
            return frame

        return pass_on

    def _holds_payload(self, frame: bytes) -> bool:
        return any(frame[at : at + BLOCK] in self._blocks for at in range(len(frame) - BLOCK + 1))
