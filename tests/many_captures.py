"""Captures with several connections and sessions: devices side by side, one after another, on one or more links."""

import struct
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import zip_longest

from capture_files import Recorder
from teeio.capture.keylog import KeyLogWriter
from teeio.capture.pcap import LinkType
from teeio.crypto.entropy import SeededEntropy
from teeio.mctp import MctpHeader
from teeio.spdm import flows
from teeio.spdm.constants import Capability, Version
from teeio.spdm.state import REQUESTER_CAPABILITIES, RESPONDER_CAPABILITIES, Session

Packet = tuple[int, bytes]
"""Interface and frame."""


@dataclass
class Story:
    """One device's traffic: the frames that crossed its link, by step; `source` and `target` are MCTP endpoint ids."""

    link_type: LinkType
    source: int = 0
    target: int = 0
    version: int = Version.V1_2
    interface: int = 0
    seed: bytes = b""
    steps: list[list[Packet]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.pair = Recorder(
            self.link_type,
            version=self.version,
            requester_changes={"capabilities": REQUESTER_CAPABILITIES | Capability.PSK},
            responder_changes={"capabilities": RESPONDER_CAPABILITIES | Capability.PSK_WITH_CONTEXT},
        )
        self.pair.requester.entropy = SeededEntropy(self.seed + b"requester")
        self.pair.responder.entropy = SeededEntropy(self.seed + b"responder")

    def step(self, act: Callable[[Recorder], object]) -> object:
        before = len(self.pair.frames)
        result = act(self.pair)
        self.steps.append([(self.interface, self._framed(*moved)) for moved in self.pair.frames[before:]])
        return result

    def _framed(self, sender: str, frame: bytes) -> bytes:
        if self.link_type is LinkType.PCI_DOE:
            return frame
        source, target = (self.source, self.target) if sender == "req" else (self.target, self.source)
        return MctpHeader(source=source, destination=target).encode() + frame

    def connect(self) -> None:
        """Begin a connection, with everything read that its sessions need."""
        self.step(lambda pair: pair.authenticate())

    def sessions(self) -> list[Session]:
        """Begin three sessions: two by key exchange, one by a pre-shared key between them."""
        made = []
        for psk in (False, True, False):

            def begin(pair: Recorder, *, psk: bool = psk) -> None:
                flow = flows.psk_exchange(pair.requester, b"hint", b"pre-shared key") if psk else None
                made.append(pair.run(flow or flows.key_exchange(pair.requester)))

            self.step(begin)
        return made

    def work(self, sessions: Iterable[Session]) -> None:
        """Use the sessions in turn, renew the keys of each, use them again, end the first."""
        opened = list(sessions)
        for at, one in enumerate(opened):
            self.step(lambda pair, one=one: pair.run(flows.heartbeat(one)))  # type: ignore[misc]
            self.step(lambda pair, one=one, at=at: pair.run(flows.key_update(pair.requester, one, both=at != 1)))  # type: ignore[misc]
        for one in reversed(opened):
            self.step(lambda pair, one=one: pair.run(flows.heartbeat(one)))  # type: ignore[misc]
        self.step(lambda pair: pair.run(flows.end_session(pair.requester, opened[0])))

    def whole(self, connections: int = 1) -> "Story":
        """Live whole connections, one after another."""
        for _ in range(connections):
            self.connect()
            self.work(self.sessions())
        return self


def key_log(stories: Iterable[Story]) -> str:
    """Give one key log of all stories, as an observer of all of them writes it: told in turns."""
    writer = KeyLogWriter()
    for events in zip_longest(*(story.pair.events for story in stories)):
        for event in events:
            if event is not None:
                writer(event)
    return writer.text()


def interleaved(stories: Iterable[Story], *, frames: bool) -> Iterator[Packet]:
    """Mix stories, frame by frame or step by step."""
    lines = [[[packet] for step in story.steps for packet in step] if frames else story.steps for story in stories]
    for turn in zip_longest(*lines, fillvalue=()):
        for part in turn:
            yield from part


# -- pcapng ------------------------------------------------------------------------------------------------------------


def block(order: str, kind: int, body: bytes) -> bytes:
    """Give a pcapng block."""
    body += bytes(-len(body) % 4)
    size = struct.pack(f"{order}I", len(body) + 12)
    return struct.pack(f"{order}I", kind) + size + body + size


def option(order: str, code: int, value: bytes) -> bytes:
    """Give an option of a block."""
    return struct.pack(f"{order}HH", code, len(value)) + value + bytes(-len(value) % 4)


def section(order: str = "<") -> bytes:
    """Give a section header."""
    return block(order, 0x0A0D0D0A, struct.pack(f"{order}IHHq", 0x1A2B3C4D, 1, 0, -1))


def interface(link_type: int, name: str, order: str = "<", resolution: int | None = None) -> bytes:
    """Give an interface description."""
    options = option(order, 2, name.encode())
    if resolution is not None:
        options += option(order, 9, bytes([resolution]))
    return block(order, 1, struct.pack(f"{order}HHI", link_type, 0, 0) + options + option(order, 0, b""))


def enhanced(at: int, frame: bytes, order: str = "<", stamp: int = 0) -> bytes:
    """Give an enhanced packet."""
    head = struct.pack(f"{order}IIIII", at, stamp >> 32, stamp & 0xFFFFFFFF, len(frame), len(frame))
    return block(order, 6, head + frame)


def pcapng(names: Iterable[tuple[int, str]], packets: Iterable[Packet]) -> bytes:
    """Give a file of one section."""
    described = b"".join(interface(link_type, name) for link_type, name in names)
    return section() + described + b"".join(enhanced(at, frame) for at, frame in packets)
