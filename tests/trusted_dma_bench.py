"""The trusted tables of one IOMMU with pages of the VMM, for tests that make the TSM's moves by hand."""

from teeio.abi.operands import PAGE_SIZE, DmarLevel, Invalidation
from teeio.host.dmar_tables import offered, qwords
from teeio.host.memory import TSM, PhysicalMemory
from teeio.host.secure_ept import SecureEpt, SharedEpt
from teeio.host.tdx.trusted_tables import TrustedTables
from teeio.host.trusted_remapping import SecondStage, TrustedRemapping

SETUP_PAGES = 3
TABLE_PAGES = 3
"""Pages below the root table on the way to the first interface; others in the same half of a bus share the first."""

FOR_TABLES = (DmarLevel.ROOT, DmarLevel.CONTEXT, DmarLevel.PASID_DIRECTORY)


class TablesBench:
    """Tables in TDX mode; pages come from the VMM's allocator."""

    def __init__(self, unit: TrustedRemapping, memory: PhysicalMemory) -> None:
        self.memory = memory
        self.tables = TrustedTables(unit, memory)
        self.pages = tuple(memory.vmm.allocate() for _ in range(SETUP_PAGES))
        for page in self.pages:
            memory.assign(page, TSM)
        self.tables.set_up(*self.pages)

    def add(self, level: DmarLevel, requester_id: int, page: int = 0, second: SecondStage | None = None) -> None:
        """Add one entry."""
        self.tables.add(level, requester_id, qwords(offered(level, page)), second)

    def lead(self, requester_id: int, sept: SecureEpt, shared: SharedEpt) -> None:
        """Add what is missing on the way to a TVM, its PASID entry pending."""
        self.prepare(requester_id)
        self.add(DmarLevel.PASID, requester_id, 0, SecondStage(sept, shared))

    def prepare(self, requester_id: int) -> None:
        """Add what is missing of the tables above a requester's PASID entry."""
        present = {(level, lowest) for level, lowest, _ in self.tables.entries()}
        for level in FOR_TABLES:
            lowest = requester_id & -128 if level is DmarLevel.ROOT else requester_id
            if (level, lowest) not in present:
                self.add(level, requester_id, self.memory.vmm.allocate())

    def flush(self, kind: Invalidation, target: int, owner: int = 0) -> None:
        """Ask for an invalidation, and wait for it."""
        self.tables.request(kind, target, owner)
        self.tables.process()

    def take_away(self, level: DmarLevel, requester_id: int) -> tuple[int, ...]:
        """Block, invalidate and remove one entry."""
        self.tables.block(level, requester_id)
        self.flush(Invalidation[level.name], requester_id)
        return self.tables.remove(level, requester_id)


def tdr_of(number: int) -> int:
    """Give an address for the root page of a TVM, above all memory of tests."""
    return 0x1000_0000 + number * PAGE_SIZE
