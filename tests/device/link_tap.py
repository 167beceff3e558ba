"""What travels on a bench's link, as TLPs; a second Secure stream; and an agent that answers ATS."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

from teeio.pcie.ide import Direction, KeySet
from teeio.pcie.ide_port import ProgramResult
from teeio.pcie.link import Way
from teeio.pcie.link_mode import LinkMode
from teeio.pcie.seams import DONE, Reply
from teeio.pcie.tlp import CompletionStatus, MessageCode, SubStream, Tlp, TlpType
from teeio.pcie.translation import PageRequest, PageResponse, ResponseCode, Translation, page_response

OTHER_STREAM = 9


class Seen(NamedTuple):
    """A TLP on the link: its header is in the clear, its payload need not be."""

    type: TlpType
    header: bytes
    t_bit: bool
    stream_id: int | None

    @property
    def address_type(self) -> int:
        return self.header[2] >> 2 & 3

    @property
    def requester_id(self) -> int:
        return int.from_bytes(self.header[4:6], "big")

    @property
    def code(self) -> int:
        """The code of a message."""
        return self.header[7]


def seen(frame: bytes, mode: LinkMode) -> Seen:
    """Read the headers of a frame."""
    ide = mode.ide_fields(frame)
    if ide is None:
        tlp = mode.decode(frame)
        return Seen(tlp.type, tlp.header, False, None)
    tlp = mode.heading(frame)
    return Seen(tlp.type, tlp.header, ide.t_bit, ide.stream_id)


class Tap:
    """Listens on a link, both ways."""

    def __init__(self, link: Any) -> None:
        self.frames: list[tuple[Way, bytes]] = []
        self._link = link
        link.tamper = self._listen

    def _listen(self, frame: bytes, way: Way) -> bytes:
        self.frames.append((way, frame))
        return frame

    def up(self) -> list[Seen]:
        """The requests and messages that the device has sent."""
        return [one for one in self._on(Way.UP) if not one.type.is_completion]

    def completions(self) -> list[Seen]:
        """The completions that the device has sent."""
        return [one for one in self._on(Way.UP) if one.type.is_completion]

    def _on(self, way: Way) -> list[Seen]:
        return [seen(frame, self._link.mode) for at, frame in self.frames if at is way]


@dataclass
class Agent:
    """A translation agent that grants everything one to one, with and without trust, as a generic host may."""

    rig: Any
    entry: dict[str, int] = field(default_factory=lambda: {"read": 1, "write": 1})
    answers_pages: bool = True
    t_of_response: bool | None = None
    asked: list[str] = field(default_factory=list)

    @property
    def translated(self) -> Any:
        self.asked.append("translated")
        return self.rig.host

    def translate(
        self, requester_id: int, address: int, pages: int, no_write: bool, t_bit: bool, stream_id: int | None
    ) -> Reply:
        self.asked.append("translate")
        entries = [Translation(page=address // 4096 + n, **self.entry) for n in range(pages)]
        return Reply(CompletionStatus.SC, b"".join(entry.encode() for entry in entries))

    def receive(self, tlp: Tlp, t_bit: bool, stream_id: int | None) -> Reply:
        header = tlp.message()
        self.asked.append(MessageCode(header.code).name)
        if header.code == MessageCode.PAGE_REQUEST and self.answers_pages:
            group = PageRequest.decode(header.body).group
            answer = PageResponse(destination=tlp.requester_id, group=group, code=ResponseCode.SUCCESS)
            trusted = t_bit if self.t_of_response is None else self.t_of_response
            self.rig.root.answer(page_response(self.rig.root.function.requester_id, answer), trusted, stream_id)
        return DONE


def second_stream(rig: Any) -> None:
    """Make a second Selective stream between the same ports Secure; the associations send nothing over it."""
    ports = (
        (rig.device.port.ide, rig.device.streams, 0x0008, 0x0008),
        (rig.root.ide, rig.root_streams, 0x0100, 0x01FF),
    )
    for _, streams, base, limit in ports:
        block = streams.streams[1]
        upper, lower = block.rid
        streams.write(upper.offset, 4, upper.put(0, limit=limit))
        streams.write(lower.offset, 4, lower.put(0, base=base, valid=1))
        streams.write(block.control.offset, 4, block.control.put(0, stream_id=OTHER_STREAM))
    for direction in Direction:
        for sub_stream in SubStream:
            key = bytes([0x40 | direction << 4 | sub_stream]) * 32
            for port, at in ((rig.device.port.ide, direction), (rig.root.ide, Direction(1 - direction))):
                assert port.program(OTHER_STREAM, KeySet.K0, at, sub_stream, key, 1) is ProgramResult.OK
                assert port.set_go(OTHER_STREAM, KeySet.K0, at, sub_stream)
    for port, streams, *_ in ports:
        control = streams.streams[1].control
        streams.write(control.offset, 4, control.put(streams.value(control), enable=1))
        assert port.is_secure(OTHER_STREAM)
