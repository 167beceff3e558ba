"""CHALLENGE and CHALLENGE_AUTH (DSP0274)."""

from __future__ import annotations

from teeio.spdm.constants import SummaryType, Version
from teeio.spdm.messages.base import Request, Response, message
from teeio.wire import bits, blob, length_of, reserved_bits, u8


@message(0x83, "CHALLENGE")
class Challenge(Request["ChallengeAuth"]):
    """Ask the responder to prove that it holds the private key of a slot."""

    slot: int = u8("SlotID; 0xFF for the provisioned public key")
    summary_type: int = u8("Measurement summary hash wanted", enum=SummaryType)
    nonce: bytes = blob(32, "Requester's nonce")
    context: bytes = blob(8, "Requester's context", since=Version.V1_3, default=bytes(8))


@message(0x03, "CHALLENGE_AUTH")
class ChallengeAuth(Response):
    """Answer CHALLENGE with a signature over M1."""

    slot: int = bits(4, "SlotID; 0xF for the provisioned public key", of=1)
    _param1: None = reserved_bits(3)
    basic_mutual_auth: int = bits(1, "BasicMutAuthReq", default=0)
    slot_mask: int = u8("Provisioned slots")
    chain_hash: bytes = blob("hash_size", "CertChainHash")
    nonce: bytes = blob(32, "Responder's nonce")
    summary: bytes = blob("summary_size", "MeasurementSummaryHash", default=b"")
    opaque_length: None = length_of("opaque", 2)
    opaque: bytes = blob("opaque_length", "OpaqueData", default=b"")
    context: bytes = blob(8, "Requester's context, echoed", since=Version.V1_3, default=bytes(8))
    signature: bytes = blob("signature_size", "Signature over M1")
