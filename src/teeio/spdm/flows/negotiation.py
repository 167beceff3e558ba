"""Version, capabilities, algorithms: how a requester begins (DSP0274, figure "Capability discovery and negotiation flow")."""

from __future__ import annotations

from teeio.errors import ErrorResponse, Incompatible, Misuse, PeerViolation
from teeio.flow import Flow
from teeio.spdm import messages as m
from teeio.spdm import negotiation
from teeio.spdm.algorithm_rules import not_provided
from teeio.spdm.constants import Capability, Version
from teeio.spdm.exchange import ask
from teeio.spdm.public_keys import offering
from teeio.spdm.requester import Requester
from teeio.spdm.rules import Phase
from teeio.spdm.state import Connection


def connect(requester: Requester, *, list_algorithms: bool = False) -> Flow[Connection]:
    """Negotiate version, capabilities and algorithms. Raises `Incompatible` if there is nothing in common.

    With `list_algorithms` (1.3, both sides with CHUNK) the responder is asked for all it supports: `Connection.offered_by_responder`.
    """
    requester.forget("GET_VERSION")
    yield from _agree_version(requester)
    yield from _agree_capabilities(requester, list_algorithms=list_algorithms)
    yield from _agree_algorithms(requester)
    return requester.connection


def resume(requester: Requester, preserved: Connection | None = None) -> Flow[Connection]:
    """Begin with GET_VERSION alone, on a state that both sides have preserved: PSK_EXCHANGE may follow at once (CACHE).

    Without `preserved` it is what the last END_SESSION has left. Raises `Misuse` if that is nothing, `Incompatible` if the responder no
    longer has that version.
    """
    preserved = preserved or requester.preserved
    if preserved is None:
        raise Misuse("no negotiated state is preserved", remedy="end a session without clearing it, or connect anew")
    requester.forget("GET_VERSION")
    if preserved.version not in (yield from ask(m.GetVersion())).versions:
        raise Incompatible(f"{requester.peer} no longer offers the preserved version", remedy="connect anew")
    requester.connection = preserved
    return preserved


def _agree_version(requester: Requester) -> Flow[None]:
    offered = (yield from ask(m.GetVersion())).versions
    common = [version for version in requester.settings.versions if version in offered]
    if not common:
        ours, theirs = (
            ", ".join(f"{v >> 4}.{v & 15}" for v in versions) for versions in (requester.settings.versions, offered)
        )
        raise Incompatible(f"no common SPDM version: we offer {ours}, {requester.peer} offers {theirs}")
    requester.agreed(phase=Phase.VERSION_DONE, version=max(common))


def _agree_capabilities(requester: Requester, *, list_algorithms: bool) -> Flow[None]:
    settings, version = requester.settings, requester.connection.version
    flags = negotiation.known_flags(settings.capabilities, version)
    listed = list_algorithms and version >= Version.V1_3 and bool(flags & Capability.CHUNK)
    response = yield from ask(
        m.GetCapabilities(
            supported_algorithms=int(listed),
            ct_exponent=settings.ct_exponent,
            flags=flags,
            data_transfer_size=settings.data_transfer_size,
            max_message_size=settings.message_limit(flags),
        )
    )
    negotiation.check_capabilities(response, version)
    if response.supported_algorithms and not listed:
        raise PeerViolation("a supported-algorithms block came unasked", "DSP0274 CAPABILITIES")
    block = response.algorithms_block
    requester.agreed(
        phase=Phase.CAPABILITIES_DONE,
        requester_capabilities=flags,
        responder_capabilities=negotiation.known_flags(response.flags, version),
        offered_by_responder=block.offer(version) if block else None,
        peer_data_transfer_size=response.data_transfer_size,
        peer_max_message_size=response.max_message_size,
    )


def _agree_algorithms(requester: Requester) -> Flow[None]:
    connection, settings = requester.connection, requester.settings
    if connection.responder_capabilities & Capability.PUB_KEY_ID and requester.peer_keys:
        settings = offering(settings, requester.peer_keys)
    request = negotiation.offer(settings, connection.version, connection.responder_capabilities)
    supported = connection.offered_by_responder
    unknown = not_provided(supported) if supported else ""
    try:
        response = yield from ask(request)
    except ErrorResponse as error:
        if not unknown:
            raise
        raise Incompatible(f"{error}{unknown}", remedy="offer more algorithms") from error
    negotiation.check_selection(request, response)
    lacking = negotiation.missing(requester.connection, response)
    if lacking:
        raise Incompatible(
            f"{requester.peer} selected no {lacking} of our offer{unknown}", remedy="offer more algorithms"
        )
    if response.requester_multi_key and not connection.requester_capabilities & (
        Capability.MULTI_KEY_ONLY | Capability.MULTI_KEY_NEG
    ):
        raise PeerViolation("RequesterMultiKeyConnSel without MULTI_KEY_CAP of ours", "DSP0274 ALGORITHMS")
    multi_key = bool(request.responder_multi_key)
    requester.agreed(phase=Phase.NEGOTIATED, multi_key=multi_key, **negotiation.chosen(response))
