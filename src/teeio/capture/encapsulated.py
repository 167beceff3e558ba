"""Encapsulated messages: the responder asks, the requester answers (DSP0274, "Encapsulated request flow").

What it brings: the requester's identity in basic and in session-based mutual authentication, and key updates of the
responder.
"""

from __future__ import annotations

from dataclasses import dataclass

from teeio.capture.conversation import Conversation
from teeio.capture.findings import Finding
from teeio.capture.sessions import Direction, DissectedSession
from teeio.capture.signatures import requester_signed, without_tail
from teeio.spdm import messages as m
from teeio.spdm.constants import KeyUpdateOperation, Version
from teeio.spdm.public_keys import from_four_bits
from teeio.spdm.transcript import MAX_TRANSCRIPT

REQUESTER_ENDPOINT_INFO_CONTEXT = "requester-endpoint_info signing"
"""Context of the requester's signature over its own IL1."""

REQUESTER_CHALLENGE_CONTEXT = "requester-challenge_auth signing"
"""Context of the requester's signature over M1 in basic mutual authentication."""


@dataclass(frozen=True, slots=True)
class EncapsulatedRequest:
    """A request of the responder, with its bytes."""

    message: m.Message
    raw: bytes


def encapsulated_request(c: Conversation, request: m.Message, session: DissectedSession | None) -> None:
    """Learn of a request of the responder."""
    if isinstance(request, m.KeyUpdate) and session is not None and request.operation == KeyUpdateOperation.UPDATE_KEY:
        session.expect_update(Direction.RESPONSE)


def encapsulated_answer(
    c: Conversation,
    asked: EncapsulatedRequest | None,
    answer: m.Message,
    received: bytes,
    session: DissectedSession | None,
) -> list[Finding]:
    """Learn of the requester's answer; `asked` is None if it answers an implied request."""
    if asked is None:
        return _requester_digests(c, answer, received, session) if isinstance(answer, m.Digests) else []
    request = asked.message
    if isinstance(answer, m.ChallengeAuth) and isinstance(request, m.Challenge):
        return _mutual_challenge(c, request, answer, asked.raw + received)
    if isinstance(answer, m.EndpointInfo) and answer.signature:
        il1 = c.transcript.vca + asked.raw + without_tail(received, answer.signature)
        slot = from_four_bits(answer.slot)
        return [requester_signed(c, "ENDPOINT_INFO", slot, REQUESTER_ENDPOINT_INFO_CONTEXT, il1, answer)]
    findings: list[Finding] = []
    if isinstance(answer, m.Digests):
        findings = _requester_digests(c, answer, received, session)
    elif isinstance(answer, m.Certificate) and isinstance(request, m.GetCertificate):
        findings = c.requester_chains.enter_certificate(request, answer, c.negotiated)
    else:
        return []
    if session is None:
        c.mutual = (c.mutual + asked.raw + received)[-MAX_TRANSCRIPT:]
    return findings


def _requester_digests(
    c: Conversation, answer: m.Digests, received: bytes, session: DissectedSession | None
) -> list[Finding]:
    owner = session or c.handshaking()
    if owner is not None:
        owner.encapsulated_digests = received
    return c.requester_chains.enter_digests(answer)


def _mutual_challenge(
    c: Conversation, request: m.Challenge, answer: m.ChallengeAuth, exchanged: bytes
) -> list[Finding]:
    """Check what basic mutual authentication signs: the encapsulated messages alone, after VCA from 1.2 on."""
    n = c.negotiated
    vca = c.transcript.vca if n.connection.version >= Version.V1_2 else b""
    signed = vca + c.mutual + without_tail(exchanged, answer.signature)
    c.mutual = b""
    return [
        c.requester_chains.check_hash("CertChainHash", request.slot, answer.chain_hash, n),
        requester_signed(c, "CHALLENGE_AUTH", request.slot, REQUESTER_CHALLENGE_CONTEXT, signed, answer),
    ]
