"""Both SPDM engines on a real device: a responder never raises, a requester raises nothing but errors of the project."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

from fuzz.samples import NOW, PSK, PSK_HINT, Conversation, conversation, converse, forked, sample_records
from fuzz.surface import Strike, Surface
from teeio.crypto.entropy import SeededEntropy
from teeio.errors import AuthenticationFailed, DecodeError, TeeioError
from teeio.flow import Done, Send, Wait
from teeio.ide_km import flows as ide_flows
from teeio.pcie.doe import DoeBinding
from teeio.spdm import flows
from teeio.spdm import messages as m
from teeio.spdm.constants import SummaryType, Version
from teeio.spdm.requester import Requester
from teeio.spdm.state import Session
from teeio.tdisp import flows as tdisp_flows

Prepared = tuple[Sequence[bytes], Strike]
BINDING = DoeBinding()
GENERATION = 24
"""Inputs that one copy of a responder takes before it is put back to where it began."""

WHOLE_GENERATION = 300
"""Inputs that one device takes."""

MAX_SESSIONS = 4
MAX_TURNS = 12
"""Answers that a requester is given before its flow is abandoned."""

OUTSIDE = ("start", "negotiated", "authenticated")
INSIDE = ("handshake", "established", "locked")


class Target:
    """A responder at a state, put back there when it has taken a generation of inputs or has lost its session.

    With `whole` the device is made anew too: the end of a session takes keys and locked interfaces with it.
    """

    def __init__(self, version: int, state: str, *, whole: bool = False) -> None:
        self.version = version
        self.state = state
        self.whole = whole
        self.base = conversation(version, state)
        self.age = 1 << 16
        self.current = self.base

    def fresh(self) -> Conversation:
        """Give the conversation to strike next."""
        session = self.current.session
        lost = self.base.session is not None and (
            session is None or session.session_id not in self.current.responder.sessions
        )
        if self.age >= (WHOLE_GENERATION if self.whole else GENERATION) or lost:
            self.age = 0
            self.current = converse(self.version, self.state) if self.whole else self._fork()
        self.age += 1
        return self.current

    def _fork(self) -> Conversation:
        session = None if self.base.session is None else forked(self.base.session)
        return Conversation(self.base.device, self.base.requester, forked(self.base.responder), [], session)

    def spent(self) -> None:
        """Say that keys and state are no longer in step."""
        self.age = 1 << 16


def check_responder(c: Conversation, answer: bytes | None) -> None:
    """What holds of a responder whatever it was sent."""
    if len(c.responder.sessions) > MAX_SESSIONS:
        raise AssertionError(f"{len(c.responder.sessions)} sessions")
    if answer is None:
        return
    message, secured = BINDING.unwrap(answer)
    limit = c.responder.connection.peer_data_transfer_size
    if not secured and limit and m.header(message).code != m.Error.CODE and len(message) > limit + 3:
        raise AssertionError(f"{m.name_of(message[1])} of {len(message)} bytes to a peer that takes {limit}")


def _requests(random: Random) -> list[bytes]:
    """Requests of every version and kind: what travels in a whole conversation, and objects drawn from the layouts."""
    seeds = []
    for version in Version:
        state = "locked" if version >= Version.V1_2 else "authenticated"
        for frame, _ in conversation(version, state).exchanged:
            message, secured = BINDING.unwrap(frame)
            if not secured:
                seeds.append(message)
        facts = conversation(version, "authenticated").requester.connection.facts
        for cls in m.declared():
            if issubclass(cls, m.Request):
                seeds += sample_records(random, cls, facts, 3)
    return seeds


def responder_plain(random: Random) -> Prepared:
    """Plain requests in every state and version; the first byte selects the state."""
    targets = [Target(version, state) for version in Version for state in OUTSIDE]
    targets += [Target(Version.V1_2, "handshake"), Target(Version.V1_3, "established")]
    seeds = [bytes([random.randrange(256)]) + message for message in _requests(random) for _ in range(8)]

    def code(data: bytes) -> bool:
        selector, message = data[:1] or b"\0", data[1:]
        target = targets[selector[0] % len(targets)]
        if selector[0] % 16 and len(message) > 1 and message[1] != m.GetVersion.CODE:
            message = bytes([target.version]) + message[1:]
        c = target.fresh()
        frame = message if selector[0] == 0xFF else BINDING.wrap(message, secured=False)
        answer = c.responder.respond(frame, NOW)
        check_responder(c, answer)
        return answer is not None and BINDING.unwrap(answer)[0][1:2] != bytes([m.Error.CODE])

    return seeds, code


def responder_records(random: Random) -> Prepared:
    """Damaged records: right and wrong sessions, sequence numbers, lengths, tags."""
    targets = [Target(version, state) for version, state in ((Version.V1_2, "handshake"), (Version.V1_3, "locked"))]
    seeds = []
    for number, target in enumerate(targets):
        c = target.fresh()
        assert c.session is not None
        for message in (b"\x12\xe8\0\0", b"\x13\xe8\0\0", bytes(64)):
            sealed = forked(c.session).request_key.seal(c.session.session_id, message, BINDING, bytes)
            seeds.append(bytes([number]) + sealed)

    def code(data: bytes) -> bool:
        selector, record = data[:1] or b"\0", data[1:]
        c = targets[selector[0] % len(targets)].fresh()
        answer = c.responder.respond(BINDING.wrap(record, secured=True), NOW)
        check_responder(c, answer)
        return answer is not None and c.session is not None and c.session.session_id in c.responder.sessions

    return seeds, code


def responder_secured(random: Random) -> Prepared:
    """Damaged messages inside good records: SPDM, IDE_KM, TDISP and CXL in a session's phases."""
    targets = [Target(version, state, whole=True) for version in (Version.V1_2, Version.V1_4) for state in INSIDE]
    seeds = [bytes([random.randrange(256)]) + message for message in _requests(random) for _ in range(8)]
    for version in (Version.V1_2, Version.V1_4):
        seeds += [bytes([random.randrange(256)]) + message for message in _inside(version) for _ in range(32)]

    def code(data: bytes) -> bool:
        selector, message = data[:1] or b"\0", data[1:]
        target = targets[selector[0] % len(targets)]
        if selector[0] % 16 and message[1:]:
            message = bytes([target.version]) + message[1:]
        c = target.fresh()
        assert c.session is not None
        record = c.session.request_key.seal(c.session.session_id, message, BINDING, bytes)
        answer = c.responder.respond(BINDING.wrap(record, secured=True), NOW)
        check_responder(c, answer)
        plain = _opened(c.session, answer)
        if plain is None or plain[1] in (m.KeyUpdateAck.CODE, m.FinishRsp.CODE, m.EndSessionAck.CODE):
            target.spent()  # our keys are not theirs any more
        return plain is not None and plain[1] != m.Error.CODE

    return seeds, code


def _inside(version: int) -> list[bytes]:
    """Everything that travelled inside the sessions of a conversation, in the clear."""
    c = conversation(version, "authenticated")
    responder, requester = forked(c.responder), forked(c.requester)
    seen: list[bytes] = []
    mine = Conversation(c.device, requester, responder, [])
    session = mine.run(flows.key_exchange(requester, 0, SummaryType.ALL))
    seal = type(session.request_key).seal

    def noted(key: Any, session_id: int, message: bytes, *rest: Any, **options: Any) -> bytes:
        seen.append(message)
        return seal(key, session_id, message, *rest, **options)

    inside: list[Any] = [
        ide_flows.query(1),
        tdisp_flows.get_version(0xBEEF),
        tdisp_flows.get_capabilities(0xBEEF),
        tdisp_flows.get_state(0xBEEF),
        flows.heartbeat(session),
        flows.key_update(requester, session),
        flows.get_measurements(requester, session=session.session_id),
        flows.end_session(requester, session),
    ]
    type(session.request_key).seal = noted  # type: ignore[method-assign]
    try:
        for flow in inside:
            mine.run(flow, session.session_id)
    finally:
        type(session.request_key).seal = seal  # type: ignore[method-assign]
    return [message for message in seen if message[1] & 0x80]


def _opened(session: Session, answer: bytes | None) -> bytes | None:
    if answer is None:
        return None
    record, secured = BINDING.unwrap(answer)
    if not secured:
        return None
    try:
        return session.response_key.open(record, BINDING)
    except (AuthenticationFailed, DecodeError):
        return None


# -- the requester ---------------------------------------------------------------------------------------------------------


@dataclass
class Asking:
    """A flow of a requester at a state, and the answers that an honest responder gave; `at` is the one that is damaged."""

    base: Requester
    flow: Callable[[Requester], Any]
    answers: list[bytes]
    at: int
    session: int | None = None

    def strike(self, damaged: bytes) -> bool:
        """Run the flow with one answer damaged. Only errors of the project may come out; True if it went through."""
        requester = forked(self.base)
        requester.entropy = SeededEntropy(b"asking")
        theirs = forked(requester.sessions[self.session]) if self.session is not None else None
        try:
            action = requester.start(self.flow(requester), NOW, self.session)
            for turn in range(MAX_TURNS):
                if isinstance(action, Done):
                    return True
                if isinstance(action, Wait):
                    action = requester.wake(action.until)
                    continue
                message = damaged if turn >= self.at else self.answers[turn]
                action = requester.receive(self._frame(message, theirs), NOW)
        except TeeioError:
            return False
        finally:
            requester.cancel()
        return False

    def _frame(self, message: bytes, session: Session | None) -> bytes:
        if session is None:
            return BINDING.wrap(message, secured=False)
        record = session.response_key.seal(session.session_id, message, BINDING, bytes)
        return BINDING.wrap(record, secured=True)


def _honest(base: Conversation, flow: Callable[[Requester], Any], session: int | None) -> list[bytes]:
    """Run the flow with an honest responder; give its answers in the clear."""
    requester, responder = forked(base.requester), forked(base.responder)
    requester.entropy = SeededEntropy(b"asking")
    answers: list[bytes] = []
    keys = forked(base.session).response_key if session is not None and base.session is not None else None
    action = requester.start(flow(requester), NOW, session)
    while isinstance(action, Send):
        answer = responder.respond(action.frame, NOW)
        assert answer is not None
        message, secured = BINDING.unwrap(answer)
        if secured and keys is not None:
            try:
                message = keys.open(message, BINDING)
            except AuthenticationFailed:  # a key update: from here on under the next key
                keys = keys.updated()
                message = keys.open(message, BINDING)
        if not secured or keys is not None:
            answers.append(message)
        action = requester.receive(answer, NOW)
    return answers


def _askings() -> list[Asking]:
    found = []

    def add(base: Conversation, flow: Callable[[Requester], Any], session: int | None = None) -> None:
        answers = _honest(base, flow, session)
        found.extend(Asking(base.requester, flow, answers, at, session) for at in range(len(answers)))

    for version in Version:
        add(conversation(version, "start"), flows.connect)
        add(conversation(version, "negotiated"), lambda _: flows.get_digests())
        add(conversation(version, "negotiated"), flows.get_certificate)
        authenticated = conversation(version, "authenticated")
        add(authenticated, flows.challenge)
        add(authenticated, flows.get_measurements)
        add(authenticated, lambda r: flows.get_measurements(r, signed=False))
        if version >= Version.V1_1:
            add(authenticated, flows.key_exchange)
            add(authenticated, lambda r: flows.psk_exchange(r, PSK_HINT, PSK))
    for version in (Version.V1_2, Version.V1_4):
        c = converse(version, "established")
        assert c.session is not None
        session_id = c.session.session_id
        add(c, lambda r, s=session_id: flows.heartbeat(r.sessions[s]), session_id)  # type: ignore[misc]
        add(c, lambda r, s=session_id: flows.get_measurements(r, session=s), session_id)  # type: ignore[misc]
        add(c, lambda r, s=session_id: flows.end_session(r, r.sessions[s]), session_id)  # type: ignore[misc]
        add(c, lambda _: ide_flows.query(1), session_id)
        add(c, lambda _: tdisp_flows.get_version(0xBEEF), session_id)
        add(c, lambda _: tdisp_flows.get_capabilities(0xBEEF), session_id)
        add(c, lambda _: tdisp_flows.get_state(0xBEEF), session_id)
        locked = converse(version, "locked")
        assert locked.session is not None
        add(locked, lambda _: tdisp_flows.get_device_interface_report(0xBEEF), locked.session.session_id)
    return found


def requester_answers(random: Random) -> Prepared:
    """Damaged answers to every flow; the first two bytes select flow and exchange."""
    askings = _askings()
    seeds = [number.to_bytes(2, "big") + one.answers[one.at] for number, one in enumerate(askings)]
    pending = bytes([m.Error.CODE, 0x42, 0, 10, m.GetDigests.CODE, 5, 4])
    seeds += [number.to_bytes(2, "big") + bytes([Version.V1_2]) + pending for number in range(len(askings))]
    seeds += [number.to_bytes(2, "big") + b"\x12\x7f\x0f\0\1" for number in range(len(askings))]

    def code(data: bytes) -> bool:
        number = int.from_bytes(data[:2].ljust(2, b"\0"), "big")
        return askings[number % len(askings)].strike(data[2:])

    return seeds, code


def requester_frames(random: Random) -> Prepared:
    """Damaged transport frames as answers, plain and in a session."""
    askings = [one for one in _askings() if one.at == 0]
    seeds = []
    for number, one in enumerate(askings):
        theirs = forked(one.base.sessions[one.session]) if one.session is not None else None
        seeds.append(bytes([number]) + one._frame(one.answers[0], theirs))

    def code(data: bytes) -> bool:
        one = askings[(data[:1] or b"\0")[0] % len(askings)]
        requester = forked(one.base)
        requester.entropy = SeededEntropy(b"asking")
        try:
            requester.start(one.flow(requester), NOW, one.session)
            requester.receive(data[1:], NOW)
        except TeeioError:
            return False
        finally:
            requester.cancel()
        return True

    return seeds, code


def surfaces() -> Iterator[Surface]:
    """Both engines."""
    yield Surface("responder, plain", responder_plain, 3, selector=1)
    yield Surface("responder, records", responder_records, 1.5, selector=1)
    yield Surface("responder, in a session", responder_secured, 2.5, selector=1)
    yield Surface("requester, answers", requester_answers, 1.5, selector=2)
    yield Surface("requester, frames", requester_frames, 1, selector=1)
