"""A responder whose answers are changed on their way, inside their records too, and the flows that get them."""

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import product
from typing import Any

from fuzz.samples import forked
from spdm.abuse.scene import HINT, PSK, Scene, Stage
from spdm_pair import PlainBinding
from teeio.crypto.entropy import SeededEntropy
from teeio.errors import AuthenticationFailed, DecodeError, TransportError
from teeio.spdm import flows
from teeio.spdm import messages as m
from teeio.spdm.constants import SummaryType, Version
from teeio.spdm.state import Session
from teeio.spdm.vendor import vendor_exchange

BINDING = PlainBinding()
MAX_TURNS = 60
Edit = Callable[[bytes], bytes]
Start = Callable[[Scene], Any]


@dataclass(frozen=True)
class Story:
    """A flow in a version, at a stage, `start`ed on a scene."""

    name: str
    version: int
    stage: Stage
    start: Start

    def __str__(self) -> str:
        return f"{self.name}, {Version(self.version).text}, {self.stage.value}"


@dataclass
class Way:
    """Carries a flow's frames; the answer number `at` is given by `edit`. `seen` has the plain answers before that."""

    scene: Scene
    at: int = -1
    edit: Edit = bytes
    seen: list[bytes] = field(default_factory=list)
    frames: list[bytes] = field(default_factory=list)

    def run(self, start: Start) -> Any:
        self.scene.pair.carry = self.carry  # type: ignore[method-assign]
        inside = self.scene.session.session_id if self.scene.session and self.scene.stage is Stage.ESTABLISHED else None
        return self.scene.pair.run(start(self.scene), inside)

    def carry(self, frame: bytes) -> bytes:
        pair, number = self.scene.pair, len(self.seen)
        if number > MAX_TURNS:
            raise TransportError("the conversation does not end")
        answer = pair.responder.respond(frame, pair.now)
        if answer is None:
            raise TransportError("the responder stayed silent")
        plain, key, session_id = _opened(pair.requester.sessions, answer)
        self.seen.append(plain)
        self.frames.append(answer)
        if number != self.at:
            return answer
        edited = self.edit(plain)
        if key is None:
            return BINDING.wrap(edited, secured=False)
        return BINDING.wrap(key.seal(session_id, edited, BINDING, SeededEntropy(b"way")), secured=True)


def _opened(sessions: dict[int, Session], answer: bytes) -> tuple[bytes, Any, int]:
    """Give a plain answer, and the responder's key as it was before it sealed it."""
    if answer[:1] == b"\0":
        return answer[1:], None, 0
    session_id = int.from_bytes(answer[1:5], "little")
    key = forked(sessions[session_id].response_key)
    for mine in (key, key.updated()):
        with suppress(AuthenticationFailed):
            plain = forked(mine).open(answer[1:], BINDING)
            return plain, mine, session_id
    raise AssertionError("a record that nobody can open")


def layout_of(answer: bytes, facts: m.Facts) -> tuple[type[m.Message], m.Facts]:
    """Find the layout of an honest answer: what the request has asked for is seen from what fits."""
    cls = next(cls for cls in m.declared() if answer[1] == cls.CODE)
    versioned = m.Facts(version=answer[0]) if not facts.hash_size else facts
    for signed, summary in product((True, False), (0, facts.hash_size)):
        found = _with(versioned, signed=signed, summary_size=summary)
        with suppress(DecodeError):
            cls.decode(answer, found)
            return cls, found
    raise AssertionError(f"no layout fits {answer.hex()}")


def _with(facts: m.Facts, **changes: Any) -> m.Facts:
    return facts._replace(**changes)


def stories() -> Iterator[Story]:
    """Yield the flows of the requester in the versions that differ."""
    for version in (Version.V1_0, Version.V1_2, Version.V1_4):
        rows: list[tuple[str, tuple[Stage, ...], Start]] = [
            ("connect", (Stage.START,), lambda s: flows.connect(s.pair.requester)),
            ("get_digests", _BOTH, lambda s: flows.get_digests()),
            ("get_certificate", _BOTH, lambda s: flows.get_certificate(s.pair.requester, 3)),
            ("challenge", _OUT, lambda s: flows.challenge(s.pair.requester, 0, SummaryType.ALL)),
            ("get_measurements", _BOTH, lambda s: flows.get_measurements(s.pair.requester)),
            *(_LATER if version >= Version.V1_2 else []),
            *(_LATEST if version >= Version.V1_4 else []),
        ]
        for name, stages, start in rows:
            for stage in stages:
                if version >= Version.V1_1 or stage is not Stage.ESTABLISHED:
                    yield Story(name, version, stage, start)


def _session(scene: Scene) -> Session:
    assert scene.session is not None
    return scene.session


_OUT, _IN = (Stage.NEGOTIATED,), (Stage.ESTABLISHED,)
_BOTH = (*_OUT, *_IN)
_LATER: list[tuple[str, tuple[Stage, ...], Start]] = [
    ("key_exchange", _OUT, lambda s: flows.key_exchange(s.pair.requester, 0, SummaryType.ALL)),
    ("psk_exchange", _OUT, lambda s: flows.psk_exchange(s.pair.requester, HINT, PSK)),
    ("heartbeat", _IN, lambda s: flows.heartbeat(_session(s))),
    ("key_update", _IN, lambda s: flows.key_update(s.pair.requester, _session(s))),
    ("end_session", _IN, lambda s: flows.end_session(s.pair.requester, _session(s))),
    ("get_csr", _BOTH, lambda s: flows.get_csr(s.pair.requester)),
    ("vendor_exchange", _IN, lambda s: vendor_exchange(3, b"\x01\x00", b"\x07payload")),
]
_LATEST: list[tuple[str, tuple[Stage, ...], Start]] = [
    ("get_endpoint_info", _BOTH, lambda s: flows.get_endpoint_info(s.pair.requester)),
    ("get_key_pair_info", _BOTH, lambda s: flows.get_key_pair_info(s.pair.requester, 1)),
    ("get_measurement_extension_log", _BOTH, lambda s: flows.get_measurement_extension_log(s.pair.requester)),
    ("get_supported_event_types", _IN, lambda s: flows.get_supported_event_types(_session(s))),
    ("subscribe_event_types", _IN, lambda s: flows.subscribe_event_types(_session(s))),
]
