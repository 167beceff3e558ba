"""The requester's procedures, each as its figure in DSP0274 shows it; a flow takes the `Requester` whose facts it reads and sets."""

from teeio.spdm.flows.identity import (
    MeasurementEvidence,
    challenge,
    check_digest,
    get_certificate,
    get_digests,
    get_measurements,
    known_chain,
    leaf_key,
    verify_signature,
)
from teeio.spdm.flows.negotiation import connect
from teeio.spdm.flows.sessions import end_session, heartbeat, key_exchange, key_update, psk_exchange

__all__ = [
    "MeasurementEvidence",
    "challenge",
    "check_digest",
    "connect",
    "end_session",
    "get_certificate",
    "get_digests",
    "get_measurements",
    "heartbeat",
    "key_exchange",
    "key_update",
    "known_chain",
    "leaf_key",
    "psk_exchange",
    "verify_signature",
]
