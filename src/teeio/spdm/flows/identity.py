"""Identity and measurements: digests, certificates, challenge, measurements, each verified (DSP0274).

Verifying a certificate chain up to a trust anchor is the caller's policy (see `attestation`).
"""

from __future__ import annotations

from dataclasses import dataclass

from teeio.crypto.certificates import leaf_public_key, parse_chain
from teeio.crypto.kdf import digest, equal
from teeio.crypto.keys import PublicKey, verify
from teeio.errors import AuthenticationFailed, Misuse, PeerViolation
from teeio.flow import Flow
from teeio.spdm import messages as m
from teeio.spdm.asking import Asker
from teeio.spdm.constants import ALL_MEASUREMENTS, Capability, SummaryType, Version
from teeio.spdm.exchange import Answer, ask, exchange
from teeio.spdm.flows.encapsulated import serve_encapsulated
from teeio.spdm.requester import Requester
from teeio.spdm.transcript import CHALLENGE_CONTEXT, MEASUREMENTS_CONTEXT, signers_context, signing_message

MAX_CHAIN = 0xFFFF
MAX_LARGE_CHAIN = 1 << 20
"""Largest chain that is read in the large form of 1.4."""

MAX_PORTIONS = 4096


def get_digests(session: int | None = None) -> Flow[m.Digests]:
    """Get the digests of the provisioned certificate chains."""
    return (yield from ask(m.GetDigests(), session))


def get_certificate(requester: Asker, slot: int = 0, session: int | None = None) -> Flow[bytes]:
    """Get the whole certificate chain structure of `slot`; it is kept in `requester.chains`.

    Raises `PeerViolation` if the portions do not add up, `AuthenticationFailed` if the root hash is not that of the first
    certificate while that one is self-signed.
    """
    large = large_form(requester)
    chain = b""
    for _ in range(MAX_PORTIONS):
        response = yield from ask(_portion_request(requester, slot, len(chain), large=large), session)
        portion = response.large_portion if large else response.portion
        remainder = response.large_remainder_length if large else response.remainder_length
        chain += portion
        if (response.slot, response.large) != (slot, int(large)) or not portion:
            raise PeerViolation("CERTIFICATE of another slot or form, or without bytes", "DSP0274 CERTIFICATE")
        if len(chain) + remainder > (MAX_LARGE_CHAIN if large else MAX_CHAIN):
            raise PeerViolation(f"a chain of {len(chain) + remainder} bytes", "DSP0274 CERTIFICATE")
        if not remainder:
            break
    else:
        raise PeerViolation(f"the chain did not end after {MAX_PORTIONS} portions", "DSP0274 CERTIFICATE")
    parse_chain(chain, requester.connection.base_hash)
    requester.chains[slot] = chain
    return chain


def large_form(requester: Asker) -> bool:
    """Tell whether GET_CERTIFICATE has its large form on this connection (1.4, LARGE_RESP on both sides)."""
    connection = requester.connection
    return connection.version >= Version.V1_4 and bool(connection.common_capabilities & Capability.LARGE_RESP)


def _portion_request(requester: Asker, slot: int, offset: int, *, large: bool) -> m.GetCertificate:
    if large:
        limit = requester.settings.data_transfer_size - 16
        return m.GetCertificate(slot=slot, large=1, large_offset=offset, large_length=limit)
    limit = requester.settings.data_transfer_size - 8
    if requester.connection.version < Version.V1_2:
        limit = 0x400
    return m.GetCertificate(slot=slot, offset=offset, length=min(limit, MAX_CHAIN))


def check_digest(requester: Asker, digests: m.Digests, slot: int = 0) -> None:
    """Check that the chain of `slot` has the digest that DIGESTS gave. Raises `AuthenticationFailed`."""
    actual = digest(requester.connection.base_hash, known_chain(requester, slot))
    if not equal(actual, digests.of_slot(slot)):
        raise AuthenticationFailed(f"the chain of slot {slot} does not have the digest that DIGESTS gave")


def known_chain(requester: Asker, slot: int) -> bytes:
    """Give the chain of `slot` that was read. Raises `Misuse`."""
    chain = requester.chains.get(slot)
    if chain is None:
        raise Misuse(f"the chain of slot {slot} is not known", remedy="run get_certificate first")
    return chain


def leaf_key(requester: Asker, slot: int) -> PublicKey:
    """Give the public key of the leaf certificate of `slot`."""
    _, certificates = parse_chain(known_chain(requester, slot), requester.connection.base_hash)
    return leaf_public_key(certificates[-1])


def verify_signature(requester: Asker, slot: int, context: str, transcript: bytes, signature: bytes) -> None:
    """Verify a responder's signature over a transcript with the leaf key of `slot`. Raises `AuthenticationFailed`."""
    connection = requester.connection
    context = signers_context(context, encapsulated=connection.encapsulated)
    message = signing_message(connection.version, context, transcript, connection.base_hash)
    verify(leaf_key(requester, slot), connection.asym, message, signature, connection.base_hash, context)


def challenge(
    requester: Requester, slot: int = 0, summary_type: SummaryType = SummaryType.NONE
) -> Flow[m.ChallengeAuth]:
    """Make the responder prove its private key, and prove ours if it asks for basic mutual authentication.

    Raises `AuthenticationFailed`.
    """
    response = yield from prove_possession(requester, slot, summary_type)
    if response.basic_mutual_auth:
        needed = Capability.MUT_AUTH | Capability.ENCAP
        if requester.connection.common_capabilities & needed != needed:
            raise PeerViolation("BasicMutAuthReq without MUT_AUTH and ENCAP of both sides", "DSP0274 CHALLENGE_AUTH")
        yield from serve_encapsulated(requester)
    return response


def prove_possession(
    requester: Asker, slot: int = 0, summary_type: SummaryType = SummaryType.NONE
) -> Flow[m.ChallengeAuth]:
    """Make the peer prove its private key by a CHALLENGE. Raises `AuthenticationFailed`."""
    request = m.Challenge(
        slot=slot, summary_type=summary_type, nonce=requester.entropy(32), context=requester.entropy(8)
    )
    # M1 without this exchange: the transcript forgets B as soon as the exchange is complete.
    before = requester.transcript.m1(b"", b"")
    answer: Answer[m.ChallengeAuth] = yield from exchange(request)
    response = answer.message
    if response.slot != slot & 0xF:
        raise PeerViolation(f"slot {response.slot} answers for slot {slot}", "DSP0274 CHALLENGE_AUTH")
    if response.basic_mutual_auth and requester.connection.encapsulated:
        raise PeerViolation("BasicMutAuthReq in an encapsulated response", "DSP0274 CHALLENGE_AUTH")
    if not equal(response.chain_hash, digest(requester.connection.base_hash, known_chain(requester, slot))):
        raise AuthenticationFailed("CertChainHash is not the hash of the chain that was read")
    if requester.connection.version >= Version.V1_3 and response.context != request.context:
        raise PeerViolation("the requester's context is not echoed", "DSP0274 CHALLENGE_AUTH")
    size = requester.connection.asym.signature_size
    verify_signature(
        requester, slot, CHALLENGE_CONTEXT, before + answer.sent + answer.received[:-size], response.signature
    )
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
    before = requester.transcript.l1(requester.connection.version, requester.travels_in(session), b"", b"")
    answer: Answer[m.Measurements] = yield from exchange(request, session)
    response = answer.message
    if requester.connection.version >= Version.V1_3 and response.context != request.context:
        raise PeerViolation("the requester's context is not echoed", "DSP0274 MEASUREMENTS")
    if signed and requester.connection.version >= Version.V1_1 and response.slot != slot:
        raise PeerViolation(f"slot {response.slot} signs for slot {slot}", "DSP0274 MEASUREMENTS")
    size = requester.connection.asym.signature_size if signed else 0
    transcript = before + answer.sent + answer.received[: len(answer.received) - size]
    if signed:
        verify_signature(requester, slot, MEASUREMENTS_CONTEXT, transcript, response.signature)
    return MeasurementEvidence(response, response.blocks(), nonce, transcript, response.signature)
