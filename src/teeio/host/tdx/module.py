"""The TDX module: the TSM that answers the VMM's SEAMCALLs and the TVMs' TDCALLs.

It holds `PhysicalMemory`, the trusted tables of the IOMMUs and the root ports' key units, none of which the VMM has.
Nothing that the VMM says or carries is relied upon: handles are looked up, pages change owner only through the memory,
devices are heard only through the TPA's SPDM session. The answers are by subject: `memory_calls`, `dma_mmio_calls`,
`session_calls`, `interface_calls`, `guest_calls`, and for peer-to-peer, which is this model's own and off unless wanted,
`peer_stream_calls`, `peer_bind_calls`, `peer_guest_calls`, `peer_translations`.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

from teeio.abi import Processor, TvmToTsm, VmmToTsm
from teeio.crypto.entropy import Entropy
from teeio.host.memory import PhysicalMemory
from teeio.host.mmio_metadata import MmioMetadata
from teeio.host.processor import TvmProcessor
from teeio.host.root_complex import RootComplex
from teeio.host.secure_ept import SharedEpt
from teeio.host.tdx.dma_mmio_calls import DmaMmioCalls
from teeio.host.tdx.guest_calls import GuestCalls
from teeio.host.tdx.interface_calls import InterfaceCalls
from teeio.host.tdx.memory_calls import MemoryCalls
from teeio.host.tdx.peer_bind_calls import PeerBindCalls
from teeio.host.tdx.peer_records import PeerRecords
from teeio.host.tdx.peer_translations import PeerTranslations
from teeio.host.tdx.records import Records
from teeio.host.tdx.tpa import TPA_SETTINGS
from teeio.observe import Observer, ignore
from teeio.pcie.link_rules import CLOSED, LinkRules
from teeio.spdm.state import Settings


class TdxModule(MemoryCalls, DmaMmioCalls, InterfaceCalls, PeerBindCalls):
    """The TSM of one host; it implements `VmmToTsm`.

    `without_tdx_mode` names the IOMMUs that have none; `settings` is what its TPA offers to devices; `rules` those
    that it adds to what is published. With `peer_to_peer` it has this model's own profile of that name.
    """

    def __init__(
        self,
        memory: PhysicalMemory,
        root_complex: RootComplex,
        entropy: Entropy,
        *,
        without_tdx_mode: Collection[int] = (),
        settings: Settings = TPA_SETTINGS,
        rules: LinkRules = CLOSED,
        peer_to_peer: bool = False,
        observer: Observer = ignore,
    ) -> None:
        forbidden = root_complex.forbidden_mmio()
        iommus = {key: iommu for key, iommu in root_complex.iommus.items() if key not in without_tdx_mode}
        self.observer = observer
        self.settings = settings
        agents = {port: agent.trusted for port, agent in root_complex.agents.items()}
        self.records = Records(
            memory,
            iommus,
            root_complex.key_units,
            MmioMetadata(forbidden),
            forbidden,
            entropy,
            PeerRecords(peer_to_peer),
            agents,
            observer,
            rules,
        )
        self._root_complex = root_complex
        for agent in agents.values() if peer_to_peer else ():
            agent.translator = PeerTranslations(self.records)

    # -- what entering a TVM gives to each side (TDH.VP.ENTER, which is not modelled)

    def guest(self, tdr: int) -> TvmToTsm:
        """Give the TDCALLs of a TVM, for the TVM alone."""
        return GuestCalls(self.records, self.records.tvm(tdr))

    def processor(self, tdr: int) -> Processor:
        """Give the loads and stores of a TVM, for the TVM alone."""
        tvm = self.records.tvm(tdr)
        return TvmProcessor(self.records.memory, self._root_complex, tvm.sept, tvm.shared)

    def shared_ept(self, tdr: int) -> SharedEpt:
        """Give the shared EPT of a TVM, for the VMM."""
        return self.records.tvm(tdr).shared


if TYPE_CHECKING:
    _conforms: type[VmmToTsm] = TdxModule
