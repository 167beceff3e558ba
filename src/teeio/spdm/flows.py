"""The requester's procedures, each as its figure in DSP0274 shows it.

A flow takes the `Requester` whose facts it reads and sets. What a flow returns has been verified; verifying a certificate chain up
to a trust anchor is the caller's policy (see `attestation`).
"""

from __future__ import annotations

from dataclasses import dataclass

from teeio.crypto.certificates import leaf_public_key, parse_chain
from teeio.crypto.kdf import digest, equal
from teeio.crypto.key_exchange import KeyExchange, exchange_for
from teeio.crypto.keys import PublicKey, verify
from teeio.errors import AuthenticationFailed, Incompatible, Misuse, PeerViolation
from teeio.flow import Flow
from teeio.observe import SecretDerived
from teeio.spdm import messages as m
from teeio.spdm import negotiation, opaque
from teeio.spdm.constants import ALL_MEASUREMENTS, Capability, KeyUpdateOperation, SummaryType, Version
from teeio.spdm.exchange import Answer, ask, exchange
from teeio.spdm.requester import Requester
from teeio.spdm.rules import Phase
from teeio.spdm.state import Connection, Session
from teeio.spdm.transcript import CHALLENGE_CONTEXT, KEY_EXCHANGE_CONTEXT, MEASUREMENTS_CONTEXT, signing_message

MAX_CHAIN = 0xFFFF
MAX_PORTIONS = 4096
FIRST_SESSION_HALF = 0xFFFF


def connect(requester: Requester) -> Flow[Connection]:
    """Negotiate version, capabilities and algorithms. Raises `Incompatible` if there is nothing in common."""
    requester.connection = Connection()
    for session_id in list(requester.sessions):
        requester.drop_session(session_id, "GET_VERSION")
    requester.chains.clear()
    yield from _agree_version(requester)
    yield from _agree_capabilities(requester)
    yield from _agree_algorithms(requester)
    return requester.connection


def _agree_version(requester: Requester) -> Flow[None]:
    offered = (yield from ask(m.GetVersion())).versions
    common = [version for version in requester.settings.versions if version in offered]
    if not common:
        ours, theirs = (
            ", ".join(f"{v >> 4}.{v & 15}" for v in versions) for versions in (requester.settings.versions, offered)
        )
        raise Incompatible(f"no common SPDM version: we offer {ours}, {requester.peer} offers {theirs}")
    requester.agreed(phase=Phase.VERSION_DONE, version=max(common))


def _agree_capabilities(requester: Requester) -> Flow[None]:
    settings, version = requester.settings, requester.connection.version
    flags = negotiation.known_flags(settings.capabilities, version)
    response = yield from ask(
        m.GetCapabilities(
            ct_exponent=settings.ct_exponent,
            flags=flags,
            data_transfer_size=settings.data_transfer_size,
            max_message_size=settings.max_message_size,
        )
    )
    negotiation.check_capabilities(response, version)
    requester.agreed(
        phase=Phase.CAPABILITIES_DONE,
        requester_capabilities=flags,
        responder_capabilities=negotiation.known_flags(response.flags, version),
        peer_data_transfer_size=response.data_transfer_size,
    )


def _agree_algorithms(requester: Requester) -> Flow[None]:
    request = negotiation.offer(requester.settings, requester.connection.version)
    response = yield from ask(request)
    negotiation.check_selection(request, response)
    lacking = negotiation.missing(requester.connection, response)
    if lacking:
        raise Incompatible(f"{requester.peer} selected no {lacking} of our offer", remedy="offer more algorithms")
    requester.agreed(phase=Phase.NEGOTIATED, **negotiation.chosen(response))


def get_digests(session: int | None = None) -> Flow[m.Digests]:
    """Get the digests of the provisioned certificate chains."""
    return (yield from ask(m.GetDigests(), session))


def get_certificate(requester: Requester, slot: int = 0, session: int | None = None) -> Flow[bytes]:
    """Get the whole certificate chain structure of `slot`; it is kept in `requester.chains`.

    Raises `PeerViolation` if the portions do not add up, `AuthenticationFailed` if the root hash is not that of the first
    certificate while that one is self-signed.
    """
    limit = requester.settings.data_transfer_size - 8
    if requester.connection.version < Version.V1_2:
        limit = 0x400
    chain = b""
    for _ in range(MAX_PORTIONS):
        response = yield from ask(m.GetCertificate(slot=slot, offset=len(chain), length=limit), session)
        chain += response.portion
        if response.slot != slot or not response.portion or len(chain) + response.remainder_length > MAX_CHAIN:
            raise PeerViolation("CERTIFICATE of another slot, without bytes, or beyond 64 KiB", "DSP0274 CERTIFICATE")
        if not response.remainder_length:
            break
    else:
        raise PeerViolation(f"the chain did not end after {MAX_PORTIONS} portions", "DSP0274 CERTIFICATE")
    parse_chain(chain, requester.connection.base_hash)
    requester.chains[slot] = chain
    return chain


def check_digest(requester: Requester, digests: m.Digests, slot: int = 0) -> None:
    """Check that the chain of `slot` has the digest that DIGESTS gave. Raises `AuthenticationFailed`."""
    actual = digest(requester.connection.base_hash, _chain(requester, slot))
    if not equal(actual, digests.of_slot(slot)):
        raise AuthenticationFailed(f"the chain of slot {slot} does not have the digest that DIGESTS gave")


def _chain(requester: Requester, slot: int) -> bytes:
    chain = requester.chains.get(slot)
    if chain is None:
        raise Misuse(f"the chain of slot {slot} is not known", remedy="run get_certificate first")
    return chain


def leaf_key(requester: Requester, slot: int) -> PublicKey:
    """Give the public key of the leaf certificate of `slot`."""
    _, certificates = parse_chain(_chain(requester, slot), requester.connection.base_hash)
    return leaf_public_key(certificates[-1])


def _verify(requester: Requester, slot: int, context: str, transcript: bytes, signature: bytes) -> None:
    connection = requester.connection
    message = signing_message(connection.version, context, transcript, connection.base_hash)
    verify(leaf_key(requester, slot), connection.base_asym, message, signature, connection.base_hash)


def challenge(
    requester: Requester, slot: int = 0, summary_type: SummaryType = SummaryType.NONE
) -> Flow[m.ChallengeAuth]:
    """Make the responder prove its private key. Raises `AuthenticationFailed`."""
    request = m.Challenge(
        slot=slot, summary_type=summary_type, nonce=requester.entropy(32), context=requester.entropy(8)
    )
    # M1 without this exchange: the transcript forgets B as soon as the exchange is complete.
    before = requester.transcript.m1(b"", b"")
    answer: Answer[m.ChallengeAuth] = yield from exchange(request)
    response = answer.message
    if not equal(response.chain_hash, digest(requester.connection.base_hash, _chain(requester, slot))):
        raise AuthenticationFailed("CertChainHash is not the hash of the chain that was read")
    if requester.connection.version >= Version.V1_3 and response.context != request.context:
        raise PeerViolation("the requester's context is not echoed", "DSP0274 CHALLENGE_AUTH")
    size = requester.connection.base_asym.signature_size
    _verify(requester, slot, CHALLENGE_CONTEXT, before + answer.sent + answer.received[:-size], response.signature)
    return response


@dataclass(frozen=True, slots=True)
class MeasurementEvidence:
    """Measurements with what a verifier needs to check their signature itself."""

    response: m.Measurements
    blocks: tuple[m.MeasurementBlock, ...]
    nonce: bytes
    transcript: bytes
    signature: bytes


def get_measurements(
    requester: Requester,
    operation: int = ALL_MEASUREMENTS,
    *,
    slot: int = 0,
    raw: bool = False,
    signed: bool = True,
    nonce: bytes = b"",
    session: int | None = None,
) -> Flow[MeasurementEvidence]:
    """Get measurements; if `signed`, verify the signature over L1. `nonce`: 32 bytes of the verifier's, or drawn here."""
    nonce = nonce or requester.entropy(32)
    request = m.GetMeasurements(
        signature_requested=int(signed),
        raw_requested=int(raw),
        operation=operation,
        nonce=nonce if signed else b"",
        slot=slot if signed else 0,
        context=requester.entropy(8),
    )
    before = requester.transcript.l1(requester.connection.version, session, b"", b"")
    answer: Answer[m.Measurements] = yield from exchange(request, session)
    response = answer.message
    if requester.connection.version >= Version.V1_3 and response.context != request.context:
        raise PeerViolation("the requester's context is not echoed", "DSP0274 MEASUREMENTS")
    size = requester.connection.base_asym.signature_size
    transcript = before + answer.sent + (answer.received[:-size] if signed else answer.received)
    if signed:
        _verify(requester, slot, MEASUREMENTS_CONTEXT, transcript, response.signature)
    return MeasurementEvidence(response, response.blocks(), nonce, transcript, response.signature)


def key_exchange(
    requester: Requester, slot: int = 0, summary_type: SummaryType = SummaryType.NONE, session_policy: int = 0
) -> Flow[Session]:
    """Set up a session authenticated by the chain of `slot`: KEY_EXCHANGE and FINISH. Raises `AuthenticationFailed`."""
    connection = requester.connection
    ephemeral = exchange_for(connection.dhe, requester.entropy)
    request = m.KeyExchange(
        summary_type=summary_type,
        slot=slot,
        req_session_id=_free_session_half(requester),
        session_policy=session_policy,
        random=requester.entropy(32),
        exchange_data=ephemeral.exchange_data,
        opaque=opaque.encode_supported(connection.version),
    )
    chain_hash = digest(connection.base_hash, _chain(requester, slot))
    answer: Answer[m.KeyExchangeRsp] = yield from exchange(request)
    session = _open_session(requester, request, answer, slot, chain_hash, ephemeral)
    try:
        yield from _finish(requester, session)
    except BaseException:
        requester.drop_session(session.session_id, "the handshake failed")
        raise
    return session


def _free_session_half(requester: Requester) -> int:
    used = {session_id & 0xFFFF for session_id in requester.sessions}
    return next(half for half in range(FIRST_SESSION_HALF, 0, -1) if half not in used)


def _open_session(
    requester: Requester,
    request: m.KeyExchange,
    answer: Answer[m.KeyExchangeRsp],
    slot: int,
    chain_hash: bytes,
    ephemeral: KeyExchange,
) -> Session:
    connection, response = requester.connection, answer.message
    selected = opaque.decode_selected(connection.version, response.opaque)
    if selected not in opaque.SECURED_VERSIONS:
        raise PeerViolation(f"secured-message version {selected} was not offered", "DSP0277 version selection")
    if response.mut_auth_requested:
        raise Incompatible(f"{requester.peer} asks for mutual authentication, which we did not offer")
    session_id = response.rsp_session_id << 16 | request.req_session_id
    if session_id in requester.sessions:
        raise PeerViolation(f"session id {session_id:#x} is in use", "DSP0274 KEY_EXCHANGE_RSP")
    session = Session(
        session_id,
        connection.key_schedule,
        requester.observer,
        encrypted=bool(connection.common_capabilities & Capability.ENCRYPT),
        heartbeat_period=response.heartbeat_period,
        last_seen=requester.now,
    )
    tail = connection.base_asym.signature_size + len(response.verify_data)
    signed = requester.transcript.handshake(chain_hash, connection.multi_key) + answer.sent + answer.received[:-tail]
    _verify(requester, slot, KEY_EXCHANGE_CONTEXT, signed, response.signature)
    session.transcript = signed + response.signature
    session.enter_handshake(ephemeral.agree(response.exchange_data))
    if response.verify_data:
        expected = session.schedule.verify_data(session.handshake.response_finished, session.transcript)
        if not equal(expected, response.verify_data):
            raise AuthenticationFailed("ResponderVerifyData does not verify: somebody changed the handshake")
        session.transcript += response.verify_data
    requester.sessions[session_id] = session
    return session


def _finish(requester: Requester, session: Session) -> Flow[None]:
    connection = requester.connection
    clear = connection.facts.handshake_in_the_clear
    hash_size = connection.base_hash.size
    unproven = m.Finish(verify_data=bytes(hash_size)).encode(connection.facts)[:-hash_size]
    proof = session.schedule.verify_data(session.handshake.request_finished, session.transcript + unproven)
    answer: Answer[m.FinishRsp] = yield from exchange(m.Finish(verify_data=proof), None if clear else session.session_id)
    session.transcript += answer.sent
    if clear:
        covered = session.transcript + answer.received[:-hash_size]
        expected = session.schedule.verify_data(session.handshake.response_finished, covered)
        if not equal(expected, answer.message.verify_data):
            raise AuthenticationFailed("ResponderVerifyData of FINISH_RSP does not verify")
    session.transcript += answer.received
    session.enter_data()


def heartbeat(session: Session) -> Flow[None]:
    """Keep `session` alive."""
    yield from ask(m.Heartbeat(), session.session_id)


def key_update(requester: Requester, session: Session, *, both: bool = True) -> Flow[None]:
    """Replace the data keys: both directions, or the request direction only; then prove the new request key."""
    operation = KeyUpdateOperation.UPDATE_ALL_KEYS if both else KeyUpdateOperation.UPDATE_KEY
    new_request = session.request_key.updated()
    if both:
        session.previous_key, session.response_key = session.response_key, session.response_key.updated()
    try:
        yield from _key_operation(requester, session, operation)
    except Exception:
        if session.previous_key is not None:
            session.response_key, session.previous_key = session.previous_key, None
        raise
    session.previous_key = None
    session.request_key = new_request
    for label, key in (("request_data_secret", session.request_key), ("response_data_secret", session.response_key)):
        if both or label.startswith("request"):
            requester.observer(SecretDerived(f"{label}_update", f"{session.session_id:08x}", key.secret))
    yield from _key_operation(requester, session, KeyUpdateOperation.VERIFY_NEW_KEY)


def _key_operation(requester: Requester, session: Session, operation: KeyUpdateOperation) -> Flow[None]:
    tag = requester.entropy(1)[0]
    response = yield from ask(m.KeyUpdate(operation=operation, tag=tag), session.session_id)
    if (response.operation, response.tag) != (operation, tag):
        raise PeerViolation("KEY_UPDATE_ACK does not echo operation and tag", "DSP0274 KEY_UPDATE_ACK")


def end_session(requester: Requester, session: Session, *, clear_negotiated_state: bool = False) -> Flow[None]:
    """End `session` on both sides; our keys are gone even if the peer does not acknowledge."""
    try:
        yield from ask(m.EndSession(clear_negotiated_state=int(clear_negotiated_state)), session.session_id)
    finally:
        requester.drop_session(session.session_id, "END_SESSION")
