"""Collecting evidence on a locked interface, and judging it.

The VMM drives the exchanges and carries the bytes; the TSM, asked directly, says by digests what the bytes must be and
which lock holds. Nothing is judged here: the policy of `attestation` decides on all of it at once. Order of steps as in
Linux's TDX guest; measurements are taken under a nonce of this TVM.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeVar

from teeio.abi.hypercalls import DeviceInfo, TdcmGetDevInfo, TdcmGetTdiReport, TdiReport
from teeio.abi.operands import DevifOperation, FunctionId
from teeio.abi.tdcalls import DevifAnswer, DevifInfo, TdgDevifRead, TdgDevifRequest, TdgDevifResponse
from teeio.attestation import (
    Evidence,
    Expectations,
    PlacedRange,
    Policy,
    ReferenceValues,
    RegisterWindow,
    TsmStatement,
    Verdict,
    parse_vca,
)
from teeio.attestation.evidence import STATEMENT_HASH
from teeio.crypto.certificates import leaf_public_key, parse_chain
from teeio.crypto.kdf import digest
from teeio.crypto.keys import public_key_der
from teeio.errors import PeerViolation
from teeio.guest.tvm import Tvm, checked

V = TypeVar("V")

MAX_EVIDENCE = 16 << 20
"""Bytes of one evidence object (Linux, device-evidence)."""


@dataclass(frozen=True, slots=True)
class Verifier:
    """What the TVM's owner accepts.

    `expectations` is filled in for each appraisal: the lock, the mappings, the registers that the driver trusts, and
    the time, for which its `at_time` is UTC when `now` is 0.
    """

    policy: Policy
    reference: ReferenceValues
    expectations: Expectations

    def nonce(self, now: float) -> bytes:
        """Draw a nonce from the TVM's own entropy."""
        return self.expectations.nonces.issue(self._utc(now))

    def appraise(
        self,
        evidence: Evidence,
        bind_session_id: int,
        mapped: tuple[PlacedRange, ...] | None,
        registers: tuple[RegisterWindow, ...],
        now: float,
    ) -> Verdict:
        """Judge evidence for the start of the lock `bind_session_id`."""
        expected = replace(
            self.expectations,
            at_time=self._utc(now),
            bind_session_id=bind_session_id,
            mapped=mapped,
            registers=registers,
        )
        return self.policy.appraise(evidence, self.reference, expected)

    def _utc(self, now: float) -> float:
        return self.expectations.at_time + now


def read_interface(tvm: Tvm, function_id: FunctionId) -> DevifInfo:
    """Ask the TSM what it knows of an interface. Raises `CallRefused`."""
    return tvm.tdcall(TdgDevifRead(function_id=function_id), tvm.tsm.tdg_devif_read)


def exchange(
    tvm: Tvm,
    function_id: FunctionId,
    bind_session_id: int,
    operation: DevifOperation,
    drive: Callable[[], V],
    nonce: bytes = b"",
) -> tuple[V, DevifAnswer]:
    """Allow an exchange, let the VMM drive it, and fetch from the TSM how it ended. Raises `CallRefused`."""
    request = TdgDevifRequest(
        function_id=function_id, bind_session_id=bind_session_id, operation=operation, nonce=nonce
    )
    tvm.tdcall(request, tvm.tsm.tdg_devif_request)
    carried = drive()
    answer = tvm.tdcall(TdgDevifResponse(function_id=function_id), tvm.tsm.tdg_devif_response)
    if answer.operation != operation:
        raise PeerViolation(f"the TSM answers {answer.operation!r} instead of {operation!r}", "TDG.DEVIF.RESPONSE")
    return carried, answer


def collect(tvm: Tvm, function_id: FunctionId, bind_session_id: int, slot: int, nonce: bytes, now: float) -> Evidence:
    """Collect all evidence on the interface under the lock `bind_session_id`.

    Raises `CallRefused`, `TransportError`, `AuthenticationFailed` for objects that are none.
    """
    report = _report(tvm, function_id, bind_session_id, now)
    device = _device_info(tvm, function_id, bind_session_id, nonce, now)
    return Evidence(
        certificate_chain=checked(device.certificate_chain, bytes, "the certificate chain", MAX_EVIDENCE),
        slot=slot,
        vca=checked(device.vca, bytes, "the VCA", MAX_EVIDENCE),
        measurements=checked(device.measurements, bytes, "the measurements", MAX_EVIDENCE),
        report=checked(report.report, bytes, "the interface report", MAX_EVIDENCE),
        nonce=nonce,
        bind_session_id=bind_session_id,
        statement=statement(read_interface(tvm, function_id)),
    )


def _report(tvm: Tvm, function_id: FunctionId, bind_session_id: int, now: float) -> TdiReport:
    call = TdcmGetTdiReport(function_id=function_id)
    return exchange(
        tvm,
        function_id,
        bind_session_id,
        DevifOperation.REPORT,
        lambda: tvm.ask(call, tvm.vmm.tdcm_get_tdi_report, now),
    )[0]


def _device_info(tvm: Tvm, function_id: FunctionId, bind_session_id: int, nonce: bytes, now: float) -> DeviceInfo:
    call = TdcmGetDevInfo(function_id=function_id)
    return exchange(
        tvm,
        function_id,
        bind_session_id,
        DevifOperation.MEASUREMENTS,
        lambda: tvm.ask(call, tvm.vmm.tdcm_get_dev_info, now),
        nonce,
    )[0]


def statement(info: DevifInfo) -> TsmStatement:
    """Give what the TSM knows in the form that the policy judges."""
    return TsmStatement(
        state=info.state,
        bind_session_id=info.bind_session_id,
        lock_flags=info.lock_flags,
        mmio_reporting_offset=info.mmio_reporting_offset,
        public_key_hash=info.public_key_hash,
        certificate_chain_digest=info.certificate_chain_digest,
        vca_digest=info.vca_digest,
        measurements_digest=info.measurements_digest,
        report_digest=info.report_digest,
    )


def public_key_hash(evidence: Evidence) -> bytes:
    """Give the hash of the device key in the evidence, for TDG.DEVIF.VALIDATE. Raises `DecodeError`."""
    certificates = parse_chain(evidence.certificate_chain, parse_vca(evidence.vca).base_hash)[1]
    return digest(STATEMENT_HASH, public_key_der(leaf_public_key(certificates[-1])))
