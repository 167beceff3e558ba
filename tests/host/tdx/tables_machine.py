"""One IOMMU in TDX mode and a TVM with a page, for tests of the trusted tables and of their invalidation."""

import pytest

from teeio.abi.operands import PAGE_SIZE, DmarLevel, DmarState, PageLevel
from teeio.abi.statuses import Status
from teeio.crypto.entropy import SeededEntropy
from teeio.errors import Reject
from teeio.host.dmar_tables import state_of
from teeio.host.memory import TSM, PhysicalMemory
from teeio.host.mmio_metadata import MmioMetadata
from teeio.host.secure_ept import SecureEpt, SharedEpt
from teeio.host.tdx.trusted_tables import DmarMove
from teeio.host.trusted_remapping import SecondStage, TrustedRemapping
from trusted_dma_bench import TablesBench, tdr_of

RID = 0x0100
GPA = 0x10_0000
K4 = PageLevel.PAGE_4K
TO_TABLES = (DmarLevel.ROOT, DmarLevel.CONTEXT, DmarLevel.PASID_DIRECTORY)


class Machine:
    """One IOMMU in TDX mode, and a TVM with a private page at GPA."""

    def __init__(self) -> None:
        self.memory = PhysicalMemory(32 * PAGE_SIZE, SeededEntropy(b"tables"))
        self.unit = TrustedRemapping("iommu0", self.memory)
        self.bench = TablesBench(self.unit, self.memory)
        self.tables = self.bench.tables
        self.sept = SecureEpt(self.memory, self.memory.create_owner(), tdr_of(1), MmioMetadata(()))
        self.second = SecondStage(self.sept, SharedEpt())
        self.private = self.memory.vmm.allocate()
        self.sept.augment(GPA, self.private, K4)
        self.sept.accept(GPA, K4)

    def above(self, level: DmarLevel) -> None:
        """Add the tables above an entry of this level."""
        for one in TO_TABLES[: DmarLevel.ROOT - level]:
            self.bench.add(one, RID, self.memory.vmm.allocate())

    def bind(self) -> None:
        self.bench.lead(RID, self.sept, self.second.shared)
        self.tables.accept(RID, self.sept.tdr)

    def reaches(self) -> bool:
        return self.unit.translate(RID, GPA) == (self.private, self.sept.owner)

    def state(self, level: DmarLevel) -> DmarState:
        return state_of(self.tables.read(level, RID))

    def make(self, move: DmarMove, level: DmarLevel) -> None:
        if move is DmarMove.ADD:
            leaf = level is DmarLevel.PASID
            self.bench.add(level, RID, 0 if leaf else self.memory.vmm.allocate(), self.second if leaf else None)
        elif move is DmarMove.ACCEPT:
            self.tables.accept(RID, self.sept.tdr)
        elif move is DmarMove.BLOCK:
            self.tables.block(level, RID)
        else:
            self.tables.remove(level, RID)

    def image(self) -> object:
        """Everything that a refused move must leave as it was."""
        view = self.memory.view(TSM)
        owners = bytes(self.memory._owners)
        tables = [view.read(page * PAGE_SIZE, PAGE_SIZE) for page, owner in enumerate(owners) if owner == TSM]
        return tables, dict(self.unit.second_stages), self.tables.waiting, dict(self.sept._caches)


def refused(*statuses: Status) -> pytest.RaisesExc[Reject]:
    return pytest.RaisesExc(Reject, check=lambda error: error.code in statuses)
