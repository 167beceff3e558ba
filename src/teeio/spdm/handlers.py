"""What the responder does for each request. A handler returns the response or raises `Reject`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from teeio.errors import PeerViolation, Reject
from teeio.spdm import messages as m
from teeio.spdm import negotiation
from teeio.spdm.algorithm_rules import not_provided
from teeio.spdm.call import Call, NotReady, Silence, encoded, sign, summary
from teeio.spdm.chunking import Incoming, sequence_fields
from teeio.spdm.constants import ALL_MEASUREMENTS, Capability, ErrorCode, Version
from teeio.spdm.encapsulation import ENCAPSULATION_HANDLERS
from teeio.spdm.information_handlers import INFORMATION_HANDLERS
from teeio.spdm.messages.certificate import portion_offset
from teeio.spdm.provisioning_handlers import PROVISIONING_HANDLERS
from teeio.spdm.public_keys import from_four_bits, in_four_bits
from teeio.spdm.rules import Phase
from teeio.spdm.session_handlers import SESSION_HANDLERS
from teeio.spdm.transcript import CHALLENGE_CONTEXT, MEASUREMENTS_CONTEXT

if TYPE_CHECKING:
    from teeio.spdm.responder import Responder

_SMALL_CHAIN = 0xFFFF
"""What the small form of GET_CERTIFICATE can name; the large form (1.4) has 32-bit lengths."""


def get_version(r: Responder, request: m.GetVersion, call: Call) -> m.Response:
    """Reset the connection and list the versions."""
    r.reset("GET_VERSION")
    r.agreed(phase=Phase.VERSION_DONE)
    return m.VersionResponse(entries=tuple(version << 8 for version in sorted(r.settings.versions)))


def get_capabilities(r: Responder, request: m.GetCapabilities, call: Call) -> m.Response:
    """Fix the version and exchange capabilities."""
    version = call.request[0]
    problem = negotiation.problem_of_request(request, version)
    if problem:
        raise Reject(ErrorCode.INVALID_REQUEST, f"{problem} (DSP0274 GET_CAPABILITIES)")
    flags = negotiation.known_flags(r.settings.capabilities, version)
    r.agreed(
        phase=Phase.CAPABILITIES_DONE,
        version=version,
        requester_capabilities=negotiation.known_flags(request.flags, version),
        responder_capabilities=flags,
        peer_data_transfer_size=request.data_transfer_size,
        peer_max_message_size=request.max_message_size,
    )
    listed = _supported_algorithms(r, request, version)
    return m.Capabilities(
        supported_algorithms=int(bool(listed)),
        algorithms_block=listed,
        ct_exponent=r.settings.ct_exponent,
        flags=flags,
        data_transfer_size=r.settings.data_transfer_size,
        max_message_size=r.settings.message_limit(flags),
    )


def _supported_algorithms(r: Responder, request: m.GetCapabilities, version: int) -> m.SupportedAlgorithms | None:
    """Give the supported-algorithms block, if it was asked for and we can send large messages (1.3)."""
    if not request.supported_algorithms:
        return None
    if not request.flags & Capability.CHUNK:
        raise Reject(ErrorCode.INVALID_REQUEST, "the algorithms are listed with CHUNK only (DSP0274 GET_CAPABILITIES)")
    if not r.connection.responder_capabilities & Capability.CHUNK:
        return None
    offered = negotiation.offer(r.settings, version, r.connection.responder_capabilities)
    return m.SupportedAlgorithms.of(offered, version)


def negotiate_algorithms(r: Responder, request: m.NegotiateAlgorithms, call: Call) -> m.Response:
    """Select algorithms."""
    problem = negotiation.problem_of_offer(request, r.connection.version)
    if r.connection.version >= Version.V1_3:
        problem = problem or negotiation.problem_of_multi_key(request, r.connection.responder_capabilities)
    if problem:
        raise Reject(ErrorCode.INVALID_REQUEST, f"{problem} (DSP0274 NEGOTIATE_ALGORITHMS)")
    answer = negotiation.select(r.settings, r.connection, request)
    lacking = negotiation.missing(r.connection, answer)
    if lacking:
        raise Reject(ErrorCode.INVALID_REQUEST, f"no common {lacking}{not_provided(request)} (DSP0274 ALGORITHMS)")
    multi_key = bool(request.responder_multi_key)
    r.agreed(phase=Phase.NEGOTIATED, multi_key=multi_key, **negotiation.chosen(answer))
    return answer


def get_digests(r: Responder, request: m.GetDigests, call: Call) -> m.Response:
    """Give the digest of every provisioned chain."""
    identity = r.identity
    base_hash = r.connection.base_hash
    slots = [identity.slots[number] for number in sorted(identity.slots)]
    told = slots if r.connection.multi_key else []
    return m.Digests(
        supported_slots=r.provisioning.supported_slots if r.provisioning else identity.slot_mask,
        provisioned_slots=identity.slot_mask,
        digests=b"".join(slot.chain_hash(base_hash) for slot in slots),
        key_pair_ids=tuple(slot.key_pair_id for slot in told),
        certificate_info=tuple(slot.model.value for slot in told),
        key_usage=tuple(int(r.key_usage(slot)) for slot in told),
    )


def get_certificate(r: Responder, request: m.GetCertificate, call: Call) -> m.Response:
    """Give a portion of a chain."""
    slot = r.slot(request.slot)
    if r.provisioning and r.provisioning.is_staged(r.identity, request.slot):
        raise Reject(ErrorCode.RESET_REQUIRED, "the slot changes at the next reset (DSP0274 GET_CERTIFICATE)")
    chain = slot.chain(r.connection.base_hash)
    _check_form(r, request, len(chain))
    # The certificate model is told on multi-key connections only, elsewhere the field is 0 (DSP0274 CERTIFICATE).
    model = slot.model.value if r.connection.multi_key else 0
    if request.slot_size_requested:
        size = r.provisioning.slot_size if r.provisioning else len(chain)
        return _portion(request, model, b"", size if request.large else min(size, _SMALL_CHAIN))
    offset, length = (request.large_offset, request.large_length) if request.large else (request.offset, request.length)
    if offset >= len(chain) or not length:
        raise Reject(ErrorCode.INVALID_REQUEST, f"offset {offset} of {len(chain)} bytes (DSP0274 GET_CERTIFICATE)")
    # With chunks the whole of what is asked for is given: a requester that asks for everything at once must get it (1.2).
    room = (r.connection.peer_message_limit or 0x10000) - portion_offset(large=bool(request.large))
    portion = chain[offset:][: min(length, room)]
    return _portion(request, model, portion, len(chain) - offset - len(portion))


def _check_form(r: Responder, request: m.GetCertificate, size: int) -> None:
    """Refuse the large form where it was not negotiated, and the small form of a chain that it cannot carry."""
    if request.large and not r.connection.responder_capabilities & Capability.LARGE_RESP:
        raise Reject(
            ErrorCode.UNSUPPORTED_REQUEST, "no large form (DSP0274 LARGE_RESP_CAP)", data=m.GetCertificate.CODE
        )
    if size <= _SMALL_CHAIN or request.large:
        return
    why = f"a chain of {size} bytes needs the large form of 1.4 (DSP0274 GET_CERTIFICATE)"
    raise Reject(ErrorCode.DATA_TOO_LARGE, why, extended=size.to_bytes(4, "little"))


def _portion(request: m.GetCertificate, model: int, portion: bytes, remainder: int) -> m.Certificate:
    if request.large:
        return m.Certificate(
            slot=request.slot,
            large=1,
            certificate_model=model,
            large_portion=portion,
            large_remainder_length=remainder,
        )
    return m.Certificate(slot=request.slot, certificate_model=model, portion=portion, remainder_length=remainder)


def challenge(r: Responder, request: m.Challenge, call: Call) -> m.Response:
    """Sign M1."""
    slot = r.slot(request.slot)  # refuses where no signature algorithm was negotiated, too
    size = r.connection.asym.signature_size
    response = m.ChallengeAuth(
        slot=in_four_bits(request.slot),
        slot_mask=r.identity.slot_mask,
        chain_hash=slot.chain_hash(r.connection.base_hash),
        nonce=r.entropy(32),
        summary=summary(r, request.summary_type),
        context=request.context,
        basic_mutual_auth=int(r.mutual is not None and r.mutual.asks_after_challenge(r)),
        signature=bytes(size),
    )
    m1 = r.transcript.m1(call.request, encoded(r, request, response, size))
    response.signature = sign(r, request.slot, CHALLENGE_CONTEXT, m1)
    if r.mutual is not None and response.basic_mutual_auth:
        call.after = partial(r.mutual.begin_basic, r, call.now)
    return response


def get_measurements(r: Responder, request: m.GetMeasurements, call: Call) -> m.Response:
    """Give measurements, signed if asked for."""
    if call.now < r.measurements.ready_at:
        raise NotReady(r.measurements.ready_at)
    signed = bool(request.signature_requested)
    slot = from_four_bits(request.slot)
    if signed and not r.connection.responder_capabilities & Capability.MEAS_SIG:
        raise Reject(
            ErrorCode.UNSUPPORTED_REQUEST, "measurements are not signed here (DSP0274 MEAS_CAP)", m.GetMeasurements.CODE
        )
    if signed:
        r.slot(slot)
    blocks = r.measurements.blocks(r.connection.measurement_hash, raw=bool(request.raw_requested))
    wanted = [] if request.operation == 0 else blocks
    if request.operation not in (0, ALL_MEASUREMENTS):
        wanted = [block for block in blocks if block.index == request.operation]
        if not wanted:
            raise Reject(ErrorCode.INVALID_REQUEST, f"no measurement {request.operation} (DSP0274 GET_MEASUREMENTS)")
    size = r.connection.asym.signature_size if signed else 0
    response = m.Measurements(
        total=len(blocks) if request.operation == 0 else 0,
        slot=in_four_bits(slot),
        block_count=len(wanted),
        record=b"".join(block.encode() for block in wanted),
        nonce=r.entropy(32),
        context=request.context,
        signature=bytes(size),
    )
    if signed:
        unsigned = encoded(r, request, response, size)
        l1 = r.transcript.l1(r.connection.version, call.session_id, call.request, unsigned)
        response.signature = sign(r, slot, MEASUREMENTS_CONTEXT, l1)
    return response


def vendor_defined(r: Responder, request: m.VendorDefinedRequest, call: Call) -> m.Response:
    """Hand the payload to the vendor protocol it names. Outside a session those are dropped silently (PCIe Base 11.2.2)."""
    if request.large and not r.connection.responder_capabilities & Capability.LARGE_RESP:
        raise Reject(ErrorCode.UNSUPPORTED_REQUEST, "no large form (DSP0274 LARGE_RESP_CAP)", request.CODE)
    payload = request.large_payload if request.large else request.payload
    for protocol in r.vendor_protocols:
        if (protocol.standard_id, protocol.vendor_id) != (request.standard_id, request.vendor_id):
            continue
        if payload[:1] != bytes([protocol.protocol_id]):
            continue
        answer = None
        if call.session is not None:
            answer = protocol.respond(call.session.session_id, payload[1:], call.now)
        if answer is None:
            raise Silence
        # The response has the form of the request, small or large (1.4).
        form: dict[str, Any] = {"large_payload" if request.large else "payload": payload[:1] + answer}
        return m.VendorDefinedResponse(
            large=request.large, standard_id=request.standard_id, vendor_id=request.vendor_id, **form
        )
    raise Reject(ErrorCode.UNSUPPORTED_REQUEST, "no such vendor protocol", m.VendorDefinedRequest.CODE)


def chunk_send(r: Responder, request: m.ChunkSend, call: Call) -> m.Response:
    """Take a piece of a large request; the last one is answered with the response to the whole."""
    number = request.sequence or request.large_sequence
    large = r.large_at(call)
    if number == 0 and large.incoming is None:
        large.incoming = Incoming(request.handle, r.connection.version, r.settings.max_message_size)
    incoming, large.incoming = large.incoming, None
    if incoming is None:
        raise Reject(ErrorCode.UNEXPECTED_REQUEST, "no large request is under way (DSP0274 CHUNK_SEND)")
    acknowledged: dict[str, Any] = {"handle": request.handle, **sequence_fields(r.connection.version, number)}
    try:
        if r.exceeds_transfer(call):
            raise PeerViolation(f"CHUNK_SEND of {len(call.request)} bytes", "DSP0274 DataTransferSize")
        incoming.add(request.handle, number, request.chunk, request.large_message_size, last=bool(request.last))
    except PeerViolation as violation:
        error = r.refuse(call, Reject(ErrorCode.INVALID_REQUEST, str(violation)))
        return m.ChunkSendAck(early_error=1, response=error, **acknowledged)
    if not request.last:
        large.incoming = incoming
        return m.ChunkSendAck(**acknowledged)
    return m.ChunkSendAck(response=r.answer_large(bytes(incoming.data), call), **acknowledged)


def chunk_get(r: Responder, request: m.ChunkGet, call: Call) -> m.Response:
    """Give the next piece of a large response."""
    number = request.sequence or request.large_sequence
    large = r.large_at(call)
    outgoing = large.outgoing
    if outgoing is None or request.handle != outgoing.handle or number != outgoing.number:
        large.outgoing = None
        raise Reject(ErrorCode.INVALID_REQUEST, "not the next chunk of a large response (DSP0274 CHUNK_GET)")
    piece = outgoing.next()
    if piece.last:
        large.outgoing = None
    return m.ChunkResponse(
        last=int(piece.last),
        handle=request.handle,
        large_message_size=piece.size,
        chunk=piece.chunk,
        **sequence_fields(r.connection.version, number),
    )


HANDLERS: Mapping[int, Callable[[Responder, Any, Call], m.Response]] = {
    m.GetVersion.CODE: get_version,
    m.GetCapabilities.CODE: get_capabilities,
    m.NegotiateAlgorithms.CODE: negotiate_algorithms,
    m.GetDigests.CODE: get_digests,
    m.GetCertificate.CODE: get_certificate,
    m.Challenge.CODE: challenge,
    m.GetMeasurements.CODE: get_measurements,
    m.VendorDefinedRequest.CODE: vendor_defined,
    m.ChunkSend.CODE: chunk_send,
    m.ChunkGet.CODE: chunk_get,
    **SESSION_HANDLERS,
    **INFORMATION_HANDLERS,
    **PROVISIONING_HANDLERS,
    **ENCAPSULATION_HANDLERS,
}
"""What is implemented; any other request is answered with UnsupportedRequest."""
