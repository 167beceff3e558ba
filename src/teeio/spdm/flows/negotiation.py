"""Version, capabilities, algorithms: how a requester begins (DSP0274, figure "Capability discovery and negotiation flow")."""

from __future__ import annotations

from teeio.errors import Incompatible
from teeio.flow import Flow
from teeio.spdm import messages as m
from teeio.spdm import negotiation
from teeio.spdm.exchange import ask
from teeio.spdm.requester import Requester
from teeio.spdm.rules import Phase
from teeio.spdm.state import Connection


def connect(requester: Requester) -> Flow[Connection]:
    """Negotiate version, capabilities and algorithms. Raises `Incompatible` if there is nothing in common."""
    requester.connection = Connection()
    for session_id in list(requester.sessions):
        requester.drop_session(session_id, "GET_VERSION")
    requester.chains.clear()
    yield from _agree_version(requester)
    yield from _agree_capabilities(requester)
    yield from _agree_algorithms(requester)
    return requester.connection


def _agree_version(requester: Requester) -> Flow[None]:
    offered = (yield from ask(m.GetVersion())).versions
    common = [version for version in requester.settings.versions if version in offered]
    if not common:
        ours, theirs = (
            ", ".join(f"{v >> 4}.{v & 15}" for v in versions) for versions in (requester.settings.versions, offered)
        )
        raise Incompatible(f"no common SPDM version: we offer {ours}, {requester.peer} offers {theirs}")
    requester.agreed(phase=Phase.VERSION_DONE, version=max(common))


def _agree_capabilities(requester: Requester) -> Flow[None]:
    settings, version = requester.settings, requester.connection.version
    flags = negotiation.known_flags(settings.capabilities, version)
    response = yield from ask(
        m.GetCapabilities(
            ct_exponent=settings.ct_exponent,
            flags=flags,
            data_transfer_size=settings.data_transfer_size,
            max_message_size=settings.message_limit(flags),
        )
    )
    negotiation.check_capabilities(response, version)
    requester.agreed(
        phase=Phase.CAPABILITIES_DONE,
        requester_capabilities=flags,
        responder_capabilities=negotiation.known_flags(response.flags, version),
        peer_data_transfer_size=response.data_transfer_size,
        peer_max_message_size=response.max_message_size,
    )


def _agree_algorithms(requester: Requester) -> Flow[None]:
    request = negotiation.offer(requester.settings, requester.connection.version)
    response = yield from ask(request)
    negotiation.check_selection(request, response)
    lacking = negotiation.missing(requester.connection, response)
    if lacking:
        raise Incompatible(f"{requester.peer} selected no {lacking} of our offer", remedy="offer more algorithms")
    requester.agreed(phase=Phase.NEGOTIATED, **negotiation.chosen(response))
