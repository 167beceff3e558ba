"""The life of an assigned interface in the TVM: lock, attest, accept, unlock (Linux's verbs; TDX Connect's calls).

Lock asks the VMM to bind; attest collects and judges evidence; accept validates the device key, accepts MMIO and DMA
and starts the interface, all under the one bind session id that lock has read from the TSM. A step that fails undoes
what it did and all before it. No step is taken while a driver is bound. An interface that fell out of RUN is never revived:
it is unlocked and goes the whole way again.

What is started is what was attested: should the TSM vouch for anything else by then, be it only measurements that the VMM
has let it take again, accept refuses. NO_FW_UPDATE keeps firmware as it is while locked, but other measurements may change.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from itertools import combinations

from teeio.abi.declaration import CallRefused
from teeio.abi.hypercalls import TdcmBind, TdcmCheckTeeioSupp, TdcmGetTdiState, TdcmStartTdi, TdcmUnbind
from teeio.abi.operands import GPA_SHARED_BIT, PAGE_SIZE, PRIVATE_MMIO_BASE, DevifOperation, PageLevel
from teeio.abi.statuses import Status
from teeio.abi.tdcalls import NO_BIND_SESSION, DevifInfo, TdgDevifValidate, TdgDmarAccept, TdgMmioAccept, TdgTdiStart
from teeio.attestation import Evidence, RegisterWindow, Verdict
from teeio.errors import AuthenticationFailed, DecodeError, Incompatible, Misuse, PeerViolation, TeeioError
from teeio.guest.attest import Verifier, collect, exchange, public_key_hash, read_interface, statement
from teeio.guest.interface_record import InterfaceRecord, Phase
from teeio.guest.mmio import MmioWindow
from teeio.guest.pci import PciFunction
from teeio.guest.ranges import TeeRange, tee_ranges
from teeio.guest.tvm import Tvm, checked
from teeio.observe import Refused, StateChanged
from teeio.tdisp.messages import DeviceInterfaceReport, InterfaceState

__all__ = ["AssignedInterface", "NotAccepted", "Phase", "TeeRange", "tee_ranges"]


class NotAccepted(AuthenticationFailed):
    """The policy did not accept the evidence; `verdict` says why."""

    def __init__(self, name: str, verdict: Verdict) -> None:
        super().__init__(
            f"{name} is not accepted: {verdict}", remedy="see the rules that failed; unlock and start over"
        )
        self.verdict = verdict


class AssignedInterface:
    """One interface that the VMM has assigned to the TVM; all views of a function share its record."""

    def __init__(self, tvm: Tvm, function: PciFunction) -> None:
        self.tvm = tvm
        self.function = function
        self._record = tvm.interfaces.setdefault(function.address, InterfaceRecord())

    @property
    def phase(self) -> Phase:
        """How far the TVM is with it."""
        return self._record.phase

    @property
    def driver(self) -> str | None:
        """The driver that is bound."""
        return self._record.driver

    @property
    def function_id(self) -> int:
        """What the TSM calls it; 0 before the first lock."""
        return self._record.function_id

    @property
    def bind_session_id(self) -> int:
        """The lock that holds, or `NO_BIND_SESSION`."""
        return self._record.bind_session_id

    @property
    def evidence(self) -> Evidence | None:
        """What was collected under this lock."""
        return self._record.evidence

    @property
    def verdict(self) -> Verdict | None:
        """The last verdict on it."""
        return self._record.verdict

    @property
    def ranges(self) -> tuple[TeeRange, ...]:
        """The TEE ranges that were attested under this lock."""
        return self._record.ranges

    def __str__(self) -> str:
        return f"interface {self.function.address}"

    # -- the verbs --------------------------------------------------------------------------------------------------

    def bring_up(self, verifier: Verifier, registers: tuple[RegisterWindow, ...], now: float) -> Verdict:
        """Lock, attest and accept. Raises as they do; then nothing is left behind."""
        self.lock(now)
        verdict = self.attest(verifier, registers, now)
        self.accept(now)
        return verdict

    def lock(self, now: float) -> None:
        """Let the VMM bind and lock the interface, and take the TSM's bind session id.

        Raises `Misuse` for one that the TSM has locked already: it is not this call's to give back, and LOST until unlocked.
        """
        self._expect(Phase.UNLOCKED)
        self._check_bars()
        if not self.function.tee_io:
            raise Incompatible(f"{self} has no TEE-IO bit", remedy="use it untrusted, through shared memory")
        call = TdcmCheckTeeioSupp(requester_id=self.function.address.requester_id)
        support = self.tvm.ask(call, lambda asked, _: self.tvm.vmm.tdcm_check_teeio_supp(asked), now)
        self._record.function_id = checked(support.function_id, int, "the FUNCTION_ID", 1 << 25)
        self._expect_not_in_use()
        self.function.enable(now)
        with self._undone_on_failure(now):
            self.tvm.ask(TdcmBind(function_id=self.function_id), self.tvm.vmm.tdcm_bind, now)
            info = read_interface(self.tvm, self.function_id)
            self._expect_state(info.state, InterfaceState.CONFIG_LOCKED)
            if info.bind_session_id == NO_BIND_SESSION:
                raise PeerViolation(f"{self} is locked without a bind session", "TDG.DEVIF.READ")
            self._record.bind_session_id = info.bind_session_id
        self._enter(Phase.LOCKED, "TDCM.BIND")

    def attest(self, verifier: Verifier, registers: tuple[RegisterWindow, ...], now: float) -> Verdict:
        """Collect evidence and judge it; `registers` is what the driver trusts. A verdict that rejects undoes the lock.

        Raises `NotAccepted`, or what made the evidence impossible to collect.
        """
        self._expect(Phase.LOCKED)
        with self._undone_on_failure(now):
            self._check_bars()  # another view may have locked it, with other BARs
            nonce = verifier.nonce(now)
            slot = verifier.expectations.slot
            evidence = collect(self.tvm, self.function_id, self.bind_session_id, slot, nonce, now)
            ranges = self._ranges(evidence)
            mapped = None if ranges is None else tuple(found.mapped for found in ranges)
            verdict = verifier.appraise(evidence, self.bind_session_id, mapped, registers, now)
            self._record.evidence, self._record.verdict = evidence, verdict
            if not verdict.accepted:
                raise NotAccepted(str(self), verdict)
            self._record.ranges = ranges or ()
            self._check_places(registers)
        return verdict

    def accept(self, now: float) -> None:
        """Accept what was attested, and start it.

        Raises `CallRefused`, `PeerViolation`, and `AuthenticationFailed` if it is not what was attested; everything is undone
        then.
        """
        self._expect(Phase.LOCKED)
        evidence = self.evidence
        if evidence is None or self.verdict is None or not self.verdict.accepted:
            raise Misuse(f"{self} has no accepted evidence", remedy="call attest first")
        tsm, function_id, lock = self.tvm.tsm, self.function_id, self.bind_session_id
        with self._undone_on_failure(now):
            self._expect_attested(read_interface(self.tvm, function_id), evidence, InterfaceState.CONFIG_LOCKED)
            key = public_key_hash(evidence)
            validate = TdgDevifValidate(function_id=function_id, bind_session_id=lock, public_key_hash=key)
            self.tvm.tdcall(validate, tsm.tdg_devif_validate)
            for found in self.ranges:
                self._accept_mmio(found)
            self.tvm.tdcall(TdgDmarAccept(function_id=function_id, bind_session_id=lock), tsm.tdg_dmar_accept)
            self.tvm.tdcall(TdgTdiStart(function_id=function_id, bind_session_id=lock), tsm.tdg_tdi_start)
            self.tvm.ask(TdcmStartTdi(function_id=self.function_id), self.tvm.vmm.tdcm_start_tdi, now)
            self._expect_attested(read_interface(self.tvm, function_id), evidence, InterfaceState.RUN)
        self._enter(Phase.ACCEPTED, "TDCM.START.TDI")

    def unlock(self, now: float) -> None:
        """Give the interface back: the VMM stops it and takes its mappings away. Also the way out of LOST.

        Raises `PeerViolation` if the TSM says that it is not stopped; the interface is LOST then.
        """
        self._expect(Phase.LOCKED, Phase.ACCEPTED, Phase.LOST)
        self._give_back(now)

    def _give_back(self, now: float) -> None:
        """Let the VMM unbind; whatever it answers, the TSM's word decides whether it has."""
        self._record.forget()
        try:
            with suppress(CallRefused):
                self.tvm.ask(TdcmUnbind(function_id=self.function_id), self.tvm.vmm.tdcm_unbind, now)
            self._expect_stopped()
        except TeeioError:
            self._enter(Phase.LOST, "TDCM.UNBIND did not stop it")
            raise
        self._enter(Phase.UNLOCKED, "TDCM.UNBIND")

    def _expect_stopped(self) -> None:
        known = self._known_to_tsm()
        if known is not None:
            self._expect_state(known, InterfaceState.CONFIG_UNLOCKED)

    # -- while it is accepted ---------------------------------------------------------------------------------------

    def check(self, now: float) -> InterfaceState:
        """Ask for the interface's state; an accepted one that is not in RUN is LOST from then on.

        If the VMM does not serve the exchange, what the TSM knows counts, and the interface is LOST all the same.
        """
        call = TdcmGetTdiState(function_id=self.function_id)
        try:
            answer = exchange(
                self.tvm,
                self.function_id,
                self.bind_session_id,
                DevifOperation.STATE,
                lambda: self.tvm.ask(call, self.tvm.vmm.tdcm_get_tdi_state, now),
            )[1]
            state, cause = _state(answer.state), "GET_DEVICE_INTERFACE_STATE"
            lost = state is not InterfaceState.RUN or answer.bind_session_id != self.bind_session_id
        except TeeioError as error:
            state, cause, lost = self._known_state(), f"the state could not be asked: {error}", True
        if lost and self.phase is Phase.ACCEPTED:
            self._record.forget()
            self._enter(Phase.LOST, f"{cause}: {state.name}")
        return state

    def window(self, bar: int, offset: int, size: int) -> MmioWindow:
        """Give trusted access to accepted MMIO. Raises `Misuse` for anything else."""
        if self.phase is not Phase.ACCEPTED:
            raise Misuse(f"{self} is {self.phase.value}", remedy="bring it up first")
        if not self._accepted(bar, offset, size):
            raise Misuse(f"BAR {bar} of {self} is not accepted from {offset:#x} to {offset + size:#x}")
        gpa = next(found.gpa - found.offset for found in self.ranges if found.bar == bar)
        return MmioWindow(self.tvm, gpa + offset, size, trusted=True)

    def bind_driver(self, name: str) -> None:
        """Let a driver use the interface: from now on it cannot be locked, accepted or unlocked."""
        if self.driver is not None:
            raise Misuse(f"{self} is busy: driver {self.driver} is bound")
        self._record.driver = name

    def release_driver(self) -> None:
        """Detach the driver."""
        self._record.driver = None

    # -- checks -----------------------------------------------------------------------------------------------------

    def _expect(self, *phases: Phase) -> None:
        if self.driver is not None:
            raise Misuse(f"{self} is busy: driver {self.driver} is bound", remedy="remove the driver first")
        if self.phase not in phases:
            raise Misuse(f"{self} is {self.phase.value}", remedy="unlock it and start over")

    def _expect_state(self, state: int, wanted: InterfaceState) -> None:
        if state != wanted:
            raise PeerViolation(f"{self} is in {_state(state).name}, must be in {wanted.name}", "PCIe Base 11.2")

    def _expect_not_in_use(self) -> None:
        """Refuse an interface that the TSM has locked or running, or in ERROR: this lock must not end that one."""
        known = self._known_to_tsm()
        if known is not None and known is not InterfaceState.CONFIG_UNLOCKED:
            self._enter(Phase.LOST, f"TDG.DEVIF.READ: it is in {known.name} already")
            raise Misuse(f"{self} is in {known.name} already, by a lock that is not this one", remedy="unlock it first")

    def _known_to_tsm(self) -> InterfaceState | None:
        """Give the state that the TSM knows; None if it is not the TVM's. Raises `CallRefused`."""
        try:
            return _state(read_interface(self.tvm, self.function_id).state)
        except CallRefused as refusal:
            if refusal.status is not Status.TDI_NOT_PRESENT:
                raise
            return None

    def _expect_attested(self, info: DevifInfo, evidence: Evidence, wanted: InterfaceState) -> None:
        """Refuse another state, another lock, or other evidence than was judged."""
        self._expect_state(info.state, wanted)
        if info.bind_session_id != self.bind_session_id:
            raise PeerViolation(f"{self} is under another lock than the attested one", "TDG.DEVIF.READ")
        if replace(statement(info), state=evidence.statement.state) != evidence.statement:
            raise AuthenticationFailed(
                f"the TSM vouches for other evidence on {self} than was attested", remedy="lock and attest it anew"
            )

    def _check_bars(self) -> None:
        """Refuse BARs that the VMM has put over one another or over the TVM's memory."""
        for bar in self.function.bars:
            if self.tvm.overlaps_memory(bar.gpa, bar.size) or bar.range.end > GPA_SHARED_BIT:
                raise PeerViolation(f"BAR {bar.number} of {self} overlaps the TVM's memory", "TDX Connect: MMIO")
        for left, right in combinations(self.function.bars, 2):
            if left.range.overlaps(right.range):
                raise PeerViolation(f"BARs {left.number} and {right.number} of {self} overlap", "PCIe Base 7.5.1.2.1")

    def _ranges(self, evidence: Evidence) -> tuple[TeeRange, ...] | None:
        """Find the TEE ranges; None if the report does not parse, which the policy then says."""
        try:
            report = DeviceInterfaceReport.decode(evidence.report)
        except DecodeError:
            return None
        return tee_ranges(report, evidence.statement.mmio_reporting_offset, self.function.bars)

    def _check_places(self, registers: tuple[RegisterWindow, ...]) -> None:
        """Check where the ranges are; the registers by offset in the BAR, as the driver will use them."""
        for found in self.ranges:
            if found.gpa < PRIVATE_MMIO_BASE:
                raise PeerViolation(
                    f"range {found.index} of {self} is below 4 GiB", "TDX Connect Device Guide, appendix A"
                )
        for window in registers:
            offset, size = window.first_page * PAGE_SIZE, window.pages * PAGE_SIZE
            if not self._accepted(window.bar, offset, size):
                raise PeerViolation(
                    f"the driver's registers in BAR {window.bar} of {self} are not in a TEE range",
                    "PCIe Base 11.3.11: MMIO ranges",
                )

    def _accepted(self, bar: int, offset: int, size: int) -> bool:
        """Tell whether these bytes of a BAR lie in TEE ranges, one or several that follow each other."""
        at = offset
        for found in sorted(self.ranges, key=lambda one: one.offset):
            if found.bar == bar and found.offset <= at < found.end:
                at = found.end
        return size > 0 and at >= offset + size

    def _accept_mmio(self, found: TeeRange) -> None:
        """Accept a range, by 2 MiB where the VMM has mapped it so."""
        large = PageLevel.PAGE_2M.size // PAGE_SIZE
        page = 0
        while page < found.pages:
            at = found.gpa // PAGE_SIZE + page
            count = min(found.pages - page, large - at % large)
            if count < large or not self._accept_pages(found, page, count, PageLevel.PAGE_2M):
                self._accept_pages(found, page, count, PageLevel.PAGE_4K)
            page += count

    def _accept_pages(self, found: TeeRange, page: int, count: int, level: PageLevel) -> bool:
        """Accept pages of a range; False if they are mapped in another size than 2 MiB. Raises `CallRefused`."""
        call = TdgMmioAccept(
            function_id=self.function_id,
            bind_session_id=self.bind_session_id,
            gpa=found.gpa + page * PAGE_SIZE,
            range_index=found.index,
            page_offset=page,
            count=count,
            level=level,
        )
        try:
            self.tvm.tdcall(call, self.tvm.tsm.tdg_mmio_accept)
        except CallRefused as refusal:
            if level is PageLevel.PAGE_2M and refusal.status is Status.PAGE_SIZE_MISMATCH:
                return False
            raise
        return True

    def _known_state(self) -> InterfaceState:
        try:
            known = self._known_to_tsm()
        except CallRefused:
            known = None
        return InterfaceState.ERROR if known is None else known

    # -- moves ------------------------------------------------------------------------------------------------------

    @contextmanager
    def _undone_on_failure(self, now: float) -> Iterator[None]:
        try:
            yield
        except TeeioError as error:
            self.tvm.observer(Refused("TVM", str(self), str(error)))
            try:
                self._give_back(now)
            except TeeioError as second:
                error.add_note(f"and {self} could not be given back: {second}")
            raise

    def _enter(self, phase: Phase, cause: str) -> None:
        if phase is not self.phase:
            self.tvm.observer(StateChanged(f"TVM: {self}", self.phase.name, phase.name, cause))
        self._record.phase = phase


def _state(state: int) -> InterfaceState:
    """Give a TDISP state; what is none counts as ERROR."""
    return InterfaceState(state) if state in set(InterfaceState) else InterfaceState.ERROR
