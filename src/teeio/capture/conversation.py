"""One captured connection: what was negotiated, its transcript, chains and sessions; and what all connections share.

What each exchange changes and proves is told in `effects`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from teeio.capture.chains import Chains, ProvisionedKeys
from teeio.capture.keyring import KeyRing
from teeio.capture.negotiated import Negotiated
from teeio.capture.sessions import DissectedSession
from teeio.spdm.constants import Capability
from teeio.spdm.state import SessionPhase
from teeio.spdm.transcript import Transcript


@dataclass(slots=True)
class Exchange:
    """A request and its response, with their bytes without transport padding; the response may not be known yet."""

    request: Any
    sent: bytes
    session: DissectedSession | None
    frame: int
    response: Any = None
    received: bytes = b""

    @property
    def code(self) -> int:
        """The request's code."""
        return self.sent[1]

    @property
    def session_id(self) -> int | None:
        """The session that the exchange travelled in."""
        return self.session.session_id if self.session else None


@dataclass(slots=True)
class Ledger:
    """What the connections of a capture share: the key log, public keys, chains by digest; and all of them, with all sessions.

    A chain read on one connection serves another, because a requester that finds an unchanged digest reads no chain.
    """

    key_ring: KeyRing
    provisioned: ProvisionedKeys = ProvisionedKeys()
    chains: dict[bytes, bytes] = field(default_factory=dict, repr=False)
    connections: list[Conversation] = field(default_factory=list)
    sessions: list[DissectedSession] = field(default_factory=list)

    def begin(self, ends: str, frame: int, *, whole: bool) -> Conversation:
        """Begin a connection between `ends`; `whole` says whether GET_VERSION was seen, which begins every one."""
        chains = Chains(self.chains, self.provisioned.responder)
        requester_chains = Chains(self.chains, self.provisioned.requester)
        number = len(self.connections) + 1
        found = Conversation(self, number, ends, frame, whole, chains, requester_chains, last_frame=frame)
        self.connections.append(found)
        return found


@dataclass(slots=True)
class Conversation:
    """One connection.

    `number` counts from 1 over the capture, `ends` says between whom it is. `sessions` has those not ended, by id;
    `mutual` what basic mutual authentication has exchanged.
    """

    ledger: Ledger = field(repr=False)
    number: int
    ends: str
    first_frame: int
    whole: bool
    responder_chains: Chains
    requester_chains: Chains
    last_frame: int
    negotiated: Negotiated = field(default_factory=Negotiated)
    transcript: Transcript = field(default_factory=Transcript)
    sessions: dict[int, DissectedSession] = field(default_factory=dict)
    mutual: bytes = b""

    def handshaking(self) -> DissectedSession | None:
        """Give the session to which a FINISH outside sessions belongs: the latest in its handshake."""
        waiting = [s for s in self.sessions.values() if s.phase is SessionPhase.HANDSHAKE and not s.psk]
        return waiting[-1] if waiting else None

    def begin_session(self, session_id: int, frame: int, *, psk: bool) -> DissectedSession:
        """Begin a session; one of the same id is over."""
        c = self.negotiated.connection
        encrypted = bool(c.common_capabilities & Capability.ENCRYPT)
        session = DissectedSession(session_id, frame, c.key_schedule, psk=psk, encrypted=encrypted)
        self.ledger.sessions.append(session)
        session.connection, session.number = self.number, len(self.ledger.sessions)
        if self.negotiated.hash_implemented:
            session.offer(self.ledger.key_ring)
        else:
            session.reason = f"no implementation of {c.base_hash!r}"
        self.sessions.pop(session_id, None)
        self.sessions[session_id] = session
        return session

    def spend(self, session: DissectedSession) -> None:
        """Mark the key-log entry that a session has proven to be its own."""
        self.ledger.key_ring.spend(session.current)
