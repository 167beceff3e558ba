"""Both engines with every capability: provisioning, events, endpoint info, logs, encapsulated requests, mutual authentication."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import cache
from random import Random
from typing import Any

from fuzz.mutation import Mutator
from fuzz.samples import forked, sample_records
from fuzz.surface import Strike, Surface
from spdm_pair import Pair, PlainBinding, identity
from teeio.crypto.algorithms import P384_SUITE, BaseAsym
from teeio.crypto.entropy import SeededEntropy
from teeio.errors import AuthenticationFailed, DecodeError, TeeioError, TransportError
from teeio.spdm import flows
from teeio.spdm import messages as m
from teeio.spdm.constants import Capability, MutualAuth, SummaryType, Version
from teeio.spdm.events import Events
from teeio.spdm.mutual import MutualAuthentication
from teeio.spdm.provisioning import KeyPairCapability, Provisioning
from teeio.spdm.rules import BY_REQUEST
from teeio.spdm.state import MUTUAL_CAPABILITIES, REQUESTER_CAPABILITIES, RESPONDER_CAPABILITIES, Session

Prepared = tuple[Sequence[bytes], Strike]
Step = Callable[[Pair, Session | None], Any]

VERSIONS = (Version.V1_1, Version.V1_2, Version.V1_3, Version.V1_4)
P256 = BaseAsym.ECDSA_P256
EVERYTHING = RESPONDER_CAPABILITIES | MUTUAL_CAPABILITIES | Capability.CSR | Capability.SET_CERT | Capability.EVENT
EVERYTHING |= Capability.MEL | Capability.EP_INFO_SIG | Capability.PSK_WITH_CONTEXT | Capability.LARGE_RESP
EVERYTHING |= Capability.MULTI_KEY_NEG | Capability.GET_KEY_PAIR_INFO | Capability.SET_KEY_PAIR_INFO
MODES = (MutualAuth.ENCAPSULATED, MutualAuth.IMPLICIT_DIGESTS)
GENERATION = 24
MAX_TURNS = 200


def _trust(chain: bytes, now: float) -> None:
    if len(chain) < 64:
        raise AuthenticationFailed("not a chain")


@cache
def rich(version: int, number: int, *, in_session: bool) -> tuple[Pair, Session | None]:
    """Make a pair with every capability that the version has, authenticated or in a session; it is only ever forked."""
    found = (identity(BaseAsym.ECDSA_P384), identity(P256))
    made = Provisioning.of(found, capabilities=KeyPairCapability(0x3F), trusted_environment=True)
    pair = Pair(
        version,
        P384_SUITE,
        {"versions": (version,), "capabilities": EVERYTHING},
        {
            "capabilities": REQUESTER_CAPABILITIES | MUTUAL_CAPABILITIES | Capability.PSK | Capability.LARGE_RESP,
            "req_base_asym": (P256,),
            "multi_key": version >= Version.V1_3,
        },
        requester_identities=(P256,),
        mutual=MutualAuthentication(_trust, MODES[number % 2], basic=True),
        device={
            "provisioning": made,
            "events": Events(),
            "device_classes": (m.DeviceClass(registry=3, vendor=b"\x01\x00"),),
        },
    )
    pair.authenticate()
    return pair, pair.run(flows.key_exchange(pair.requester)) if in_session else None


def fork(base: Pair, session: Session | None) -> tuple[Pair, Session | None]:
    """Copy both ends."""
    pair = copy.copy(base)
    pair.requester, pair.responder = forked((base.requester, base.responder))
    pair.requester.entropy, pair.responder.entropy = SeededEntropy(b"requester fork"), SeededEntropy(b"responder fork")
    pair.requester.observer = lambda event: None
    pair.frames, pair.events = [], []
    return pair, None if session is None else pair.requester.sessions[session.session_id]


# -- the responder ---------------------------------------------------------------------------------------------------------


def _requests(random: Random, *, in_session: bool) -> list[bytes]:
    """Draw requests from the layouts, and take those of every flow; the first byte is the version's number."""
    seeds = []
    for number, place, step in _steps():
        if place is in_session:
            asked, _ = _honest(rich(VERSIONS[number], number, in_session=place), step)
            seeds += [bytes([number]) + request for request in asked for _ in range(12)]
    for number, version in enumerate(VERSIONS):
        facts = rich(version, number, in_session=False)[0].requester.connection.facts
        for cls in m.declared():
            if issubclass(cls, m.Request) and BY_REQUEST[cls.CODE].since <= version:
                seeds += [bytes([number]) + encoded for encoded in sample_records(random, cls, facts, 12)]
    return seeds


def _responder(*, in_session: bool) -> Callable[[Random], Prepared]:
    def prepare(random: Random) -> Prepared:
        bases = [rich(version, number, in_session=in_session) for number, version in enumerate(VERSIONS)]
        current = [(fork(*base), GENERATION) for base in bases]

        def code(data: bytes) -> bool:
            number = (data[:1] or b"\0")[0] % len(bases)
            (pair, session), age = current[number]
            lost = session is not None and session.session_id not in pair.responder.sessions
            if age >= GENERATION or lost:
                (pair, session), age = fork(*bases[number]), 0
            message = bytes([VERSIONS[number]]) + data[2:]
            answer, age = _said(pair, session, message), age + 1
            if answer is None or answer[1] in (m.KeyUpdateAck.CODE, m.VersionResponse.CODE):
                age = GENERATION
            current[number] = (pair, session), age
            return answer is not None and answer[1] != m.Error.CODE

        return _requests(random, in_session=in_session), code

    return prepare


def _said(pair: Pair, session: Session | None, message: bytes) -> bytes | None:
    try:
        return pair.say(message, session)
    except AuthenticationFailed:  # the answer came under other keys than ours
        return None


# -- both ends, with one frame changed ---------------------------------------------------------------------------------------


def _key(pair: Pair) -> int:
    """Give the number of a key pair where keys have numbers."""
    return int(pair.requester.connection.multi_key)


def _steps() -> list[tuple[int, bool, Step]]:
    """List (version number, in session, what to do) of everything that a flow can do on a rich pair."""
    outside: list[Step] = [
        lambda p, _: flows.connect(p.requester),
        lambda p, _: flows.challenge(p.requester, 0, SummaryType.ALL),
        lambda p, _: flows.key_exchange(p.requester),
        lambda p, _: flows.psk_exchange(p.requester, b"hint", b"pre-shared key"),
        lambda p, _: flows.get_measurements(p.requester),
    ]
    anywhere: list[Step] = [
        lambda p, s: flows.get_endpoint_info(p.requester, session=s.session_id if s else None),
        lambda p, s: flows.get_csr(p.requester, key_pair_id=_key(p), session=s.session_id if s else None),
        lambda p, s: flows.set_certificate(
            p.requester,
            0,
            identity(BaseAsym.ECDSA_P384).slots[0].chain(P384_SUITE.base_hash),
            key_pair_id=_key(p),
            session=s.session_id if s else None,
        ),
        lambda p, s: flows.change_key_pair(p.requester, 1, slots=1, session=s.session_id if s else None),
        lambda p, s: flows.get_key_pair_info(p.requester, 1, session=s.session_id if s else None),
        lambda p, s: flows.get_slot_size(p.requester, 0, session=s.session_id if s else None),
        lambda p, s: flows.get_measurement_extension_log(p.requester, session=s.session_id if s else None),
        lambda p, s: flows.get_certificate(p.requester, 0, session=s.session_id if s else None),
    ]
    inside: list[Step] = [
        lambda p, s: flows.get_supported_event_types(s),  # type: ignore[arg-type]
        lambda p, s: flows.subscribe_event_types(s),  # type: ignore[arg-type]
        lambda p, s: flows.key_update(p.requester, s),  # type: ignore[arg-type]
        lambda p, s: flows.end_session(p.requester, s),  # type: ignore[arg-type]
    ]
    places = [(False, [*outside, *anywhere]), (True, [*anywhere, *inside])]
    return [(number, place, step) for number in range(len(VERSIONS)) for place, steps in places for step in steps]


def one_frame(random: Random) -> Prepared:
    """Any flow of both engines with one frame, of either side, damaged on the way; what was plain inside a record stays so."""
    steps = _steps()
    seeds = [number.to_bytes(2, "big") + bytes([turn, 0, 0]) for number in range(len(steps)) for turn in range(6)]

    def code(data: bytes) -> bool:
        number, place, step = steps[int.from_bytes(data[:2].ljust(2, b"\0"), "big") % len(steps)]
        base = rich(VERSIONS[number], number, in_session=place)
        pair, session = fork(*base)
        chance = Random(data)
        target, turns = (data[2] if len(data) > 2 else 0) % 24, 0

        def tamper(way: str, frame: bytes) -> bytes:
            nonlocal turns
            turns += 1
            if turns > MAX_TURNS:
                raise TransportError("the conversation does not end")
            return frame if turns != target + 1 else Mutator(chance, [frame], 1).draw()

        def carry(frame: bytes) -> bytes:
            answer = pair.responder.respond(tamper("req", frame), pair.now)
            if answer is None:
                raise TransportError("the responder stayed silent")
            return tamper("rsp", answer)

        pair.carry = carry  # type: ignore[method-assign]
        try:
            pair.run(step(pair, session))
        except TeeioError as error:
            if "does not end" in str(error):
                raise AssertionError(str(error)) from error
            return False
        return True

    return seeds, code


def inside_records(random: Random) -> Prepared:
    """Damaged answers inside good records, encapsulated requests among them, to a requester with every capability."""
    base = [rich(version, number, in_session=True) for number, version in enumerate(VERSIONS)]
    facts = [pair.requester.connection.facts for pair, _ in base]
    steps = [(number, step) for number, place, step in _steps() if place]
    seeds = []
    for at, (number, _) in enumerate(steps):
        for cls in m.declared():
            if not issubclass(cls, m.Request):
                seeds += [bytes([at]) + encoded for encoded in sample_records(random, cls, facts[number], 2)]
    for at, (number, step) in enumerate(steps):
        seeds += [bytes([at]) + answer for answer in _honest(base[number], step)[1] for _ in range(8)]
    binding = PlainBinding()

    def code(data: bytes) -> bool:
        number, step = steps[(data[:1] or b"\0")[0] % len(steps)]
        pair, session = fork(*base[number])
        if session is None:
            return False
        theirs = forked(session)
        message = bytes([VERSIONS[number]]) + data[2:]

        def carry(frame: bytes) -> bytes:
            sealed = theirs.response_key.seal(theirs.session_id, message, binding, SeededEntropy(b"theirs"))
            if theirs.response_key.sequence > 12:
                raise TransportError("enough")
            return binding.wrap(sealed, secured=True)

        pair.carry = carry  # type: ignore[method-assign]
        try:
            pair.run(step(pair, session))
        except (TeeioError, DecodeError):
            return False
        return True

    return seeds, code


def _honest(base: tuple[Pair, Session | None], step: Step) -> tuple[list[bytes], list[bytes]]:
    """Give requests and answers in the clear, with an honest responder, up to where the version has no such flow."""
    pair, session = fork(*base)
    ends = {} if session is None else {"req": forked(session).request_key, "rsp": forked(session).response_key}
    found: dict[str, list[bytes]] = {"req": [], "rsp": []}

    def tamper(way: str, frame: bytes) -> bytes:
        if not frame[0]:
            found[way].append(frame[1:])
        elif way in ends:
            try:
                found[way].append(ends[way].open(frame[1:], PlainBinding()))
            except AuthenticationFailed:
                ends[way] = ends[way].updated()
                found[way].append(ends[way].open(frame[1:], PlainBinding()))
        return frame

    pair.tamper = tamper  # type: ignore[method-assign]
    with suppress(TeeioError):
        pair.run(step(pair, session))
    return found["req"], found["rsp"]


def surfaces() -> Iterator[Surface]:
    """Both engines with everything."""
    yield Surface("everything: responder, plain", _responder(in_session=False), 1.5, selector=1)
    yield Surface("everything: responder, in a session", _responder(in_session=True), 1.5, selector=1)
    yield Surface("everything: one frame changed", one_frame, 0.4, selector=2)
    yield Surface("everything: requester, in a session", inside_records, 0.6, selector=1)
