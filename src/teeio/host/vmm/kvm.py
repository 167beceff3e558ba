"""TVMs as the VMM makes and runs them: root page, private and shared memory, assigned functions (TDX; Linux KVM).

The VMM gives pages and takes them back; what a private page holds it never sees. Guest-physical memory starts at 0.
Each 4 KiB page of it is private, pending until the guest accepts it, or shared; the guest asks for conversions. What the
guest asks for by hypercall is answered in `hypercalls`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import NamedTuple

from teeio.abi import VmmToTsm
from teeio.abi import memory_seamcalls as m
from teeio.abi.operands import ECAM, GPA_SHARED_BIT, PAGE_SIZE, PageLevel
from teeio.abi.statuses import Status
from teeio.errors import Misuse
from teeio.host.iommu import Domain
from teeio.host.memory import VmmMemory
from teeio.host.root_complex import Interrupt
from teeio.host.secure_ept import SharedEpt
from teeio.host.vmm.guest_function import GuestFunction, guest_address
from teeio.host.vmm.pci_tsm import PciTsm
from teeio.host.vmm.teardown import Teardown
from teeio.host.vmm.vfio import Unit, Vfio
from teeio.pcie.address import Bdf

FIRST_GUEST_DEVICE = 1
LAST_GUEST_DEVICE = 31
"""Places of assigned functions on bus 0 of the guest: function 0 of these devices."""


class TakenPage(NamedTuple):
    """A page that was a TVM's and is the VMM's again."""

    gpa: int
    hpa: int
    level: PageLevel


def _nobody(vector: int) -> None:
    return None


class GuestMachine:
    """One TVM as the VMM knows it.

    `on_interrupt` is told the vectors of interrupts; set it when the guest runs. `exits` counts hypercalls by name.
    """

    def __init__(self, name: str, tdr: int, shared_ept: SharedEpt, memory_size: int, huge_pages: bool) -> None:
        self.name = name
        self.tdr = tdr
        self.shared_ept = shared_ept
        self.memory_size = memory_size
        self.huge_pages = huge_pages
        self.domain = Domain()
        self.exits: Counter[str] = Counter()
        self.on_interrupt: Callable[[int], None] = _nobody
        self.private: dict[int, PageLevel] = {}
        self.shared: dict[int, int] = {}
        self.functions: dict[Bdf, GuestFunction] = {}
        self.units: dict[Bdf, Unit] = {}
        self.teardown: Teardown | None = None

    def interrupt(self, vector: int) -> None:
        """Tell the guest of an interrupt."""
        self.on_interrupt(vector)

    def function_named(self, function_id: int) -> GuestFunction | None:
        """Find an assigned function by its FUNCTION_ID."""
        return next((f for f in self.functions.values() if f.function.function_id == function_id), None)


class Kvm:
    """The TVMs of one host; `shared_ept` gives the shared EPT that belongs to a root page."""

    def __init__(
        self,
        tsm: VmmToTsm,
        memory: VmmMemory,
        shared_ept: Callable[[int], SharedEpt],
        pci_tsm: PciTsm,
        vfio: Vfio,
    ) -> None:
        self._tsm = tsm
        self._memory = memory
        self._shared_ept = shared_ept
        self._pci_tsm = pci_tsm
        self._vfio = vfio
        self.machines: dict[int, GuestMachine] = {}

    # -- life of a TVM

    def create(
        self,
        name: str,
        memory_size: int,
        image: Mapping[int, bytes] | None = None,
        *,
        tdx_connect: bool = True,
        huge_pages: bool = False,
    ) -> GuestMachine:
        """Make a TVM of `memory_size` bytes and finalise it; `image` is its first contents, page by page.

        With `huge_pages` memory comes in pages of 2 MiB where it can; those that the TVM shares parts of are split.
        Raises `CallRefused`, `Misuse`; nothing is left behind then.
        """
        if memory_size <= 0 or memory_size % PAGE_SIZE or memory_size > ECAM.start:
            raise Misuse(f"a TVM of {memory_size:#x} bytes", remedy=f"give whole pages, {ECAM.start:#x} at most")
        with ExitStack() as undo:
            tdr = self._memory.allocate()
            ours = undo.enter_context(ExitStack())
            ours.callback(self._memory.free, tdr)
            self._tsm.tdh_mng_create(m.TdhMngCreate(tdr=tdr)).require("TDH.MNG.CREATE")
            ours.pop_all()
            machine = GuestMachine(name, tdr, self._shared_ept(tdr), memory_size, huge_pages)
            undo.callback(self._end, machine)
            self._tsm.tdh_mng_init(m.TdhMngInit(tdr=tdr, tdx_connect=tdx_connect)).require("TDH.MNG.INIT")
            for gpa, contents in sorted((image or {}).items()):
                self._add(machine, gpa, contents)
            self._tsm.tdh_mr_finalize(m.TdhMrFinalize(tdr=tdr)).require("TDH.MR.FINALIZE")
            for gpa, level in self._missing(machine):
                self._augment(machine, gpa, level)
            self._tsm.tdh_mem_shared_sept_wr(m.TdhMemSharedSeptWr(tdr=tdr, present=True)).require(
                "TDH.MEM.SHARED.SEPT.WR"
            )
            undo.pop_all()
        self.machines[tdr] = machine
        return machine

    def destroy(self, machine: GuestMachine, now: float) -> None:
        """End a TVM: its functions are taken back, its memory and its root page are the VMM's again, and free."""
        for address in list(machine.functions):
            self.remove_function(machine, address, now)
        self._end(machine)
        self.machines.pop(machine.tdr, None)

    def _end(self, machine: GuestMachine) -> None:
        """Take all memory from a TVM and end it; its root page is the VMM's then, and free."""
        shared = list(machine.shared)
        with self._withdrawn(machine, shared):
            for gpa in shared:
                self._memory.free(machine.shared.pop(gpa))
        for taken in self._take_private(machine, list(machine.private)):
            self._memory.free(taken.hpa, taken.level.size)
        machine.teardown = machine.teardown or Teardown(
            [partial(self._free_key, machine.tdr), partial(self._reclaim, machine.tdr)]
        )
        machine.teardown.run()

    def _free_key(self, tdr: int) -> None:
        self._tsm.tdh_mng_key_freeid(m.TdhMngKeyFreeid(tdr=tdr)).require("TDH.MNG.KEY.FREEID")

    def _reclaim(self, tdr: int) -> None:
        self._tsm.tdh_phymem_page_reclaim(m.TdhPhymemPageReclaim(hpa=tdr)).require("TDH.PHYMEM.PAGE.RECLAIM")
        self._memory.free(tdr)

    # -- memory

    def _add(self, machine: GuestMachine, gpa: int, contents: bytes) -> None:
        """Add a page with first contents."""
        if gpa % PAGE_SIZE or not 0 <= gpa < machine.memory_size or len(contents) > PAGE_SIZE:
            raise Misuse(
                f"first contents of {len(contents)} bytes at {gpa:#x}", remedy="give whole pages of the memory"
            )
        with ExitStack() as undo:
            source = self._memory.allocate()
            undo.callback(self._memory.free, source)
            page = self._memory.allocate()
            failed = undo.enter_context(ExitStack())
            failed.callback(self._memory.free, page)
            self._memory.write(source, contents)
            self._tsm.tdh_mem_page_add(m.TdhMemPageAdd(tdr=machine.tdr, gpa=gpa, hpa=page, source=source)).require(
                "TDH.MEM.PAGE.ADD"
            )
            failed.pop_all()
        machine.private[gpa] = PageLevel.PAGE_4K

    def _augment(self, machine: GuestMachine, gpa: int, level: PageLevel) -> None:
        """Add pending memory."""
        with ExitStack() as undo:
            page = self._memory.allocate(level.size, level.size)
            undo.callback(self._memory.free, page, level.size)
            self._give(machine, gpa, level, page)
            undo.pop_all()

    def _give(self, machine: GuestMachine, gpa: int, level: PageLevel, page: int) -> None:
        """Make a page of the VMM's pending memory. Raises `CallRefused`."""
        call = m.TdhMemPageAug(tdr=machine.tdr, gpa=gpa, hpa=page, level=level)
        self._tsm.tdh_mem_page_aug(call).require("TDH.MEM.PAGE.AUG")
        machine.private[gpa] = level

    def _missing(self, machine: GuestMachine) -> Iterator[tuple[int, PageLevel]]:
        """List the memory that is neither private nor shared yet, in the largest pages wanted."""
        gpa, huge = 0, PageLevel.PAGE_2M
        while gpa < machine.memory_size:
            whole = machine.huge_pages and not gpa % huge.size and gpa + huge.size <= machine.memory_size
            if whole and not any(page in machine.private for page in range(gpa, gpa + huge.size, PAGE_SIZE)):
                yield gpa, huge
                gpa += huge.size
                continue
            if gpa not in machine.private:
                yield gpa, PageLevel.PAGE_4K
            gpa += PAGE_SIZE

    def _take_private(self, machine: GuestMachine, gpas: list[int]) -> Iterator[TakenPage]:
        """Take private pages from a TVM: block all, flush once, remove one by one.

        Raises `CallRefused` if the TSM keeps one; done again, it goes on where it stopped.
        """
        self._block(machine, gpas)
        for gpa in gpas:
            level = machine.private[gpa]
            remove = m.TdhMemPageRemove(tdr=machine.tdr, gpa=gpa, level=level)
            removed = self._tsm.tdh_mem_page_remove(remove).require("TDH.MEM.PAGE.REMOVE")
            del machine.private[gpa]
            yield TakenPage(gpa, removed.pages[0], level)

    def _block(self, machine: GuestMachine, gpas: list[int]) -> None:
        """Block private pages, and let all translation caches forget them."""
        for gpa in gpas:
            call = m.TdhMemRangeBlock(tdr=machine.tdr, gpa=gpa, level=machine.private[gpa])
            blocked = self._tsm.tdh_mem_range_block(call)
            if blocked.status is not Status.EPT_ENTRY_STATE_INCORRECT:  # a page that is blocked already is as wanted
                blocked.require("TDH.MEM.RANGE.BLOCK")
        if gpas:
            self._pci_tsm.mappings.flush_tvm(machine.tdr)

    def share(self, machine: GuestMachine, gpa: int, size: int) -> None:
        """Make guest memory shared: private pages are taken away and, scrubbed, are the VMM's from then on."""
        gpas = self._convertible(machine, gpa, size)
        self._split(machine, sorted({page & -PageLevel.PAGE_2M.size for page in gpas}))
        for taken in self._take_private(machine, [one for one in gpas if one in machine.private]):
            self._map_shared(machine, taken.gpa, taken.hpa)

    def unshare(self, machine: GuestMachine, gpa: int, size: int) -> None:
        """Make guest memory private again, pending until the guest accepts it.

        Raises `CallRefused` if the TSM does not take a page; what is not private then is shared as it was.
        """
        gpas = [one for one in self._convertible(machine, gpa, size) if one in machine.shared]
        with self._withdrawn(machine, gpas):
            for one in gpas:
                self._give(machine, one, PageLevel.PAGE_4K, machine.shared[one])
                del machine.shared[one]

    def _convertible(self, machine: GuestMachine, gpa: int, size: int) -> range:
        """Check that these are whole 4 KiB pages of the TVM's memory. Raises `Misuse`."""
        pages = range(gpa, gpa + size, PAGE_SIZE)
        if gpa % PAGE_SIZE or size % PAGE_SIZE or size <= 0 or not 0 <= gpa <= machine.memory_size - size:
            raise Misuse(f"{size:#x} bytes at guest address {gpa:#x} are not whole pages of its memory")
        for page in pages:
            large = machine.private.get(page & -PageLevel.PAGE_2M.size) is PageLevel.PAGE_2M
            if not large and page not in machine.private and page not in machine.shared:
                raise Misuse(f"guest memory at {page:#x} was lost in an earlier conversion", remedy="end the TVM")
        return pages

    def _split(self, machine: GuestMachine, gpas: list[int]) -> None:
        """Split those of these pages that are of 2 MiB: block all, flush once, demote one by one. Raises `CallRefused`."""
        large, small = PageLevel.PAGE_2M, PageLevel.PAGE_4K
        gpas = [gpa for gpa in gpas if machine.private.get(gpa) is large]
        self._block(machine, gpas)
        for gpa in gpas:
            self._tsm.tdh_mem_page_demote(m.TdhMemPageDemote(tdr=machine.tdr, gpa=gpa)).require("TDH.MEM.PAGE.DEMOTE")
            machine.private.update(dict.fromkeys(range(gpa, gpa + large.size, small.size), small))

    def _map_shared(self, machine: GuestMachine, gpa: int, page: int) -> None:
        """Let guest and untrusted DMA reach a page; drivers use its address with and without the shared bit."""
        machine.shared[gpa] = page
        machine.shared_ept.map(gpa, page)
        machine.domain.map(gpa, page)
        machine.domain.map(gpa | GPA_SHARED_BIT, page)

    @contextmanager
    def _withdrawn(self, machine: GuestMachine, gpas: list[int]) -> Iterator[None]:
        """Take shared pages out of reach and out of all translation caches; those that stay shared are mapped again.

        A device may have reached them with T=1, so that an IOTLB leads there until it is told to forget.
        """
        try:
            for gpa in gpas:
                machine.shared_ept.unmap(gpa)
                machine.domain.unmap(gpa)
                machine.domain.unmap(gpa | GPA_SHARED_BIT)
            if gpas:
                self._pci_tsm.mappings.flush_tvm(machine.tdr)
            yield
        finally:
            for gpa in gpas:
                if gpa in machine.shared:
                    self._map_shared(machine, gpa, machine.shared[gpa])

    # -- assigned functions

    def assign(self, machine: GuestMachine, unit: Unit) -> GuestFunction:
        """Put a unit into the guest's PCI tree, for untrusted use until the guest locks and accepts it."""
        place = next((Bdf(0, 0, n, 0) for n in _PLACES if Bdf(0, 0, n, 0) not in machine.functions), None)
        if place is None:
            raise Misuse(f"{machine.name} has no place for another function")

        def bus_master(on: bool) -> None:
            """Let the guest's Bus Master Enable rule T=0 DMA; the trusted entry of T=1 is not the VMM's to open again."""
            if on:
                self._vfio.open(unit, machine.domain)
            else:
                self._vfio.close(unit)

        guest_function = GuestFunction(unit.function, place, machine.interrupt, bus_master)
        self._vfio.claim(unit)
        machine.functions[place] = guest_function
        machine.units[place] = unit
        for bar in unit.function.bars.values():
            if not guest_function.holds_msix(bar):
                machine.shared_ept.map(guest_address(bar), bar.address, max(bar.size, PAGE_SIZE))
        return guest_function

    def remove_function(self, machine: GuestMachine, place: Bdf, now: float) -> None:
        """Take a function from the guest's PCI tree: unbound if need be, reset, free for the next one.

        Where it is the device's DSM, the device is disconnected: the reset would end its streams anyway.
        """
        guest_function, unit = machine.functions[place], machine.units[place]
        if self._pci_tsm.is_bound(unit.function):
            self._pci_tsm.unbind(unit.function, now)
        if unit.function.address in self._pci_tsm.connections:
            self._pci_tsm.disconnect(unit.function, now)
        for bar in unit.function.bars.values():
            if not guest_function.holds_msix(bar):
                machine.shared_ept.unmap(guest_address(bar), max(bar.size, PAGE_SIZE))
        self._vfio.release(unit)
        del machine.functions[place], machine.units[place]

    def interrupt(self, interrupt: Interrupt) -> None:
        """Take an interrupt to whoever has the function; others are spurious."""
        for machine in self.machines.values():
            guest_function = machine.function_named(interrupt.requester_id)
            if guest_function is not None:
                guest_function.interrupt(interrupt)


_PLACES = range(FIRST_GUEST_DEVICE, LAST_GUEST_DEVICE + 1)
