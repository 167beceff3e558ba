"""The requester's procedures, each as its figure in DSP0274 shows it; a flow takes the `Requester` whose facts it reads and sets."""

from teeio.spdm.flows.encapsulated import Served, serve_encapsulated, serve_pending
from teeio.spdm.flows.identity import (
    MeasurementEvidence,
    certificate_model,
    chain_hash,
    challenge,
    check_digest,
    get_certificate,
    get_digests,
    get_measurements,
    known_chain,
    leaf_key,
    prove_possession,
    provisioned_key,
    verify_signature,
)
from teeio.spdm.flows.information import (
    get_endpoint_info,
    get_measurement_extension_log,
    get_supported_event_types,
    send_event,
    subscribe_event_types,
)
from teeio.spdm.flows.negotiation import connect, resume
from teeio.spdm.flows.provisioning import (
    change_key_pair,
    erase_certificate,
    erase_key_pair,
    generate_key_pair,
    get_csr,
    get_key_pair_info,
    get_slot_size,
    set_certificate,
)
from teeio.spdm.flows.sessions import end_session, heartbeat, key_exchange, psk_exchange
from teeio.spdm.key_update import key_update

__all__ = [
    "MeasurementEvidence",
    "Served",
    "certificate_model",
    "chain_hash",
    "challenge",
    "change_key_pair",
    "check_digest",
    "connect",
    "end_session",
    "erase_certificate",
    "erase_key_pair",
    "generate_key_pair",
    "get_certificate",
    "get_csr",
    "get_digests",
    "get_endpoint_info",
    "get_key_pair_info",
    "get_measurement_extension_log",
    "get_measurements",
    "get_slot_size",
    "get_supported_event_types",
    "heartbeat",
    "key_exchange",
    "key_update",
    "known_chain",
    "leaf_key",
    "prove_possession",
    "provisioned_key",
    "psk_exchange",
    "resume",
    "send_event",
    "serve_encapsulated",
    "serve_pending",
    "set_certificate",
    "subscribe_event_types",
    "verify_signature",
]
