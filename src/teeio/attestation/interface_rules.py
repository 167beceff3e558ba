"""Rules on the locked interface: its state and lock, and whether its report fits the mappings and the driver."""

from __future__ import annotations

from itertools import pairwise

from teeio.attestation.expectations import PlacedRange, RegisterWindow
from teeio.attestation.rule import Case, Judgement, Profile, Rule, all_of, failed, passed, unchecked
from teeio.tdisp.messages import (
    PAGE_SIZE,
    DeviceInterfaceReport,
    InterfaceInfo,
    InterfaceState,
    LockFlags,
    MmioRange,
    RangeAttributes,
)

PAGE_LIMIT = (1 << 64) // PAGE_SIZE
"""Pages of a 64-bit address space."""

_MSIX = RangeAttributes.MSIX_TABLE | RangeAttributes.MSIX_PBA


# -- the lock ----------------------------------------------------------------------------------------------------------


def _state(case: Case) -> Judgement:
    state = case.evidence.statement.state
    if state != InterfaceState.CONFIG_LOCKED:
        known = {int(member): member.name for member in InterfaceState}
        return failed(f"the interface is in {known.get(state, hex(state))}, must be in CONFIG_LOCKED")
    return passed("the interface is in CONFIG_LOCKED")


def _lock_binding(case: Case) -> Judgement:
    collected, now = case.evidence.bind_session_id, case.evidence.statement.bind_session_id
    start = case.expectations.bind_session_id
    if not start:
        return failed("no lock is named that would be started")
    problems = []
    if collected != start:
        problems.append(f"the evidence was collected under lock {collected:#x}, lock {start:#x} would be started")
    if now != start:
        problems.append(f"lock {now:#x} holds now, lock {start:#x} would be started")
    return all_of(problems, f"the evidence belongs to lock {start:#x}, which will be started")


def _lock_flags(case: Case) -> Judgement:
    flags, required = LockFlags(case.evidence.statement.lock_flags), case.expectations.required_lock_flags
    problems = [f"lock flag {flag.name} is not set" for flag in required if not flags & flag]
    if reserved := int(flags) & ~int(LockFlags.defined()):
        problems.append(f"reserved lock flags {reserved:#x} are set")
    no_update = case.report.info & InterfaceInfo.NO_FW_UPDATE_WHILE_LOCKED
    if flags & LockFlags.NO_FW_UPDATE and not no_update:
        problems.append("NO_FW_UPDATE was asked for, but the report says that firmware may be updated while locked")
    return all_of(problems, f"the lock has {flags.name or 0}")


def _tdx_lock_flags(case: Case) -> Judgement:
    flags = case.evidence.statement.lock_flags
    extra = flags & ~int(LockFlags.NO_FW_UPDATE)
    if extra:
        return failed(f"lock flags {LockFlags(extra)!r} are set, TDX Connect uses NO_FW_UPDATE only")
    return passed("no lock flag beyond NO_FW_UPDATE is set")


# -- the report --------------------------------------------------------------------------------------------------------


def interface_info_problems(report: DeviceInterfaceReport, *, peer_to_peer: bool = False) -> list[str]:
    """Say what of INTERFACE_INFO TDX Connect does not take (TDX module, tdisp.c; Device Guide, appendix A).

    The model's own `peer_to_peer` profile needs ATS, as BIND_P2P does (PCIe Base 11.3.18).
    """
    needed = InterfaceInfo.DMA_WITHOUT_PASID | (InterfaceInfo.ATS_ENABLED if peer_to_peer else InterfaceInfo.NONE)
    refused = (InterfaceInfo.DMA_WITH_PASID | InterfaceInfo.ATS_ENABLED | InterfaceInfo.PRS_ENABLED) & ~needed
    problems = [f"INTERFACE_INFO lacks {flag.name}" for flag in needed if not report.info & flag]
    return problems + [f"INTERFACE_INFO has {flag.name}" for flag in refused if report.info & flag]


def control_problems(report: DeviceInterfaceReport) -> list[str]:
    """Say what of the report's controls TDX Connect does not take (ibid.)."""
    controls = {
        "MSI_X_MESSAGE_CONTROL": report.msi_x_message_control,
        "LNR_CONTROL": report.lnr_control,
        "TPH_CONTROL": report.tph_control,
    }
    return [f"{name} is {value:#x}, must be 0" for name, value in controls.items() if value]


def _tdx_interface_info(case: Case) -> Judgement:
    return all_of(interface_info_problems(case.report), "DMA is without PASID, ATS and PRS")


def _peers_lock_flags(case: Case) -> Judgement:
    flags = case.evidence.statement.lock_flags
    wanted = LockFlags.NO_FW_UPDATE | LockFlags.BIND_P2P
    if flags != wanted:
        return failed(f"lock flags {LockFlags(flags)!r} are set, the peer-to-peer profile uses {wanted!r}")
    return passed("the lock has NO_FW_UPDATE and BIND_P2P")


def _peers_interface_info(case: Case) -> Judgement:
    return all_of(interface_info_problems(case.report, peer_to_peer=True), "DMA is without PASID and PRS, with ATS")


def _tdx_controls(case: Case) -> Judgement:
    return all_of(control_problems(case.report), "MSI-X, LNR and TPH controls are 0")


def _msix(case: Case) -> Judgement:
    report = case.report
    if case.evidence.statement.lock_flags & LockFlags.LOCK_MSIX:
        return passed("the MSI-X table is locked")
    problems = []
    if report.msi_x_message_control:
        problems.append("MSI_X_MESSAGE_CONTROL is not 0, though the MSI-X table is not locked")
    problems += [
        f"{_name(at, part)} claims to hold the MSI-X table or PBA, which is not locked"
        for at, part in enumerate(report.ranges)
        if part.attributes & _MSIX
    ]
    return all_of(problems, "nothing relies on an MSI-X table that is not locked")


def _ranges(case: Case) -> Judgement:
    ranges = case.report.ranges
    problems = []
    for at, part in enumerate(ranges):
        if not part.pages:
            problems.append(f"{_name(at, part)} is empty")
        if _end(part) > PAGE_LIMIT:
            problems.append(f"{_name(at, part)} ends beyond the address space")
    for at, (left, right) in enumerate(pairwise(ranges), 1):
        if (right.range_id, right.first_page) < (left.range_id, left.first_page):
            problems.append(f"{_name(at, right)} is out of order: ranges ascend by BAR and page")
    by_page = sorted(enumerate(ranges), key=lambda item: item[1].first_page)
    for (left_at, left), (right_at, right) in pairwise(by_page):
        if _end(left) > right.first_page:
            problems.append(f"{_name(right_at, right)} overlaps {_name(left_at, left)}")
    if case.evidence.statement.mmio_reporting_offset % PAGE_SIZE:
        problems.append(
            f"MMIO_REPORTING_OFFSET {case.evidence.statement.mmio_reporting_offset:#x} is no multiple of a page"
        )
    return all_of(problems, f"{len(ranges)} ranges ascend and do not overlap")


def _end(part: MmioRange) -> int:
    return part.first_page + part.pages


def _name(at: int, part: MmioRange) -> str:
    return f"range {at} (BAR {part.range_id}, page {part.first_page:#x}, {part.pages} pages)"


def _is_tee(part: MmioRange) -> bool:
    return not part.attributes & RangeAttributes.IS_NON_TEE_MEM


# -- the mappings ------------------------------------------------------------------------------------------------------


def _mapped(case: Case) -> Judgement:
    mapped = case.expectations.mapped
    if mapped is None:
        return unchecked("it is not known what MMIO is mapped for the TVM")
    tee = [(at, part) for at, part in enumerate(case.report.ranges) if _is_tee(part)]
    problems = [_unbacked(one) for one in mapped if not any(_within(one, part) for _, part in tee)]
    for at, part in tee:
        inside = sorted((one for one in mapped if _within(one, part)), key=lambda one: one.report_page)
        problems += _gaps(at, part, inside)
    problems += _guest_overlaps(mapped) + _shifts(mapped)
    return all_of(problems, f"{len(tee)} TEE ranges fit the BARs that the TVM sees, each page once")


def _within(one: PlacedRange, part: MmioRange) -> bool:
    return one.bar == part.range_id and part.first_page <= one.report_page and one.report_page + one.pages <= _end(part)


def _unbacked(one: PlacedRange) -> str:
    return f"guest page {one.gpa_page:#x} (BAR {one.bar}, {one.pages} pages) is not backed by a TEE range of the device"


def _gaps(at: int, part: MmioRange, inside: list[PlacedRange]) -> list[str]:
    problems, expected = [], part.first_page
    for one in inside:
        if one.report_page != expected:
            kind = "not mapped" if one.report_page > expected else "mapped twice"
            problems.append(f"{_name(at, part)}: page {min(one.report_page, expected):#x} is {kind}")
        expected = max(expected, one.report_page + one.pages)
    if expected != _end(part):
        problems.append(f"{_name(at, part)}: from page {expected:#x} on it is not mapped")
    return problems


def _guest_overlaps(mapped: tuple[PlacedRange, ...]) -> list[str]:
    in_order = sorted(mapped, key=lambda one: one.gpa_page)
    return [
        f"guest page {right.gpa_page:#x} is mapped twice"
        for left, right in pairwise(in_order)
        if left.gpa_page + left.pages > right.gpa_page
    ]


def _shifts(mapped: tuple[PlacedRange, ...]) -> list[str]:
    """Find BARs whose pages the guest sees in another order or at another distance than the device has them."""
    shifts: dict[int, set[int]] = {}
    for one in mapped:
        shifts.setdefault(one.bar, set()).add(one.gpa_page - one.report_page)
    return [f"BAR {bar}: its ranges are mapped out of place" for bar, found in shifts.items() if len(found) > 1]


def _registers(case: Case) -> Judgement:
    windows = case.expectations.registers
    if windows is None:
        return unchecked("it is not known which registers the driver trusts")
    ranges = case.report.ranges
    problems = [problem for window in windows if (problem := _unprotected(window, ranges))]
    return all_of(problems, f"{len(windows)} register windows are TEE memory")


def _unprotected(window: RegisterWindow, ranges: tuple[MmioRange, ...]) -> str | None:
    own = sorted((part for part in ranges if part.range_id == window.bar), key=lambda part: part.first_page)
    if not own:
        return f"BAR {window.bar} is not in the report"
    page = own[0].first_page + window.first_page
    end = page + window.pages
    for part in own:
        if page < end and part.first_page <= page < _end(part):
            if not _is_tee(part):
                return f"BAR {window.bar}: page {page:#x} of the driver's registers is non-TEE memory"
            page = _end(part)
    return None if page >= end else f"BAR {window.bar}: page {page:#x} of the driver's registers is not in the report"


INTERFACE_RULES = (
    Rule(
        "interface-state",
        "The interface is locked and not yet started",
        "the device is unlocked or in error while its evidence is judged",
        "PCIe Base 11.2",
        _state,
    ),
    Rule(
        "lock-binding",
        "The evidence belongs to the lock that will be started",
        "the VMM stops and locks the interface again between evidence and accept",
        "PCIe Base 11.3.9: nonce of the lock",
        _lock_binding,
    ),
    Rule(
        "lock-flags",
        "The lock has the required flags",
        "the VMM locks without NO_FW_UPDATE, so that firmware changes after it was measured",
        "PCIe Base 11.3.8: FLAGS",
        _lock_flags,
    ),
    Rule(
        "tdx-lock-flags",
        "The lock has no flag beyond NO_FW_UPDATE",
        "the VMM turns on peer-to-peer or other features behind the TVM's back",
        "TDX Connect: LOCK flags",
        _tdx_lock_flags,
        profile=Profile.TDX,
    ),
    Rule(
        "tdx-interface-info",
        "DMA is without PASID, ATS and PRS",
        "DMA reaches memory by a way that the TSM does not control",
        "PCIe Base 11.3.11: INTERFACE_INFO; TDX Connect",
        _tdx_interface_info,
        profile=Profile.TDX,
    ),
    Rule(
        "tdx-controls",
        "MSI-X, LNR and TPH controls are 0",
        "interrupts or hints are steered by registers that the TSM does not control",
        "PCIe Base 11.3.11; TDX Connect",
        _tdx_controls,
        profile=Profile.TDX,
    ),
    Rule(
        "peers-lock-flags",
        "The lock has NO_FW_UPDATE and BIND_P2P and nothing else",
        "the VMM turns on other features behind the TVM's back",
        "this model's peer-to-peer profile: LOCK flags",
        _peers_lock_flags,
        profile=Profile.PEERS,
    ),
    Rule(
        "peers-interface-info",
        "DMA is without PASID and PRS, with ATS",
        "DMA reaches memory by a way that the TSM does not control",
        "PCIe Base 11.3.11: INTERFACE_INFO; this model's peer-to-peer profile",
        _peers_interface_info,
        profile=Profile.PEERS,
    ),
    Rule(
        "peers-controls",
        "MSI-X, LNR and TPH controls are 0, with peer-to-peer too",
        "interrupts or hints are steered by registers that the TSM does not control",
        "PCIe Base 11.3.11; this model's peer-to-peer profile",
        _tdx_controls,
        profile=Profile.PEERS,
    ),
    Rule(
        "msix",
        "Nothing relies on an MSI-X table that is not locked",
        "the VMM edits an MSI-X table that the TVM believes to be locked",
        "PCIe Base 11.3.11: MSI_X_MESSAGE_CONTROL, range attributes",
        _msix,
    ),
    Rule(
        "report-ranges",
        "The report's ranges ascend and do not overlap",
        "an MMIO offset or a crafted report makes one range alias another",
        "PCIe Base 11.3.11: MMIO ranges",
        _ranges,
    ),
    Rule(
        "placed-ranges",
        "The report's TEE ranges fit the BARs that the TVM sees",
        "a report leads the TVM to accept guest MMIO that is missing, shifted, in another order or there twice",
        "PCIe Base 11.3.11; what is mapped there the TSM compares with the report in TDG.MMIO.ACCEPT",
        _mapped,
    ),
    Rule(
        "tee-registers",
        "The registers that the driver trusts are TEE memory",
        "a report marks a register page as non-TEE memory, so that the VMM can reach it",
        "PCIe Base 11.3.11: IS_NON_TEE_MEM",
        _registers,
    ),
)
