"""One visit to a responder: the connection to it, what is planned, the open sessions, and what has been found."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from teeio.crypto.algorithms import MeasurementHash
from teeio.crypto.certificates import CertificateModel
from teeio.crypto.entropy import Entropy
from teeio.errors import Misuse
from teeio.flow import Flow
from teeio.observe import Event, MessageMoved
from teeio.spdm.alias import usual_model
from teeio.spdm.constants import ALL_MEASUREMENTS, Capability, SummaryType
from teeio.spdm.messages import Digests
from teeio.spdm.requester import Requester
from teeio.spdm.state import Connection, Session
from teeio.transport.carrier import Carrier, Exchange

T = TypeVar("T")

MEASURES = Capability.MEAS_SIG | Capability.MEAS_NO_SIG
"""Either of these and there are measurements."""

Progress = Callable[[str, str], None]
"""Told (title, note) when a step is done."""


class MessageCount(Counter[str]):
    """An observer that counts the SPDM messages of each name."""

    def __call__(self, event: Event) -> None:
        """Observe."""
        if isinstance(event, MessageMoved):
            self[event.name] += 1


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do with the responder.

    `psk` is a hint and its key; `measurements` are the operations of GET_MEASUREMENTS; `measurement_hashes` are those
    accepted, all of them if empty; `revocation_lists` are DER, None if revocation is not looked at;
    `model` of None is the one that the responder's capabilities imply.
    `key_pair` is 0 where the connection is no multi-key one.
    """

    slot: int = 0
    port_index: int = 1
    stream_id: int = 0
    function_id: int = 0xBEEF
    mmio_reporting_offset: int = 0xD000_0000
    anchors: Sequence[bytes] = ()
    revocation_lists: Sequence[bytes] | None = None
    at_time: float = 0.0
    psk: tuple[bytes, bytes] | None = field(default=None, repr=False)
    measurements: tuple[int, ...] = (ALL_MEASUREMENTS,)
    raw: bool = False
    signed: bool = True
    measurement_hashes: tuple[MeasurementHash, ...] = ()
    session_policy: int = 0
    key_pair: int = 0
    model: CertificateModel | None = None


@dataclass(slots=True)
class Visit:
    """One visit to a responder; `found` collects what it said, by step.

    `sessions` are the open ones, the latest last. `preserved` is the negotiated state of the connection before the last negotiation.
    `messages` counts the requester's messages, if it is among its observers.
    """

    carrier: Carrier
    exchange: Exchange
    plan: Plan
    entropy: Entropy
    progress: Progress
    found: dict[str, Any] = field(default_factory=dict)
    digests: Digests | None = None
    sessions: list[Session] = field(default_factory=list)
    messages: MessageCount = field(default_factory=MessageCount)

    @property
    def requester(self) -> Requester:
        """The engine."""
        return self.carrier.requester

    @property
    def connection(self) -> Connection:
        """What has been negotiated."""
        return self.requester.connection

    def run(self, flow: Flow[T], session: Session | None = None) -> T:
        """Run a flow to its end, in `session` unless it says otherwise."""
        return self.carrier.run(flow, session.session_id if session else None)

    def offers(self, flags: Capability) -> bool:
        """Tell whether the responder has one of these capabilities."""
        return bool(self.connection.responder_capabilities & flags)

    @property
    def model(self) -> CertificateModel:
        """The certificate model to expect and to ask for."""
        return self.plan.model or usual_model(self.connection.responder_capabilities)

    @property
    def summary_type(self) -> SummaryType:
        """The measurement summary to ask for: all blocks, if it measures at all."""
        return SummaryType.ALL if self.offers(MEASURES) else SummaryType.NONE

    def done(self, key: str, value: Any, title: str, note: str) -> None:
        """Keep what was found, and tell that a step is done."""
        self.found[key] = value
        self.progress(title, note)

    # -- sessions

    @property
    def session(self) -> Session:
        """The session opened last. Raises `Misuse` if there is none."""
        found = self.latest
        if found is None:
            raise Misuse("there is no session to do this in", remedy="put session or psk before it in --operations")
        return found

    @property
    def latest(self) -> Session | None:
        """The session opened last, if there is one that lives."""
        self.sessions = [one for one in self.sessions if one.session_id in self.requester.sessions]
        return self.sessions[-1] if self.sessions else None

    @property
    def latest_id(self) -> int | None:
        """The number of the session opened last, if there is one."""
        return self.latest.session_id if self.latest else None
