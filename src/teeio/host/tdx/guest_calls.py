"""TDCALLs: what one TVM asks of the module (TDX Connect; declared in `abi.tdcalls`).

The processor says which TVM calls, so a TVM can name only its own interfaces; another's does not exist for it.
"""

from __future__ import annotations

from teeio.abi import tdcalls as g
from teeio.abi.operands import AUTHORITY, PAGE_SIZE, Actor, DevifOperation, PageLevel
from teeio.abi.statuses import Status
from teeio.attestation.freshness import NONCE_SIZE
from teeio.crypto.kdf import equal
from teeio.errors import Reject
from teeio.host.secure_ept import SeptState
from teeio.host.tdx.answering import answers
from teeio.host.tdx.interface import Devif, Request
from teeio.host.tdx.peer_guest_calls import PeerGuestCalls
from teeio.tdisp.messages import InterfaceState, MmioRange, RangeAttributes


class GuestCalls(PeerGuestCalls):
    """The module's answers to the TVM `tvm`."""

    @answers
    def tdg_mem_page_accept(self, call: g.TdgMemPageAccept, /) -> None:
        """Accept a pending page."""
        self._tvm.sept.accept(call.gpa, call.level)

    @answers
    def tdg_devif_read(self, call: g.TdgDevifRead, /) -> g.DevifInfo:
        """Say what the TSM vouches for."""
        return self._devif(call.function_id).info()

    @answers
    def tdg_devif_validate(self, call: g.TdgDevifValidate, /) -> None:
        """Compare the key that the TVM has verified with the session's."""
        devif = self._devif(call.function_id)
        devif.check_locked(call.bind_session_id)
        evidence = devif.stream.spdm.agent.evidence
        if evidence is None or not equal(evidence.public_key_hash, call.public_key_hash):
            raise Reject(Status.DEVIF_PUBLIC_KEY_MISMATCH, "the SPDM session is with a device that has another key")
        devif.validate()

    @answers
    def tdg_devif_request(self, call: g.TdgDevifRequest, /) -> None:
        """Take note of what the TVM wants to know."""
        devif = self._devif(call.function_id)
        if Actor.TVM not in AUTHORITY.get(call.operation, frozenset()):
            raise Reject(Status.DEVIF_NOT_AUTHORISED, f"{call.operation!r} is not the TVM's to ask for")
        operation = DevifOperation(call.operation)
        if operation is DevifOperation.START:
            raise Reject(Status.OPERAND_INVALID, "START has a call of its own: TDG.TDI.START")
        self._check_idle(devif)
        devif.check_bind_session(call.bind_session_id)
        devif.check_state(operation)
        measurements = operation is DevifOperation.MEASUREMENTS
        if len(call.nonce) != (NONCE_SIZE if measurements else 0):
            raise Reject(Status.OPERAND_INVALID, f"MEASUREMENTS has a nonce of {NONCE_SIZE} bytes, others none")
        if measurements:
            devif.check_fresh(call.nonce)
        devif.ask(Request(operation, call.bind_session_id, call.nonce))

    @answers
    def tdg_devif_response(self, call: g.TdgDevifResponse, /) -> g.DevifAnswer:
        """Tell how the exchange ended."""
        devif = self._devif(call.function_id)
        if devif.failed:
            raise Reject(Status.DEVIF_TDISP_FAILED, "the exchange with the device failed")
        if devif.answer is None:
            raise Reject(Status.DEVIF_TDISP_INVALID_REQ_STS, "nothing was asked for, or the VMM has not driven it yet")
        return devif.answer

    @answers
    def tdg_mmio_accept(self, call: g.TdgMmioAccept, /) -> None:
        """Accept MMIO if every mapping leads to exactly the reported page. All or nothing."""
        devif = self._devif(call.function_id)
        devif.check_locked(call.bind_session_id)
        first = _reported_address(devif, call)
        pages = call.level.size // PAGE_SIZE
        gpas = range(call.gpa, call.gpa + call.count * PAGE_SIZE, pages * PAGE_SIZE)
        for gpa in gpas:
            self._check_mapping(devif, gpa, first + gpa - call.gpa, call.level)
        devif.had_traffic = True  # the TVM's T=1 requests go down from now on, though the interface does not run yet
        for gpa in gpas:
            self._tvm.sept.accept_mmio(gpa, call.level)

    def _check_mapping(self, devif: Devif, gpa: int, expected: int, level: PageLevel) -> None:
        leaf = self._tvm.sept.leaf(gpa)
        if leaf is None:
            raise Reject(Status.EPT_WALK_FAILED, f"nothing is mapped at guest address {gpa:#x}")
        if leaf.level is not level:
            raise Reject(Status.PAGE_SIZE_MISMATCH, f"guest address {gpa:#x} is mapped as {leaf.level.name}")
        if leaf.state is not SeptState.MMIO_PENDING:
            raise Reject(Status.EPT_ENTRY_STATE_INCORRECT, f"guest address {gpa:#x} is {leaf.state.name}")
        entry = self.records.mmio.entry(leaf.hpa)
        if leaf.hpa != expected or entry is None or entry.function_id != devif.function_id:
            raise Reject(
                Status.MMIO_REPORT_MISMATCH,
                f"guest address {gpa:#x} leads to {leaf.hpa:#x}, the report says {expected:#x} of this interface",
            )

    @answers
    def tdg_dmar_accept(self, call: g.TdgDmarAccept, /) -> None:
        """Accept the trusted DMA entry, which must lead to this TVM."""
        devif = self._devif(call.function_id)
        devif.check_locked(call.bind_session_id)
        if call.target:
            raise Reject(Status.OPERAND_INVALID, f"target {call.target}: there are no nested VMs")
        if devif.state is not InterfaceState.CONFIG_LOCKED:
            raise Reject(Status.DEVIF_TDISP_INVALID_STATE, f"DMA is accepted while locked, not in {devif.state.name}")
        self.records.dmar[devif.stream.spdm.iommu_id].accept(devif.function_id, self._tvm.tdr)

    @answers
    def tdg_tdi_start(self, call: g.TdgTdiStart, /) -> None:
        """Allow the start, for exactly this lock."""
        devif = self._devif(call.function_id)
        self._check_idle(devif)
        devif.check_locked(call.bind_session_id)
        devif.check_state(DevifOperation.START)
        if not devif.validated:
            raise Reject(Status.DEVIF_NOT_VALIDATED, "the device's key was not validated: TDG.DEVIF.VALIDATE first")
        devif.ask(Request(DevifOperation.START, call.bind_session_id))

    def _check_idle(self, devif: Devif) -> None:
        """Refuse to change a request that is being carried out."""
        request, task = devif.request, devif.stream.spdm.agent.task
        if request is not None and task == devif.task(request.operation):
            raise Reject(Status.OPERAND_BUSY, "the exchange asked for before is under way")


def _reported_address(devif: Devif, call: g.TdgMmioAccept) -> int:
    """Give the physical address of the first page to accept, as the report has it. Raises `Reject`."""
    if not 0 <= call.range_index < len(devif.ranges) or devif.lock is None:
        raise Reject(Status.MMIO_REPORT_MISMATCH, f"the report under this lock has no range {call.range_index}")
    found: MmioRange = devif.ranges[call.range_index]
    if found.attributes & RangeAttributes.IS_NON_TEE_MEM:
        raise Reject(Status.MMIO_REPORT_MISMATCH, f"range {call.range_index} is non-TEE memory: it stays shared")
    pages = call.level.size // PAGE_SIZE
    if call.count <= 0 or call.page_offset < 0 or call.count % pages or call.gpa % call.level.size:
        raise Reject(Status.OPERAND_INVALID, "count, offset and address are whole pages of the level")
    if call.page_offset + call.count > found.pages:
        raise Reject(Status.MMIO_REPORT_MISMATCH, f"range {call.range_index} has {found.pages} pages only")
    return found.first_address() - devif.lock.mmio_reporting_offset + call.page_offset * PAGE_SIZE
