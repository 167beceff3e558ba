"""Translation caches of devices as the secure EPT's: emptied by Invalidate Requests with T=1 (the peer-to-peer profile).

A cache that may hold something keeps blocked pages from leaving, as those of processors and IOMMUs do. It joins with the
first translation that its device gets, and leaves when it is empty, until the next one.
"""

from __future__ import annotations

from teeio.host.tdx.interface import Devif
from teeio.host.tdx.peer_records import device_tlb
from teeio.host.tdx.records import Records, StreamPhase
from teeio.tdisp.messages import InterfaceState


def empty_cache(records: Records, devif: Devif) -> bool:
    """Empty an interface's cache; False if its device has not completed that.

    One that is CONFIG_UNLOCKED has none, and one whose stream to the root port is blocked counts as quiet, as ever.
    """
    stream = devif.stream
    quiet = devif.state is InterfaceState.CONFIG_UNLOCKED or stream.phase is StreamPhase.BLOCKED
    agent = records.agents[stream.spdm.unit.function.requester_id]
    if not quiet and not agent.invalidate(devif.function_id, stream.stream_id):
        return False
    devif.tvm.sept.leave_cache(device_tlb(devif.function_id))
    return True


def cut_off(records: Records, devif: Devif) -> None:
    """Let the peers of an interface forget its MMIO at once; a cache that does not stays one to be emptied."""
    for peer in records.peers.peers_of(devif):
        if peer.tvm.sept.has_cache(device_tlb(peer.function_id)):
            empty_cache(records, peer)
