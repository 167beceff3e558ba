"""The dissector: frames in, messages out, decrypted where the keys are known, decoded, and verified.

It never raises on what a frame holds: what cannot be decrypted or decoded is given with the reason. Frames are fed in
the order of the capture. A frame belongs to a channel: an interface, with the endpoint ids of requester and responder on MCTP,
or a DOE connection id. What a frame does not say - which of a channel's sessions a record is of - is found by opening it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from teeio.capture.chains import ProvisionedKeys
from teeio.capture.channel import Channel
from teeio.capture.conversation import Conversation, Ledger
from teeio.capture.findings import Finding, Verdict
from teeio.capture.framing import BINDINGS, NOBODY, Carried, Ends, Framed, decode_discovery, unframe
from teeio.capture.keylog import KeyLog, parse_key_log
from teeio.capture.keyring import KeyRing
from teeio.capture.message import DissectedMessage, Protection
from teeio.capture.pcap import Capture, Frame, Interface, LinkType
from teeio.capture.pcapng import read_capture
from teeio.capture.remarks import notes, problems
from teeio.capture.sessions import Direction, DissectedSession
from teeio.errors import DecodeError
from teeio.spdm.record import session_id_of

NO_KEYS = ProvisionedKeys()
NO_BEGINNING = "the beginning of the session is not in the capture"


class Dissector:
    """Dissects the frames of one capture, one after another; `interfaces` are those that the frames name."""

    def __init__(
        self,
        link_type: LinkType,
        key_log: KeyLog | None = None,
        interfaces: Sequence[Interface] = (),
        provisioned: ProvisionedKeys = NO_KEYS,
    ) -> None:
        self.interfaces = tuple(interfaces) or (Interface(link_type),)
        self.ledger = Ledger(KeyRing(key_log or KeyLog()), provisioned)
        self._link_types = [interface.link_type for interface in self.interfaces]
        self._nameless = [self._new_channel(at, NOBODY) for at in range(len(self.interfaces))]
        self._named: dict[tuple[int, Ends], Channel] = {}

    @property
    def sessions(self) -> list[DissectedSession]:
        """Every session so far, in the order of appearance."""
        return self.ledger.sessions

    @property
    def connections(self) -> list[Conversation]:
        """Every connection so far, in the order of appearance."""
        return self.ledger.connections

    def feed(self, frame: Frame) -> DissectedMessage:
        """Dissect the next frame."""
        framed = unframe(self._link_types[frame.interface], frame.data)
        carried = framed.carried
        if framed.ends is NOBODY:
            channel, back = self._nameless[frame.interface], None
            direction = channel.last.opposite
        else:
            channel, back, direction = self._route(frame.interface, framed)
        found = DissectedMessage(
            frame.number, frame.time, carried, direction, framed.name, framed.payload, error=framed.error
        )
        if carried is Carried.SPDM:
            channel.plain(found)
        elif carried is Carried.SECURED:
            _secured(found, channel, back)
        elif carried is Carried.DISCOVERY:
            found.message = decode_discovery(found.raw, request=found.direction is Direction.REQUEST)
        channel.last = found.direction
        return found

    # -- channels --------------------------------------------------------------------------------------------------

    def _route(self, interface: int, framed: Framed) -> tuple[Channel, Channel | None, Direction]:
        """Give the channel that a frame with ends belongs to, that of the other way if there is one, its direction.

        A channel is named by the ends of its requests. A message outside sessions shows its direction; any other frame
        is taken for what the channels known so far make it.
        """
        if framed.ends.doe_connection is not None:
            channel = self._channel((interface, framed.ends))
            return channel, None, channel.last.opposite
        there, back = (interface, framed.ends), (interface, framed.ends.back())
        if framed.carried is Carried.SPDM and len(framed.payload) > 1:
            asks = bool(framed.payload[1] & 0x80)
        else:
            asks = there in self._named or back not in self._named
        if asks:
            return self._channel(there), self._named.get(back), Direction.REQUEST
        return self._channel(back), self._named.get(there), Direction.RESPONSE

    def _channel(self, key: tuple[int, Ends]) -> Channel:
        channel = self._named.get(key)
        if channel is None:
            channel = self._named[key] = self._new_channel(*key)
        return channel

    def _new_channel(self, interface: int, ends: Ends) -> Channel:
        where = self.interfaces[interface]
        words = [where.name or f"interface {interface}"] if len(self.interfaces) > 1 else []
        words += [str(ends)] if ends is not NOBODY else []
        return Channel(BINDINGS[where.link_type], self.ledger, ", ".join(words))


def _secured(found: DissectedMessage, channel: Channel, back: Channel | None) -> None:
    """Complete `found`, whose `raw` is a record of one of the sessions of `channel`, or of those the other way."""
    found.protection = Protection.UNOPENED
    try:
        session_id = found.session = session_id_of(found.raw)
    except DecodeError as error:
        found.error = str(error)
        return
    now = channel.current(session_id)
    if now is not None and channel.open(found, now):
        return
    for way in (channel, back) if back is not None else (channel,):
        for session in way.sessions_of(session_id):
            if session is not now and way.open(found, session):
                return
    if now is None and back is not None:
        now = back.current(session_id)
    if now is None:
        found.error = NO_BEGINNING
    else:
        now.unopened.append(found.frame)
        now.last_frame = found.frame
        found.belongs_to(now)


@dataclass(slots=True)
class Dissection:
    """A whole capture, dissected; `problems` are sentences on what could not be read, `notes` on what is missing."""

    capture: Capture
    messages: list[DissectedMessage]
    sessions: list[DissectedSession]
    connections: list[Conversation]
    problems: list[str]
    notes: list[str]

    def findings(self) -> Iterator[tuple[int, Finding]]:
        """Yield (frame, finding) of everything that was verified."""
        for message in self.messages:
            for part in message.nested():
                for finding in part.findings:
                    yield message.frame, finding

    def wrong(self) -> list[tuple[int, Finding]]:
        """Give the findings that are wrong."""
        return [(frame, finding) for frame, finding in self.findings() if finding.verdict is Verdict.WRONG]


def dissect(capture: Capture, key_log: KeyLog | None = None, provisioned: ProvisionedKeys = NO_KEYS) -> Dissection:
    """Dissect all frames of a capture. Never raises on what they hold."""
    dissector = Dissector(capture.link_type, key_log, capture.interfaces, provisioned)
    messages = [dissector.feed(frame) for frame in capture.frames]
    found = Dissection(capture, messages, dissector.sessions, dissector.connections, [], [])
    found.problems = problems(capture, found.sessions, with_keys=key_log is not None)
    found.notes = notes(capture, messages, dissector.ledger, with_keys=key_log is not None)
    return found


def decode_capture(data: bytes, keys: str | None = None, provisioned: ProvisionedKeys = NO_KEYS) -> Dissection:
    """Read a pcap or pcapng file, with the text of a key log in either form, and dissect it.

    `provisioned` are the public keys of sides that are known by theirs.

    Raises `DecodeError` for a file header or a key log that cannot be read.
    """
    capture = read_capture(data)
    return dissect(capture, parse_key_log(keys) if keys is not None else None, provisioned)
