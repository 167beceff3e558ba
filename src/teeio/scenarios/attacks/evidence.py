"""Attacks on what a TVM accepts: entries 51 to 54 of the catalogue."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from teeio.abi import HypercallResult
from teeio.abi import hypercalls as v
from teeio.abi.operands import PAGE_SIZE, PageLevel
from teeio.device import tdi
from teeio.device.configuration import Configuration
from teeio.device.models.accelerator import Accelerator
from teeio.device.models.model import Region
from teeio.guest.accept import AssignedInterface
from teeio.guest.driver import TRUSTED_REGISTERS
from teeio.host.mmio_metadata import MmioMetadata
from teeio.host.tdx.guest_calls import GuestCalls
from teeio.host.vmm.trusted_mappings import MappedInterface
from teeio.platform import Platform
from teeio.scenarios.journal import Journal
from teeio.scenarios.rogue import Rogue
from teeio.scenarios.scenario import Outcome, Scenario, nothing, without, without_rule
from teeio.scenarios.stage import Stage
from teeio.tdisp import flows, interface, nonces
from teeio.tdisp.messages import DeviceInterfaceReport, InterfaceState, RangeAttributes

PLANTED = bytes.fromhex("bad0c0de")
LOCKS = nonces.ENOUGH
_WEAK_SOURCE = without("a random number generator", interface, "draw_nonce", lambda entropy: entropy(8) + bytes(24))
"""The device under suspicion: 8 bytes of its nonces are random."""


def _predictable_nonce(platform: Platform, journal: Journal) -> Outcome:
    """Lock often and look at the nonces of a device that draws 8 random bytes for each, and of one that draws all 32."""
    stage = Stage(platform, journal)
    outcome = Outcome(f"made a device draw 8 random bytes for each START_INTERFACE_NONCE, and locked it {LOCKS} times")
    with _WEAK_SOURCE.living(), stage.attack("device", "draw nonces that can be guessed"):
        found = nonces.finding(_nonces(stage, "weak"))
        outcome.see(f"the weak device: {found or 'no finding'}", bool(found))
    found = nonces.finding(_nonces(stage, "sound"))
    outcome.see(f"the sound device: {found or 'no finding'}", found is None)
    return outcome


def _nonces(stage: Stage, name: str) -> list[bytes]:
    rogue = Rogue(stage, name)
    rogue.open_session()
    rogue.key_stream()
    drawn = []
    for _ in range(LOCKS):
        drawn.append(rogue.lock())
        rogue.inside(flows.stop_interface(stage.vf.function_id))
    return drawn


def _edited_report(platform: Platform, journal: Journal) -> Outcome:
    """Edit the report on its way from the TSM to the TVM, which the VMM carries."""
    stage = Stage(platform, journal)
    interface = stage.assigned
    outcome = Outcome("edited the interface report on its way to the TVM")
    hypercalls = stage.guest.tvm.vmm
    honest = hypercalls.tdcm_get_tdi_report
    for case, edit in (
        ("the device's own information changed", lambda report: report[:-1] + bytes([report[-1] ^ 1])),
        ("one bit of a range changed", lambda report: report[:20] + bytes([report[20] ^ 1]) + report[21:]),
        ("its last range cut off", _without_last_range),
    ):

        def dishonest(
            call: v.TdcmGetTdiReport, now: float, edit: Callable[[bytes], bytes] = edit
        ) -> HypercallResult[v.TdiReport]:
            result = honest(call, now)
            return HypercallResult(result.status, result.error, v.TdiReport(edit(result.require("TDCM").report)))

        with stage.attack("VMM", f"carry a report with {case}"), stage.instead(hypercalls, honest.__name__, dishonest):
            said = _brought_up(stage, interface)
        outcome.see(f"{case}: {said or 'accepted'}", "not what the TSM received" in said)
        outcome.see(f"{case}: the TDI never ran", "RUN" not in stage.tdi_states())
    said = _brought_up(stage, interface)
    outcome.see("with the true report the TVM accepts", not said)
    return outcome


def _without_last_range(report: bytes) -> bytes:
    """Cut a range off in such a way that what is left is a report."""
    whole = DeviceInterfaceReport.decode(report)
    return replace(whole, ranges=whole.ranges[:-1]).encode()


def _brought_up(stage: Stage, interface: AssignedInterface) -> str:
    """Bring the interface up; give what refused it."""
    return stage.refused(lambda: interface.bring_up(stage.guest.verifier, TRUSTED_REGISTERS, stage.now()))


Placing = Callable[[MappedInterface, int, int, int], None]


def _wrong_mapping(platform: Platform, journal: Journal) -> Outcome:
    """Map the guest's MMIO to other pages than the report's."""
    stage = Stage(platform, journal)
    interface = stage.assigned
    mappings = stage.vmm.pci_tsm.mappings
    honest: Placing = mappings.map_mmio
    own, other = (function.bars[0].address for function in (stage.vf, stage.pf.vfs[1]))
    outcome = Outcome(
        "mapped the pages of a BAR in the wrong order, shifted by one, to another function's BAR, to memory, and all to one"
    )

    def crossed(mapped: MappedInterface, gpa: int, mmio: int, size: int) -> None:
        for offset in range(0, size, PAGE_SIZE):
            honest(mapped, gpa + offset, mmio + offset ^ PAGE_SIZE, PAGE_SIZE)

    def shifted(mapped: MappedInterface, gpa: int, mmio: int, size: int) -> None:
        honest(mapped, gpa, mmio + PAGE_SIZE, size)

    def foreign(mapped: MappedInterface, gpa: int, mmio: int, size: int) -> None:
        honest(mapped, gpa, mmio - own + other, size)

    def overlapping(mapped: MappedInterface, gpa: int, mmio: int, size: int) -> None:
        for offset in range(0, size, PAGE_SIZE):
            honest(mapped, gpa + offset, mmio, PAGE_SIZE)

    def to_memory(mapped: MappedInterface, gpa: int, mmio: int, size: int) -> None:
        try:
            honest(mapped, gpa, PageLevel.PAGE_2M.size, size)
        finally:
            given = [region for region in stage.tsm.records.mmio.regions if region < platform.memory.size]
            outcome.see(f"the host's memory: the TSM takes {len(given)} regions of it for private MMIO", not given)

    for case, placing, wanted in (
        ("pages crossed", crossed, "MMIO_REPORT_MISMATCH"),
        ("shifted by a page", shifted, "MMIO_REPORT_MISMATCH"),
        ("another function", foreign, "MMIO_REPORT_MISMATCH"),
        ("the host's memory", to_memory, "OPERAND_INVALID"),
        ("all on one page", overlapping, "MMIO_INVALID_PAGE_METADATA"),
    ):
        with stage.attack("VMM", f"map the MMIO wrongly: {case}"), stage.instead(mappings, "map_mmio", placing):
            said = _brought_up(stage, interface)
        outcome.see(f"{case}: {said or 'accepted'}", wanted in said)
        outcome.see(f"{case}: the TDI never ran", "RUN" not in stage.tdi_states())
    outcome.see("mapped as reported the TVM accepts", not _brought_up(stage, interface))
    return outcome


def _any_region(self: MmioMetadata, mmio: int, page: int) -> None:
    """Take any memory for MMIO."""
    self._regions[mmio] = page


class _OpenRegisters(Accelerator):
    """An accelerator that reports its registers as non-TEE memory, so that anybody may write them."""

    regions = (
        Region("registers", 0, 0, Accelerator.regions[0].size, RangeAttributes.IS_NON_TEE_MEM),
        *Accelerator.regions[1:],
    )


def _open_registers(platform: Platform, journal: Journal) -> Outcome:
    """Report the registers that the driver trusts as memory for everybody."""
    stage = Stage(platform, journal)
    interface = stage.assigned
    outcome = Outcome("reported the register page as non-TEE memory, and everything else truly")
    with stage.attack("device", "leave the registers open"):
        said = _brought_up(stage, interface)
        outcome.see(f"the TVM: {said or 'accepted'}", "tee-registers" in said)
        outcome.see(f"the TDI is in {stage.state().name}", stage.state() is InterfaceState.CONFIG_UNLOCKED)
    return outcome


_CLAIMED_TABLE = without(
    "the rule that MSI-X pages are reported as such only if locked", tdi, "_reported", lambda a, _: a
)
"""The device under suspicion: it says that it holds an MSI-X table for the TVM, which anybody may write."""


_MESSAGE_DATA = 8
"""Where an entry of the table has the data of its message."""


def _unlocked_msix(platform: Platform, journal: Journal) -> Outcome:
    """Claim an MSI-X table that is not locked; then report it truly."""
    stage = Stage(platform, journal)
    interface = stage.assigned
    outcome = Outcome("reported the pages of an MSI-X table that is not locked as the TVM's table")
    with stage.attack("device", "claim an MSI-X table"), _CLAIMED_TABLE.living():
        said = _brought_up(stage, interface)
        outcome.see(f"the TVM: {said or 'accepted'}", "msix" in said)
        outcome.see(f"the TDI is in {stage.state().name}", stage.state() is InterfaceState.CONFIG_UNLOCKED)
    said = _brought_up(stage, interface)
    outcome.see(f"reported truly: {said or 'accepted'}", not said)
    place = next(
        region
        for region in stage.device.tdi(stage.vf.address).function.regions
        if region.attributes & RangeAttributes.MSIX_TABLE
    )
    private = {found.bar for found in interface.ranges}
    outcome.see(
        f"BARs {sorted(private)} have private pages, the table's BAR {place.bar} has none", place.bar not in private
    )
    table = stage.vf.bars[place.bar].address + place.offset + _MESSAGE_DATA
    platform.root_complex.vmm.mmio_write(table, PLANTED)
    read = platform.root_complex.vmm.mmio_read(table, len(PLANTED))
    outcome.see(
        f"the VMM writes {PLANTED.hex()} to the table and reads {read.hex()}: it is the host's", read == PLANTED
    )
    return outcome


EVIDENCE = (
    Scenario(
        51,
        "predictable-nonce",
        "the device draws START_INTERFACE_NONCEs that can be guessed",
        "device",
        "lock",
        "PCIe Base 11.3.9: the nonce is random; shown by comparing those of many locks",
        _predictable_nonce,
        (without("the comparison of many nonces", nonces, "constant_positions", lambda _: []),),
    ),
    Scenario(
        52,
        "edited-report",
        "the VMM edits the interface report on its way to the TVM",
        "VMM",
        "attest",
        "the TSM vouches for the report it received by its digest; the TVM compares",
        _edited_report,
        (without_rule("evidence-digests"),),
    ),
    Scenario(
        53,
        "wrong-mapping",
        "the VMM maps the guest's MMIO to other pages than those reported",
        "VMM",
        "accept",
        "TDG.MMIO.ACCEPT: every mapping leads to exactly the reported page of this interface",
        _wrong_mapping,
        (
            without("the TSM's comparison of mapping and report", GuestCalls, "_check_mapping", nothing),
            without("the rule where private MMIO may lie", MmioMetadata, "add", _any_region),
        ),
    ),
    Scenario(
        54,
        "open-registers",
        "the device reports the register page as non-TEE memory",
        "device",
        "accept",
        "PCIe Base 11.3.11: IS_NON_TEE_MEM; the TVM's policy on the pages that its driver trusts",
        _open_registers,
        (without_rule("tee-registers"),),
        options={"configuration": Configuration(model=_OpenRegisters)},
    ),
    Scenario(
        54,
        "unlocked-msix",
        "the device reports an MSI-X table that is not locked as the TVM's",
        "device",
        "accept",
        "PCIe Base 11.3.11: MSI-X pages are reported as such only if locked; else the range stays shared",
        _unlocked_msix,
        (without_rule("msix"),),
    ),
)
