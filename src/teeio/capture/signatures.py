"""What identity and attestation exchanges prove: chains, digests, and the signatures of both sides.

The rules of the transcripts are those of `spdm.transcript`; mutual authentication adds the requester's chain
(DSP0274, "Transcript and transcript hash").
"""

from __future__ import annotations

from teeio.capture.conversation import Conversation, Exchange
from teeio.capture.findings import Finding, Verdict, not_checkable
from teeio.spdm import messages as m
from teeio.spdm.public_keys import from_four_bits
from teeio.spdm.transcript import CHALLENGE_CONTEXT, MEASUREMENTS_CONTEXT

ENDPOINT_INFO_CONTEXT = "responder-endpoint_info signing"
"""Context of the signature over IL1 (DSP0274 1.3, ENDPOINT_INFO)."""

NOT_WHOLE = "the connection begins before the capture, so what is signed is not all there"


def digests(c: Conversation, x: Exchange) -> list[Finding]:
    """DIGESTS: of which known chain each is the digest."""
    return c.responder_chains.enter_digests(x.response)


def certificate(c: Conversation, x: Exchange) -> list[Finding]:
    """CERTIFICATE: a portion of a chain, and the chain when it is whole."""
    return c.responder_chains.enter_certificate(x.request, x.response, c.negotiated)


def responder_signed(
    c: Conversation, what: str, slot: int, context: str, transcript: bytes, signature: bytes
) -> Finding:
    """Check a signature of the responder."""
    n = c.negotiated
    check = f"{what} signature"
    found = c.responder_chains.check_signature(check, slot, context, transcript, signature, n, n.responder)
    return _of_the_whole(c, found)


def requester_signed(
    c: Conversation,
    what: str,
    slot: int,
    context: str,
    transcript: bytes,
    signed: m.Finish | m.ChallengeAuth | m.EndpointInfo,
) -> Finding:
    """Check a signature of the requester."""
    n, check = c.negotiated, f"{what} signature"
    found = c.requester_chains.check_signature(check, slot, context, transcript, signed.signature, n, n.requester)
    return _of_the_whole(c, found)


def _of_the_whole(c: Conversation, found: Finding) -> Finding:
    if found.verdict is Verdict.WRONG and not c.whole:
        return not_checkable(found.check, NOT_WHOLE)
    return found


def without_tail(data: bytes, *tail: bytes) -> bytes:
    """Give an encoded message without its last fields."""
    return data[: len(data) - sum(map(len, tail))]


def challenge(c: Conversation, x: Exchange) -> list[Finding]:
    """CHALLENGE_AUTH: the chain's hash and the signature over M1."""
    m1 = c.transcript.m1(x.sent, without_tail(x.received, x.response.signature))
    return [
        c.responder_chains.check_hash("CertChainHash", x.request.slot, x.response.chain_hash, c.negotiated),
        responder_signed(c, "CHALLENGE_AUTH", x.request.slot, CHALLENGE_CONTEXT, m1, x.response.signature),
    ]


def measurements(c: Conversation, x: Exchange) -> list[Finding]:
    """MEASUREMENTS: the signature over L1, where one was asked for."""
    if not x.request.signature_requested:
        return []
    version = c.negotiated.connection.version
    l1 = c.transcript.l1(version, x.session_id, x.sent, without_tail(x.received, x.response.signature))
    slot = from_four_bits(x.request.slot)
    return [responder_signed(c, "MEASUREMENTS", slot, MEASUREMENTS_CONTEXT, l1, x.response.signature)]


def endpoint_info(c: Conversation, x: Exchange) -> list[Finding]:
    """ENDPOINT_INFO: the signature over IL1, where one was asked for."""
    if not x.request.signature_requested:
        return []
    il1 = c.transcript.vca + x.sent + without_tail(x.received, x.response.signature)
    slot = from_four_bits(x.request.slot)
    return [responder_signed(c, "ENDPOINT_INFO", slot, ENDPOINT_INFO_CONTEXT, il1, x.response.signature)]
