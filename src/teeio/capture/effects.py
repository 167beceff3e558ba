"""What each exchange of a captured connection changes and proves, by the code of the request.

The dissector tells of every request and of every response that fits it; what comes back are the findings: signatures,
verify data and digests that were checked.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from teeio.capture import handshakes, signatures
from teeio.capture.conversation import Conversation, Exchange
from teeio.capture.findings import Finding
from teeio.spdm import messages as m


def requested(c: Conversation, x: Exchange) -> list[Finding]:
    """Learn of a request. One that does not decode resets no transcript, as the responder, which cannot read it either, resets none."""
    if x.request is None:
        return []
    c.transcript.begin(x.code, x.session_id)
    effect = ON_REQUEST.get(x.code)
    return effect(c, x) if effect else []


def answered(c: Conversation, x: Exchange) -> list[Finding]:
    """Learn of the response to a request."""
    code = x.code
    if x.request is None:
        # The answer shows that the responder has read what we cannot.
        c.transcript.begin(code, x.session_id)
    effect = ON_RESPONSE.get(code)
    findings = effect(c, x) if effect and x.request is not None else []
    c.transcript.end(code, x.sent, x.received, x.session_id)
    if isinstance(x.response, m.Measurements) and x.response.signature:
        c.transcript.forget_measurements(x.session_id)
    return findings


def refused(c: Conversation, x: Exchange) -> None:
    """Learn that a request was answered with ERROR."""
    c.transcript.end(x.code, x.sent, None, x.session_id)


def _capabilities(c: Conversation, x: Exchange) -> list[Finding]:
    c.negotiated = c.negotiated.with_capabilities(x.received[0], x.request, x.response)
    return []


def _algorithms(c: Conversation, x: Exchange) -> list[Finding]:
    n = c.negotiated = c.negotiated.with_algorithms(x.request, x.response)
    c.responder_chains.enter_algorithm(n.responder.algorithm)
    c.requester_chains.enter_algorithm(n.requester.algorithm)
    return []


Effect = Callable[[Conversation, Exchange], list[Finding]]

ON_REQUEST: Mapping[int, Effect] = {
    m.Finish.CODE: handshakes.finish_request,
    m.PskFinish.CODE: handshakes.psk_finish_request,
    m.KeyUpdate.CODE: handshakes.key_update_request,
    m.GetEncapsulatedRequest.CODE: handshakes.encapsulated_flow,
}
"""What a request changes before it is answered."""

ON_RESPONSE: Mapping[int, Effect] = {
    m.GetCapabilities.CODE: _capabilities,
    m.NegotiateAlgorithms.CODE: _algorithms,
    m.GetDigests.CODE: signatures.digests,
    m.GetCertificate.CODE: signatures.certificate,
    m.Challenge.CODE: signatures.challenge,
    m.GetMeasurements.CODE: signatures.measurements,
    m.GetEndpointInfo.CODE: signatures.endpoint_info,
    m.KeyExchange.CODE: handshakes.key_exchange,
    m.Finish.CODE: handshakes.finish,
    m.PskExchange.CODE: handshakes.psk_exchange,
    m.PskFinish.CODE: handshakes.psk_finish,
    m.EndSession.CODE: handshakes.end_session,
}
"""What a response to the request of this code changes and proves."""
