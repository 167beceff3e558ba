"""Trusted ATS for exactly one thing: MMIO of a peer (this model's own extension).

A Translation Request with T=1 is answered where the requester's TVM has accepted, at that guest address, MMIO of an
interface with which it lets the requester exchange data, and all of that holds now. Memory is never translated: for that
there is the root port, where no trusted request passes by a translated address.
"""

from __future__ import annotations

from teeio.abi.operands import PAGE_SIZE
from teeio.host.secure_ept import SeptState
from teeio.host.tdx.interface import Devif
from teeio.host.tdx.peer_records import device_tlb
from teeio.host.tdx.records import Records
from teeio.pcie.translation import Translation


class PeerTranslations:
    """What the root ports' agents ask for translations with T=1: their `TrustedTranslator`."""

    def __init__(self, records: Records) -> None:
        self._records = records

    def translate(
        self, root_port: int, requester_id: int, page: int, no_write: bool, stream_id: int | None
    ) -> Translation | None:
        """Translate a page that begins at this guest address; None if it is none of a peer's."""
        devif = self._records.devifs.get(requester_id)
        if devif is None or stream_id != devif.stream.stream_id:
            return None
        came_here = devif.stream.spdm.unit.function.requester_id == root_port
        if not came_here or self._records.dmar_state(devif).name != "PRESENT":
            return None
        hpa = self._of_a_peer(devif, page)
        if hpa is None:
            return None
        devif.tvm.sept.join_cache(device_tlb(requester_id))
        return Translation(read=1, write=int(not no_write), page=hpa // PAGE_SIZE)

    def _of_a_peer(self, devif: Devif, page: int) -> int | None:
        leaf = devif.tvm.sept.leaf(page)
        if leaf is None or leaf.state is not SeptState.MMIO_MAPPED:
            return None
        hpa = leaf.hpa + page % leaf.level.size
        entry = self._records.mmio.entry(hpa)
        peer = self._records.devifs.get(entry.function_id) if entry else None
        link = self._records.peers.link(devif, peer) if peer is not None else None
        if peer is None or link is None or not link.active or link.stream is None:
            return None
        end = link.stream.ends[link.stream.end_of(peer.stream.spdm)]
        return hpa if end.memory.holds(hpa, PAGE_SIZE) else None
