"""How a visit begins: DOE discovery, versions, capabilities and algorithms."""

from __future__ import annotations

from enum import IntFlag

from teeio.cli.visits.visit import Visit
from teeio.errors import Incompatible, Misuse
from teeio.flow import Flow
from teeio.pcie import doe
from teeio.spdm import flows
from teeio.spdm import messages as m
from teeio.spdm.constants import Capability
from teeio.spdm.exchange import ask
from teeio.spdm.state import Connection


def discover(visit: Visit) -> None:
    """List the DOE protocols of the mailbox. Raises `Misuse` where there is none, `Incompatible` if it lacks those of our connection."""
    binding = visit.requester.binding
    if not isinstance(binding, doe.DoeBinding):
        raise Misuse(f"discovery is of DOE, the transport is {binding.name}", remedy="leave it out of --operations")
    found = doe.list_protocols(visit.exchange)
    protocols = [f"{protocol.vendor_id:#06x}:{protocol.type:#04x}" for protocol in found]
    visit.done("doe_protocols", protocols, "DOE discovery", ", ".join(protocols))
    if binding.connection_id is not None and not set(doe.OF_A_CONNECTION) <= set(found):
        raise Incompatible(
            "the mailbox takes no SPDM connections with an id", remedy="connect without --doe-connection-id"
        )


def list_versions(visit: Visit) -> None:
    """Ask for the versions alone: GET_VERSION, which ends everything that was before."""
    versions = [f"{version >> 4}.{version & 15}" for version in visit.run(_versions(visit))]
    visit.done("versions", versions, "versions", ", ".join(versions))


def _versions(visit: Visit) -> Flow[tuple[int, ...]]:
    requester = visit.requester
    requester.connection = Connection()
    for session_id in list(requester.sessions):
        requester.drop_session(session_id, "GET_VERSION")
    requester.chains.clear()
    return (yield from ask(m.GetVersion())).versions


def negotiate(visit: Visit, *, listed: bool = False) -> None:
    """Agree on version, capabilities and algorithms; all sessions end by it. `listed`: ask for all that the responder supports."""
    c = visit.run(flows.connect(visit.requester, list_algorithms=listed))
    version = f"{c.version >> 4}.{c.version & 15}"
    visit.done("version", version, "version", f"SPDM {version}")
    names = [flag.name or "" for flag in Capability if flag & c.responder_capabilities]
    visit.done("capabilities", names, "capabilities", " ".join(names))
    algorithms = {
        "base_hash": c.base_hash.name,
        "base_asym": c.asym.name,
        "dhe": c.group.name,
        "aead": c.aead.name,
        "measurement_hash": c.measurement_hash.name,
    }
    if c.req_asym:
        algorithms["req_asym"] = c.req_asym.name
    visit.done("algorithms", algorithms, "algorithms", " ".join(str(name) for name in algorithms.values()))
    if listed:
        _list_algorithms(visit)
    accepted = visit.plan.measurement_hashes
    if c.measurement_hash and accepted and c.measurement_hash not in accepted:
        raise Incompatible(
            f"the responder measures with {c.measurement_hash.name}",
            remedy="the responder alone chooses the measurement hash: accept it with --meas-hash, or refuse the device",
        )


def _list_algorithms(visit: Visit) -> None:
    offer = visit.connection.offered_by_responder
    if offer is None:
        visit.done("supported_algorithms", None, "all algorithms", "the responder does not list them (1.3 with CHUNK)")
        return
    names = [_names(kind) for kind in (offer.base_hash, offer.base_asym, offer.pqc_asym)]
    tables = {str(getattr(each.alg_type, "name", each.alg_type)): f"{each.supported:#06x}" for each in offer.tables}
    found = {"base_hash": names[0], "base_asym": names[1], "pqc_asym": names[2], "tables": tables}
    visit.done("supported_algorithms", found, "all algorithms", " ".join(name for kind in names for name in kind))


def _names(flags: IntFlag) -> list[str]:
    return [flag.name or "" for flag in type(flags) if flag & flags]
