"""Locks of an interface: the evidence that belongs to each, and what does not outlive it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from host.tdx.exchanges import LOCK, OTHER_NONCE, bring_to, drive, request
from host_machine import NOW, Guest, Host
from teeio.abi import CallRefused
from teeio.abi import hypercalls as v
from teeio.abi import memory_seamcalls as m
from teeio.abi import tdcalls as g
from teeio.abi.operands import DevifOperation, DmarLevel
from teeio.abi.statuses import Status
from teeio.host.dmar_tables import address, from_qwords
from teeio.host.iommu_faults import FaultReason
from teeio.host.tdx.interface import MAX_NONCES
from teeio.tdisp.messages import InterfaceInfo, InterfaceState


def test_each_lock_has_its_own_bind_session_and_evidence(guest: Guest) -> None:
    first = bring_to(guest, InterfaceState.CONFIG_LOCKED)
    guest.report(first)
    guest.validate(first).require("validate")
    before = guest.info()
    assert before.report_digest
    assert before.validated
    drive(guest, DevifOperation.STOP)
    unlocked = guest.info()
    assert (unlocked.bind_session_id, unlocked.validated, unlocked.report_digest) == (0, False, b"")
    drive(guest, DevifOperation.LOCK, LOCK)
    second = guest.info().bind_session_id
    assert second not in (0, first)
    assert guest.info().generation > before.generation
    assert guest.validate(first).status is Status.DEVIF_BIND_SESSION_MISMATCH
    assert guest.ask(DevifOperation.REPORT, first).status is Status.DEVIF_BIND_SESSION_MISMATCH
    start = g.TdgTdiStart(function_id=guest.function_id, bind_session_id=first)
    assert guest.tsm.tdg_tdi_start(start).status is Status.DEVIF_BIND_SESSION_MISMATCH


def test_a_start_allowed_for_one_lock_does_not_start_another(guest: Guest) -> None:
    """Attack 49: the VMM stops and locks again between the TVM's decision and the start."""
    lock = bring_to(guest, InterfaceState.CONFIG_LOCKED)
    guest.report(lock)
    guest.validate(lock).require("validate")
    start = g.TdgTdiStart(function_id=guest.function_id, bind_session_id=lock)
    guest.tsm.tdg_tdi_start(start).require("start")
    drive(guest, DevifOperation.STOP)
    drive(guest, DevifOperation.LOCK, LOCK)
    assert request(guest, DevifOperation.START).status is Status.DEVIF_NOT_AUTHORISED
    response = g.TdgDevifResponse(function_id=guest.function_id)
    assert guest.tsm.tdg_devif_response(response).status is Status.DEVIF_TDISP_FAILED
    assert guest.tdi.state is InterfaceState.CONFIG_LOCKED


def test_what_was_accepted_under_a_lock_goes_before_the_next(guest: Guest) -> None:
    guest.bring_up()
    drive(guest, DevifOperation.STOP)
    assert request(guest, DevifOperation.LOCK, LOCK).status is Status.OPERAND_BUSY
    guest.unbind().require("unbind")
    assert guest.bring_up()


@pytest.mark.parametrize("way", ["blocked", "its table written into"])
def test_an_acceptance_that_may_still_be_cached_goes_before_the_next_lock(way: str) -> None:
    """Attack: the entry translates no more, but the IOMMU was not told to forget what it knows."""
    guest = Guest(host := Host())  # of its own, as the table is lost for good
    rid = guest.function_id
    guest.accept_dma(bring_to(guest, InterfaceState.CONFIG_LOCKED)).require("TDG.DMAR.ACCEPT")
    assert not isinstance(host.iommu.trusted.entry(rid), FaultReason)
    drive(guest, DevifOperation.STOP)
    if way == "blocked":
        host.module.tdh_dmar_block(m.TdhDmarBlock(iommu_id=0, function_id=rid)).require("block")
    else:
        read = m.TdhDmarRead(iommu_id=0, function_id=rid, level=DmarLevel.PASID_DIRECTORY)
        table = from_qwords(read.level, host.module.tdh_dmar_read(read).require("read").entry)
        host.memory.vmm.write(address(table), b"X")
    assert not isinstance(host.iommu.trusted.entry(rid), FaultReason), "cached"
    assert request(guest, DevifOperation.LOCK, LOCK).status is Status.OPERAND_BUSY


def test_the_start_needs_a_validated_key(guest: Guest) -> None:
    lock = bring_to(guest, InterfaceState.CONFIG_LOCKED)
    start = g.TdgTdiStart(function_id=guest.function_id, bind_session_id=lock)
    assert guest.tsm.tdg_tdi_start(start).status is Status.DEVIF_NOT_VALIDATED
    validate = g.TdgDevifValidate(function_id=guest.function_id, bind_session_id=lock, public_key_hash=bytes(48))
    assert guest.tsm.tdg_devif_validate(validate).status is Status.DEVIF_PUBLIC_KEY_MISMATCH
    assert not guest.info().validated
    guest.validate(lock).require("validate")
    assert guest.tsm.tdg_tdi_start(start).status is Status.SUCCESS
    assert guest.validate(0).status is Status.DEVIF_BIND_SESSION_MISMATCH


def test_measurements_are_under_the_tvms_own_fresh_nonce(guest: Guest) -> None:
    lock = bring_to(guest, InterfaceState.CONFIG_LOCKED)
    before = guest.info()
    for nonce in (b"", b"short", bytes(33)):
        assert guest.ask(DevifOperation.MEASUREMENTS, lock, nonce).status is Status.OPERAND_INVALID
    assert guest.ask(DevifOperation.REPORT, lock, OTHER_NONCE).status is Status.OPERAND_INVALID
    guest.ask(DevifOperation.MEASUREMENTS, lock, OTHER_NONCE).require("ask")
    info = guest.vmm.tdcm_get_dev_info(v.TdcmGetDevInfo(function_id=guest.function_id), NOW).require("info")
    assert OTHER_NONCE in info.measurements
    assert guest.info().measurements_digest != before.measurements_digest
    assert guest.info().generation > before.generation
    assert guest.ask(DevifOperation.MEASUREMENTS, lock, OTHER_NONCE).status is Status.OPERAND_INVALID
    for number in range(MAX_NONCES - 1):
        guest.ask(DevifOperation.MEASUREMENTS, lock, number.to_bytes(32, "little")).require("ask")
    assert guest.ask(DevifOperation.MEASUREMENTS, lock, b"z" * 32).status is Status.OPERAND_BUSY
    assert info.certificate_chain == guest.host.connection.evidence.certificate_chain


def test_unacceptable_reports_are_not_vouched_for(guest: Guest, monkeypatch: pytest.MonkeyPatch) -> None:
    lock = bring_to(guest, InterfaceState.CONFIG_LOCKED)
    good = guest.tdi.interface.report(guest.host.device.dsm.ide_km.owner)
    for bad in (
        replace(good, info=InterfaceInfo.NONE),
        replace(good, info=good.info | InterfaceInfo.ATS_ENABLED),
        replace(good, info=good.info | InterfaceInfo.DMA_WITH_PASID),
        replace(good, msi_x_message_control=1),
        replace(good, tph_control=1),
        replace(good, lnr_control=1),
    ):
        monkeypatch.setattr(guest.tdi.interface, "report", lambda session, bad=bad: bad)
        guest.ask(DevifOperation.REPORT, lock).require("ask")
        with pytest.raises(CallRefused, match="DEVIF_REPORT_UNACCEPTABLE"):
            drive(guest, DevifOperation.REPORT)
        assert guest.info().report_digest == b""
        response = g.TdgDevifResponse(function_id=guest.function_id)
        assert guest.tsm.tdg_devif_response(response).status is Status.DEVIF_TDISP_FAILED
