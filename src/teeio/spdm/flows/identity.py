"""Identity and measurements: digests, certificates, challenge, measurements, each verified (DSP0274).

Verifying a certificate chain up to a trust anchor is the caller's policy (see `attestation`).
"""

from __future__ import annotations

from dataclasses import dataclass

from teeio.crypto.certificates import CertificateModel, leaf_public_key, parse_chain
from teeio.crypto.kdf import digest, equal
from teeio.crypto.keys import PublicKey
from teeio.errors import AuthenticationFailed, Misuse, PeerViolation
from teeio.flow import Flow
from teeio.spdm import messages as m
from teeio.spdm.alias import usual_model
from teeio.spdm.asking import Asker
from teeio.spdm.constants import ALL_MEASUREMENTS, PUBLIC_KEY_SLOT, Capability, SummaryType, Version
from teeio.spdm.exchange import Answer, ask, exchange
from teeio.spdm.flows.encapsulated import serve_encapsulated
from teeio.spdm.key_update import renew_if_due
from teeio.spdm.messages.certificate import portion_offset
from teeio.spdm.public_keys import in_four_bits, key_hash, key_of
from teeio.spdm.requester import Requester
from teeio.spdm.signing import verify_transcript
from teeio.spdm.transcript import CHALLENGE_CONTEXT, MEASUREMENTS_CONTEXT, signers_context

MAX_CHAIN = 0xFFFF
MAX_LARGE_CHAIN = 1 << 20
"""Largest chain that is read in the large form of 1.4."""

MAX_PORTIONS = 4096
_MODEL = 0b111
"""Bits of CertificateInfo that hold the certificate model."""


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
        _check_model(requester, slot, response.certificate_model)
        if len(chain) + remainder > (MAX_LARGE_CHAIN if large else MAX_CHAIN):
            raise PeerViolation(f"a chain of {len(chain) + remainder} bytes", "DSP0274 CERTIFICATE")
        if not remainder:
            break
    else:
        raise PeerViolation(f"the chain did not end after {MAX_PORTIONS} portions", "DSP0274 CERTIFICATE")
    parse_chain(chain, requester.connection.base_hash)
    requester.chains[slot] = chain
    requester.models[slot] = response.certificate_model
    return chain


def _check_model(requester: Asker, slot: int, model: int) -> None:
    """Check that CERTIFICATE tells the model of the chain on a multi-key connection, and nowhere else (1.3)."""
    if not requester.connection.multi_key:
        if model:
            raise PeerViolation(f"certificate model {model} without a multi-key connection", "DSP0274 CERTIFICATE")
    elif model not in tuple(known.value for known in CertificateModel):
        raise PeerViolation(f"certificate model {model} of a chain", "DSP0274 CERTIFICATE")
    elif model == CertificateModel.GENERIC.value and slot == 0:
        raise PeerViolation("a generic certificate in slot 0", "DSP0274 CERTIFICATE")


def certificate_model(requester: Asker, slot: int) -> CertificateModel:
    """Give the model of the chain of `slot` that was read: as told on a multi-key connection, elsewhere by ALIAS_CERT."""
    known_chain(requester, slot)
    told = requester.models.get(slot)
    return CertificateModel(told) if told else usual_model(requester.connection.responder_capabilities)


def large_form(requester: Asker) -> bool:
    """Tell whether GET_CERTIFICATE has its large form on this connection (1.4, LARGE_RESP on both sides)."""
    connection = requester.connection
    return connection.version >= Version.V1_4 and bool(connection.common_capabilities & Capability.LARGE_RESP)


def _portion_request(requester: Asker, slot: int, offset: int, *, large: bool) -> m.GetCertificate:
    limit = requester.settings.data_transfer_size - portion_offset(large=large)
    if large:
        return m.GetCertificate(slot=slot, large=1, large_offset=offset, large_length=limit)
    if requester.connection.version < Version.V1_2:
        limit = 0x400
    return m.GetCertificate(slot=slot, offset=offset, length=min(limit, MAX_CHAIN))


def check_digest(requester: Asker, digests: m.Digests, slot: int = 0) -> None:
    """Check that the chain of `slot` has the digest that DIGESTS gave. Raises `AuthenticationFailed`."""
    actual = chain_hash(requester, slot)
    if not equal(actual, digests.of_slot(slot)):
        raise AuthenticationFailed(f"the chain of slot {slot} does not have the digest that DIGESTS gave")
    told = dict(zip(digests.slots(), digests.certificate_info, strict=False))
    if slot in told and told[slot] & _MODEL != requester.models.get(slot, told[slot] & _MODEL):
        raise PeerViolation(f"DIGESTS and CERTIFICATE tell different models of slot {slot}", "DSP0274 CERTIFICATE")


def known_chain(requester: Asker, slot: int) -> bytes:
    """Give the chain of `slot` that was read. Raises `Misuse`."""
    chain = requester.chains.get(slot)
    if chain is None:
        raise Misuse(f"the chain of slot {slot} is not known", remedy="run get_certificate first")
    return chain


def provisioned_key(requester: Asker) -> PublicKey:
    """Give the public key of the peer that we were given beforehand. Raises `Misuse`."""
    connection = requester.connection
    if not connection.responder_capabilities & Capability.PUB_KEY_ID:
        raise Misuse(f"{requester.peer} has no provisioned public key (PUB_KEY_ID)", remedy="name a certificate slot")
    key = key_of(requester.peer_keys, connection.asym)
    if key is None:
        raise Misuse(f"no public key of {requester.peer} is known for {connection.asym!r}", remedy="give peer_keys")
    return key


def chain_hash(requester: Asker, slot: int) -> bytes:
    """Give the hash of the chain of `slot` that was read, or of the provisioned public key. Raises `Misuse`."""
    base_hash = requester.connection.base_hash
    if slot == PUBLIC_KEY_SLOT:
        return key_hash(base_hash, provisioned_key(requester))
    return digest(base_hash, known_chain(requester, slot))


def leaf_key(requester: Asker, slot: int) -> PublicKey:
    """Give the public key of the leaf certificate of `slot`, or the provisioned one."""
    if slot == PUBLIC_KEY_SLOT:
        return provisioned_key(requester)
    _, certificates = parse_chain(known_chain(requester, slot), requester.connection.base_hash)
    return leaf_public_key(certificates[-1])


def verify_signature(requester: Asker, slot: int, context: str, transcript: bytes, signature: bytes) -> None:
    """Verify a responder's signature over a transcript with the leaf key of `slot`. Raises `AuthenticationFailed`."""
    connection = requester.connection
    context = signers_context(context, encapsulated=connection.encapsulated)
    key, order = leaf_key(requester, slot), requester.settings.signature_order
    verify_transcript(key, connection.asym, connection, context, transcript, signature, order)


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
    expected = chain_hash(requester, slot)
    # M1 without this exchange: the transcript forgets B as soon as the exchange is complete.
    before = requester.transcript.m1(b"", b"")
    answer: Answer[m.ChallengeAuth] = yield from exchange(request)
    response = answer.message
    if response.slot != in_four_bits(slot):
        raise PeerViolation(f"slot {response.slot} answers for slot {slot}", "DSP0274 CHALLENGE_AUTH")
    if response.basic_mutual_auth and requester.connection.encapsulated:
        raise PeerViolation("BasicMutAuthReq in an encapsulated response", "DSP0274 CHALLENGE_AUTH")
    if not equal(response.chain_hash, expected):
        raise AuthenticationFailed(
            "CertChainHash is not the hash of the chain that was read, or of the provisioned key"
        )
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
        slot=in_four_bits(slot) if signed else 0,
        context=requester.entropy(8),
    )
    travels = requester.travels_in(session)
    if travels is not None:
        # L begins anew with KEY_UPDATE: one that is due must not come between what L has now and this exchange.
        yield from renew_if_due(requester, requester.session(travels))
    before = requester.transcript.l1(requester.connection.version, travels, b"", b"")
    answer: Answer[m.Measurements] = yield from exchange(request, session)
    response = answer.message
    if requester.connection.version >= Version.V1_3 and response.context != request.context:
        raise PeerViolation("the requester's context is not echoed", "DSP0274 MEASUREMENTS")
    if signed and requester.connection.version >= Version.V1_1 and response.slot != in_four_bits(slot):
        raise PeerViolation(f"slot {response.slot} signs for slot {slot}", "DSP0274 MEASUREMENTS")
    size = requester.connection.asym.signature_size if signed else 0
    transcript = before + answer.sent + answer.received[: len(answer.received) - size]
    if signed:
        verify_signature(requester, slot, MEASUREMENTS_CONTEXT, transcript, response.signature)
    return MeasurementEvidence(response, response.blocks(), nonce, transcript, response.signature)
