"""A responder's policy of mutual authentication, and the flows by which it authenticates its requester.

DSP0274 1.1 and later: basic mutual authentication after CHALLENGE_AUTH (deprecated in 1.2), and mutual authentication of a session
between KEY_EXCHANGE_RSP and FINISH. Left out: requesters that have a provisioned public key in place of a chain (slot 0xFF).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from teeio.crypto.certificates import chain_structure
from teeio.crypto.kdf import digest
from teeio.errors import AuthenticationFailed, Misuse, Reject, TeeioError
from teeio.flow import Flow
from teeio.spdm import flows
from teeio.spdm.constants import Capability, ErrorCode, MutualAuth, Version
from teeio.spdm.encapsulation import Counterpart, Encapsulation
from teeio.spdm.state import Session

if TYPE_CHECKING:
    from teeio.spdm.responder import Responder


@dataclass(frozen=True, slots=True)
class MutualAuthentication:
    """When and how a responder authenticates its requester.

    `authenticate` is given the requester's certificate chain structure and the time, and raises `AuthenticationFailed` unless it trusts
    that chain. `mode` is how sessions are authenticated, `basic` whether CHALLENGE_AUTH asks for it too. `required` refuses sessions with
    requesters that cannot. `provisioned` has the certificates of requesters by slot, root first, for `MutualAuth.PLAIN`, which
    reads no chain.
    """

    authenticate: Callable[[bytes, float], None]
    mode: MutualAuth = MutualAuth.ENCAPSULATED
    basic: bool = False
    slot: int = 0
    required: bool = True
    provisioned: Mapping[int, tuple[bytes, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.mode is MutualAuth.PLAIN and self.slot not in self.provisioned:
            raise Misuse(
                f"no chain is provisioned for the requester's slot {self.slot}", remedy="give it, or use encapsulation"
            )

    def _possible(self, r: Responder, *, encapsulated: bool) -> bool:
        c = r.connection
        needed = Capability.MUT_AUTH | (Capability.ENCAP if encapsulated else Capability(0))
        return (
            c.common_capabilities & needed == needed
            and bool(c.requester_capabilities & Capability.CERT)
            and bool(c.req_asym)
            and not c.encapsulated
        )

    # -- basic mutual authentication -------------------------------------------------------------------------------------

    def asks_after_challenge(self, r: Responder) -> bool:
        """Tell whether CHALLENGE_AUTH sets BasicMutAuthReq."""
        can = r.connection.requester_capabilities & Capability.CHAL
        return self.basic and bool(can) and self._possible(r, encapsulated=True)

    def begin_basic(self, r: Responder, now: float) -> None:
        """Make digests, certificate and challenge of the requester pending."""
        side = Counterpart.of(r)
        r.pending = Encapsulation(side, self._basic(r, side, now))

    def _basic(self, r: Responder, side: Counterpart, now: float) -> Flow[int | None]:
        chain = yield from self._read_chain(side, now)
        yield from flows.prove_possession(side, self.slot)
        r.agreed(requester_chain=chain)
        return None

    def _read_chain(self, side: Counterpart, now: float) -> Flow[bytes]:
        digests = yield from flows.get_digests()
        chain = yield from flows.get_certificate(side, self.slot)
        flows.check_digest(side, digests, self.slot)
        try:
            self.authenticate(chain, now)
        except TeeioError:
            raise
        except Exception as error:  # the caller's code, on the peer's bytes: whatever it raises is no trust
            raise AuthenticationFailed(f"the requester's chain could not be examined: {error}") from error
        return chain

    # -- mutual authentication of a session ------------------------------------------------------------------------------

    def requested(self, r: Responder) -> MutualAuth:
        """Give MutAuthRequested for a KEY_EXCHANGE_RSP, or refuse a requester that cannot do what is required."""
        if self.mode is MutualAuth.NONE or self._possible(r, encapsulated=self.mode is not MutualAuth.PLAIN):
            return self.mode
        if self.required:
            later = r.connection.version >= Version.V1_3
            code = ErrorCode.INVALID_POLICY if later else ErrorCode.UNSPECIFIED
            raise Reject(code, "mutual authentication is required and the requester cannot (DSP0274 KEY_EXCHANGE)")
        return MutualAuth.NONE

    def begin_session(self, r: Responder, session: Session, mode: MutualAuth, now: float) -> None:
        """Note what FINISH must prove, and make the reading of the requester's chain pending if it is to be read."""
        if mode is MutualAuth.NONE:
            return
        session.requester_slot = self.slot
        if mode is MutualAuth.PLAIN:
            root, *below = self.provisioned[self.slot]
            _accept(r, session, chain_structure(root, below, r.connection.base_hash), b"")
            return
        side = Counterpart.of(r)
        clear = r.connection.facts.handshake_in_the_clear
        travels = None if clear else session.session_id
        flow = self._session(r, side, session, now)
        r.pending = Encapsulation(side, flow, travels, session.session_id)
        if mode is MutualAuth.IMPLICIT_DIGESTS:
            # KEY_EXCHANGE_RSP itself stands for the first request, whose id is 0.
            r.pending.begin()

    def _session(self, r: Responder, side: Counterpart, session: Session, now: float) -> Flow[int | None]:
        try:
            chain = yield from self._read_chain(side, now)
        except TeeioError:
            r.end_session(session.session_id, "mutual authentication failed")
            raise
        _accept(r, session, chain, side.transcript.first_digests if r.connection.requester_multi_key else b"")
        return self.slot


def _accept(r: Responder, session: Session, chain: bytes, digests: bytes) -> None:
    session.requester_chain = chain
    session.transcript += digests + digest(r.connection.base_hash, chain)
