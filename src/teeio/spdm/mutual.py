"""A responder's policy of mutual authentication, and the flows by which it authenticates its requester.

DSP0274 1.1 and later: basic mutual authentication after CHALLENGE_AUTH (deprecated in 1.2), and mutual authentication of a session
between KEY_EXCHANGE_RSP and FINISH; in either the requester has a chain, or a public key that the responder was given (slot 0xFF).

`MutualAuthentication` is where the policy is declared. A session on a pre-shared key satisfies it where the key proves the requester
afresh, that is with a responder context and PSK_FINISH, unless the policy wants an asymmetric identity (`accept_pre_shared_keys`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from teeio.crypto.certificates import chain_structure, leaf_public_key, parse_chain
from teeio.crypto.kdf import digest
from teeio.crypto.keys import PublicKey
from teeio.errors import AuthenticationFailed, Misuse, Reject, TeeioError
from teeio.flow import Flow
from teeio.spdm import flows
from teeio.spdm.constants import PUBLIC_KEY_SLOT, Capability, ErrorCode, MutualAuth
from teeio.spdm.encapsulation import Counterpart, Encapsulation
from teeio.spdm.public_keys import key_hash, key_of
from teeio.spdm.state import Session

if TYPE_CHECKING:
    from teeio.spdm.responder import Responder


@dataclass(frozen=True, slots=True)
class MutualAuthentication:
    """When and how a responder authenticates its requester.

    `authenticate` is given the requester's certificate chain structure and the time, and raises `AuthenticationFailed` unless it trusts
    that chain. `mode` is how sessions are authenticated, `basic` whether CHALLENGE_AUTH asks for it too. `required` refuses sessions with
    requesters that cannot. `provisioned` has the certificates of requesters by slot, root first, for `MutualAuth.PLAIN`, which
    reads no chain. `public_keys` are those of requesters with PUB_KEY_ID, one for each algorithm; there is nothing to read of
    them, so their sessions are authenticated as by `MutualAuth.PLAIN` whatever `mode` says, unless it is NONE.
    """

    authenticate: Callable[[bytes, float], None]
    mode: MutualAuth = MutualAuth.ENCAPSULATED
    basic: bool = False
    slot: int = 0
    required: bool = True
    provisioned: Mapping[int, tuple[bytes, ...]] = field(default_factory=dict)
    public_keys: Sequence[PublicKey] = ()
    accept_pre_shared_keys: bool = True

    def __post_init__(self) -> None:
        if self.mode is MutualAuth.PLAIN and self.slot not in self.provisioned and not self.public_keys:
            raise Misuse(
                f"no chain is provisioned for the requester's slot {self.slot}", remedy="give it, or use encapsulation"
            )
        for slot, certificates in self.provisioned.items():
            try:
                leaf_public_key(certificates[-1])
            except (IndexError, TeeioError) as error:
                reason = f"the chain of the requester's slot {slot} has no usable leaf: {error}"
                raise Misuse(reason, remedy="give its certificates in DER, root first") from error

    def _possible(self, r: Responder, *, encapsulated: bool) -> bool:
        c = r.connection
        needed = Capability.MUT_AUTH | (Capability.ENCAP if encapsulated else Capability(0))
        if c.common_capabilities & needed != needed or not c.req_asym or c.encapsulated:
            return False
        if _has_public_key(r):
            return self._provisioned_key(r) is not None
        return bool(c.requester_capabilities & Capability.CERT) and (encapsulated or self.slot in self.provisioned)

    def _provisioned_key(self, r: Responder) -> PublicKey | None:
        """Give the public key of a requester with PUB_KEY_ID, if we were given it."""
        return key_of(self.public_keys, r.connection.req_asym) if _has_public_key(r) else None

    # -- basic mutual authentication -------------------------------------------------------------------------------------

    def asks_after_challenge(self, r: Responder) -> bool:
        """Tell whether CHALLENGE_AUTH sets BasicMutAuthReq."""
        can = r.connection.requester_capabilities & Capability.CHAL
        return self.basic and bool(can) and self._possible(r, encapsulated=True)

    def begin_basic(self, r: Responder, now: float) -> None:
        """Make digests, certificate and challenge of the requester pending; of one with a provisioned key the challenge alone."""
        side = Counterpart.of(r)
        side.peer_keys = self.public_keys
        r.pending = Encapsulation(side, self._basic(r, side, now))

    def _basic(self, r: Responder, side: Counterpart, now: float) -> Flow[int | None]:
        by_key = _has_public_key(r)
        slot = PUBLIC_KEY_SLOT if by_key else self.slot
        chain = b"" if by_key else (yield from self._read_chain(side, now))
        yield from flows.prove_possession(side, slot)
        r.agreed(requester_chain=chain, requester_key=flows.leaf_key(side, slot))
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
        if self.mode is MutualAuth.NONE:
            return MutualAuth.NONE
        mode = MutualAuth.PLAIN if _has_public_key(r) else self.mode
        if self._possible(r, encapsulated=mode is not MutualAuth.PLAIN):
            return mode
        if self.required:
            raise _against_policy("mutual authentication is required and the requester cannot (DSP0274 KEY_EXCHANGE)")
        return MutualAuth.NONE

    def slot_param(self, r: Responder, mode: MutualAuth) -> int:
        """Give the slot that KEY_EXCHANGE_RSP names: only without encapsulated requests there is one to name."""
        if mode is not MutualAuth.PLAIN:
            return 0
        return PUBLIC_KEY_SLOT if _has_public_key(r) else self.slot

    def check_pre_shared_key(self, r: Responder) -> None:
        """Refuse a session on a pre-shared key that does not authenticate the requester as the policy requires.

        Without a context of the responder's nothing in the handshake is fresh for it: a recorded session could be played again.
        """
        if self.mode is MutualAuth.NONE or not self.required:
            return
        if not self.accept_pre_shared_keys:
            raise _against_policy("a certificate or public key of the requester is required (DSP0274 PSK_EXCHANGE)")
        if not r.connection.responder_capabilities & Capability.PSK_WITH_CONTEXT:
            raise _against_policy("authentication is required, and no PSK_FINISH would prove it (DSP0274 PSK_EXCHANGE)")

    def begin_session(self, r: Responder, session: Session, mode: MutualAuth, now: float) -> None:
        """Note what FINISH must prove, and make the reading of the requester's chain pending if it is to be read."""
        if mode is MutualAuth.NONE:
            return
        session.requester_slot = self.slot
        key = self._provisioned_key(r)
        if key is not None:
            session.requester_slot, session.requester_key = PUBLIC_KEY_SLOT, key
            session.transcript += key_hash(r.connection.base_hash, key)
            return
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
            _accept(r, session, chain, side.transcript.first_digests if r.connection.requester_multi_key else b"")
        except TeeioError:
            r.end_session(session.session_id, "mutual authentication failed")
            raise
        return self.slot


def _has_public_key(r: Responder) -> bool:
    return bool(r.connection.requester_capabilities & Capability.PUB_KEY_ID)


def _against_policy(reason: str) -> Reject:
    return Reject(ErrorCode.INVALID_POLICY, reason)


def _accept(r: Responder, session: Session, chain: bytes, digests: bytes) -> None:
    session.requester_chain = chain
    session.requester_key = leaf_public_key(parse_chain(chain, r.connection.base_hash)[1][-1])
    session.transcript += digests + digest(r.connection.base_hash, chain)
