"""SPDM sessions and IDE streams at the TSM: the pump, one exchange at a time, what a lost session costs, keys."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from host_machine import MEMORY, NOW, ROOT_PORT, Guest, Host
from teeio.abi import CallRefused, Result
from teeio.abi import device_seamcalls as d
from teeio.abi import memory_seamcalls as m
from teeio.abi.operands import KmOperation, SpdmOperation
from teeio.abi.statuses import Status
from teeio.errors import Misuse
from teeio.host.memory import FREE
from teeio.host.root_complex import DEVICE_MEMORY
from teeio.host.tdx.module import TdxModule
from teeio.host.tdx.records import StreamPhase
from teeio.host.vmm.mailbox import Mailbox
from teeio.observe import MessageMoved, SecretDerived, StateChanged
from teeio.pcie.address import AddressRange
from teeio.pcie.ide_port import InsecureCause
from teeio.tdisp.messages import InterfaceState

STREAM = 1


@pytest.fixture(scope="module")
def _host() -> Host:
    return Host()


@pytest.fixture
def host(_host: Host) -> Iterator[Host]:
    """A connected host; tests that break it make their own."""
    yield _host
    _host.check_declared()


class Unconnected:
    """A host with an SPDM context that is not connected yet, driven call by call."""

    def __init__(self) -> None:
        self.host = Host(connect=False)
        self.module: TdxModule = self.host.module
        self.vmm = self.host.memory.vmm
        self.mailbox = Mailbox(self.host.pf)
        pages = tuple(self.vmm.allocate() for _ in range(m.IOMMU_PAGES))
        self.module.tdh_iommu_setup(m.TdhIommuSetup(iommu_id=0, pages=pages)).require("setup")
        self.spdm_id = self.create().require("create").spdm_id

    def create(self, **changes: Any) -> Result[d.SpdmCreated]:
        operands = {
            "iommu_id": 0,
            "function_id": self.host.pf.function_id,
            "root_port": ROOT_PORT.requester_id,
            "pages": (self.vmm.allocate(),),
        }
        return self.module.tdh_spdm_create(d.TdhSpdmCreate(**{**operands, **changes}))

    def connect_call(self, response: bytes | None = None) -> Result[d.SpdmConnected]:
        return self.module.tdh_spdm_connect(d.TdhSpdmConnect(spdm_id=self.spdm_id, response=response), NOW)


@pytest.fixture(scope="module")
def _bench() -> Unconnected:
    return Unconnected()


@pytest.fixture
def bench(_bench: Unconnected) -> Iterator[Unconnected]:
    """A context without a session, with nothing under way."""
    yield _bench
    _bench.module.records.contexts[_bench.spdm_id].agent.abandon()
    _bench.host.check_declared()


# -- contexts and the pump --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({}, Status.OPERAND_BUSY),
        ({"iommu_id": 9}, Status.OPERAND_INVALID),
        ({"root_port": 0x10}, Status.OPERAND_INVALID),
        ({"function_id": 0x101}, Status.OPERAND_INVALID),
        ({"function_id": 0x0300_0200}, Status.OPERAND_INVALID),
        ({"function_id": 0x01_0200 | 1 << 24}, Status.OPERAND_INVALID),
        ({"function_id": 0x200, "pages": ()}, Status.OPERAND_INVALID),
        ({"function_id": 0x200, "pages": (0x10_0000,)}, Status.PAGE_METADATA_INCORRECT),
    ],
)
def test_a_device_has_one_context(bench: Unconnected, changes: dict[str, Any], status: Status) -> None:
    assert bench.create(**changes).status is status


def test_without_an_answer_the_same_data_object_comes_again(bench: Unconnected) -> None:
    first = bench.connect_call()
    assert first.status is Status.SPDM_REQUEST
    assert bench.connect_call() == first
    second = bench.connect_call(bench.mailbox.carry(first.data_object, NOW))
    assert second.status is Status.SPDM_REQUEST
    assert second.data_object != first.data_object
    assert bench.connect_call() == second


def test_one_exchange_at_a_time(bench: Unconnected) -> None:
    bench.connect_call()
    manage = d.TdhSpdmMng(spdm_id=bench.spdm_id, operation=SpdmOperation.HEARTBEAT)
    assert bench.module.tdh_spdm_mng(manage, NOW).status is Status.OPERAND_BUSY
    assert bench.connect_call(b"").status is Status.SPDM_FAILED
    assert bench.module.tdh_spdm_mng(manage, NOW).status is Status.SPDM_SESSION_NOT_PRESENT


@pytest.mark.parametrize("response", [b"", b"nonsense", bytes(64), b"\xff" * 40])
def test_nonsense_ends_the_exchange_and_nothing_else(bench: Unconnected, response: bytes) -> None:
    first = bench.connect_call()
    failed = bench.connect_call(response)
    assert failed.status is Status.SPDM_FAILED
    assert bench.connect_call(b"late").status is Status.OPERAND_INVALID
    assert bench.connect_call().data_object == first.data_object
    assert bench.module.records.contexts[bench.spdm_id].agent.evidence is None


def test_what_needs_a_session_is_refused_without_one(bench: Unconnected) -> None:
    module, spdm_id = bench.module, bench.spdm_id
    create = d.TdhIdeStreamCreate(
        spdm_id=spdm_id,
        stream_id=1,
        requesters=(0x100, 0x10F),
        memory=AddressRange(DEVICE_MEMORY.start, 1 << 20),
        pages=(bench.vmm.allocate(),),
    )
    assert module.tdh_ide_stream_create(create).status is Status.SPDM_SESSION_NOT_PRESENT
    disconnect = d.TdhSpdmDisconnect(spdm_id=spdm_id)
    assert module.tdh_spdm_disconnect(disconnect, NOW).status is Status.SPDM_SESSION_NOT_PRESENT
    for unknown in (0, spdm_id + 1):
        assert module.tdh_spdm_delete(d.TdhSpdmDelete(spdm_id=unknown)).status is Status.OPERAND_INVALID


def test_a_context_is_deleted_with_its_pages() -> None:
    bench = Unconnected()
    call = d.TdhSpdmDelete(spdm_id=bench.spdm_id)
    bench.connect_call()
    (page,) = bench.module.tdh_spdm_delete(call).require("delete").pages
    bench.vmm.free(page)
    assert bench.module.tdh_spdm_delete(call).status is Status.OPERAND_INVALID
    assert bench.connect_call(b"late").status is Status.OPERAND_INVALID


def test_a_failed_connect_is_undone() -> None:
    host = Host(connect=False)
    host.device.mailbox.handler = lambda data_object: None
    with pytest.raises(CallRefused, match="SPDM_FAILED"):
        host.vmm.pci_tsm.connect(host.pf, NOW)
    assert host.memory.accounting() == host.before
    assert not host.module.records.contexts
    assert not host.module.records.iommu_pages


# -- a session --------------------------------------------------------------------------------------------------------


def test_connect_collects_evidence_and_tells_what_it_says(host: Host) -> None:
    evidence = host.connection.evidence
    assert host.device.dsm.root_certificates[0] in evidence.certificate_chain
    assert evidence.vca
    assert evidence.measurements
    named = {(event.protocol, event.name) for event in host.events if isinstance(event, MessageMoved)}
    assert {("IDE_KM", "QUERY"), ("IDE_KM", "KEY_PROG"), ("IDE_KM", "K_GOSTOP_ACK"), ("SPDM", "FINISH")} <= named


def test_a_connected_device_is_connected_once(host: Host) -> None:
    call = d.TdhSpdmConnect(spdm_id=host.connection.spdm_id)
    assert host.module.tdh_spdm_connect(call, NOW).status is Status.OPERAND_BUSY
    assert host.module.tdh_spdm_delete(d.TdhSpdmDelete(spdm_id=call.spdm_id)).status is Status.IDE_STREAM_IN_USE
    with pytest.raises(Misuse, match="is connected"):
        host.vmm.pci_tsm.connect(host.pf, NOW)


def test_the_session_is_kept(host: Host) -> None:
    before = host.connection.evidence
    for operation in (SpdmOperation.HEARTBEAT, SpdmOperation.KEY_UPDATE, SpdmOperation.HEARTBEAT):
        assert host.vmm.pci_tsm.manage(host.pf, operation, NOW) == before
    recollected = host.vmm.pci_tsm.manage(host.pf, SpdmOperation.RECOLLECT, NOW)
    assert recollected.certificate_chain == before.certificate_chain
    assert recollected.measurements != before.measurements, "a new nonce and signature"


def test_a_record_that_does_not_verify_costs_the_session_and_its_streams() -> None:
    host = Host()
    guest = Guest(host)
    guest.bring_up()
    agent = host.module.records.contexts[host.connection.spdm_id].agent
    call = d.TdhSpdmMng(spdm_id=host.connection.spdm_id, operation=SpdmOperation.HEARTBEAT)
    request = host.module.tdh_spdm_mng(call, NOW)
    answer = bytearray(host.connection.mailbox.carry(request.data_object, NOW))
    answer[-5] ^= 1
    call = d.TdhSpdmMng(spdm_id=call.spdm_id, operation=SpdmOperation.HEARTBEAT, response=bytes(answer))
    assert host.module.tdh_spdm_mng(call, NOW).status is Status.SPDM_FAILED
    assert agent.session is None
    assert guest.info().state == InterfaceState.ERROR
    assert guest.info().bind_session_id == 0
    assert not host.port.ide.is_secure(STREAM)
    assert guest.tdi.state is InterfaceState.ERROR, "the device heard IDE Fail"
    host.vmm.kvm.destroy(guest.machine, NOW)
    host.vmm.pci_tsm.disconnect(host.pf, NOW)
    assert host.memory.accounting() == {FREE: MEMORY // 4096}
    host.check_declared()


def test_disconnect_goes_before_everything_and_needs_no_device() -> None:
    host = Host()
    guest = Guest(host)
    guest.bring_up()
    host.module.tdh_spdm_mng(d.TdhSpdmMng(spdm_id=1, operation=SpdmOperation.RECOLLECT), NOW)
    done = host.module.tdh_spdm_disconnect(d.TdhSpdmDisconnect(spdm_id=1), NOW)
    assert done.status is Status.SUCCESS, (
        "what was under way has put the session out of step: it cannot be ended in words"
    )
    assert guest.info().state == InterfaceState.ERROR
    assert guest.info().certificate_chain_digest == b""
    host.check_declared()


def test_disconnect_ends_here_even_if_the_device_says_nothing() -> None:
    host = Host()
    guest = Guest(host)
    guest.bring_up()
    request = host.module.tdh_spdm_disconnect(d.TdhSpdmDisconnect(spdm_id=1), NOW)
    assert request.status is Status.SPDM_REQUEST
    done = host.module.tdh_spdm_disconnect(d.TdhSpdmDisconnect(spdm_id=1, response=b""), NOW)
    assert done.status is Status.SUCCESS
    assert guest.info().state == InterfaceState.ERROR
    host.check_declared()


# -- streams ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({}, Status.OPERAND_BUSY),
        ({"stream_id": 2}, Status.OPERAND_BUSY),
        ({"requesters": (0x101, 0x1FF)}, Status.OPERAND_INVALID),
        ({"requesters": (0x100, 0xFF)}, Status.OPERAND_INVALID),
        ({"requesters": (0x100, 0x1_0000)}, Status.OPERAND_INVALID),
        ({"stream_id": 256}, Status.OPERAND_INVALID),
        ({"memory": AddressRange(DEVICE_MEMORY.start + 1, DEVICE_MEMORY.size - 1)}, Status.OPERAND_INVALID),
        ({"memory": AddressRange(DEVICE_MEMORY.start, 0)}, Status.OPERAND_INVALID),
        ({"memory": AddressRange(0, 1 << 20)}, Status.OPERAND_INVALID),
        ({"memory": AddressRange(0xE000_0000, 0x10_0000)}, Status.OPERAND_INVALID),
    ],
)
def test_streams_do_not_overlap_and_cover_device_memory_only(
    host: Host, changes: dict[str, Any], status: Status
) -> None:
    page = host.memory.vmm.allocate()
    operands = {
        "spdm_id": host.connection.spdm_id,
        "stream_id": STREAM,
        "requesters": (0x100, 0x10F),
        "memory": AddressRange(DEVICE_MEMORY.start, 2 << 20),
        "pages": (page,),
    }
    result = host.module.tdh_ide_stream_create(d.TdhIdeStreamCreate(**{**operands, **changes}))
    assert result.status is status, result.reason
    host.memory.vmm.free(page)


def test_keys_are_refreshed_while_in_use(host: Host) -> None:
    guest = Guest(host)
    guest.bring_up()
    for number in range(3):
        host.vmm.pci_tsm.refresh_keys(host.pf, NOW)
        guest.processor.store(guest.bar(0) + 0x1000, bytes([number]) * 8)
        assert guest.processor.load(guest.bar(0) + 0x1000, 8) == bytes([number]) * 8
        assert host.port.ide.is_secure(STREAM)
    assert guest.tdi.state is InterfaceState.RUN
    host.vmm.kvm.destroy(guest.machine, NOW)


def test_no_key_serves_twice(host: Host) -> None:
    keys = [event.value for event in host.events if isinstance(event, SecretDerived) and event.label == "ide_key"]
    assert len(keys) >= 6
    assert len(set(keys)) == len(keys)


def test_a_stream_is_deleted_blocked_and_unused() -> None:
    host = Host()
    guest = Guest(host)
    guest.bring_up()
    stream = {"spdm_id": host.connection.spdm_id, "stream_id": STREAM}
    module = host.module
    assert module.tdh_ide_stream_delete(d.TdhIdeStreamDelete(**stream)).status is Status.OP_STATE_INCORRECT
    assert module.tdh_ide_stream_block(d.TdhIdeStreamBlock(**stream)).status is Status.SUCCESS
    assert module.tdh_ide_stream_delete(d.TdhIdeStreamDelete(**stream)).status is Status.IDE_STREAM_IN_USE
    assert guest.info().state == InterfaceState.ERROR
    assert guest.tdi.state is InterfaceState.ERROR
    for operation in KmOperation:
        call = d.TdhIdeStreamKm(**stream, operation=operation)
        assert module.tdh_ide_stream_km(call, NOW).status is Status.IDE_STREAM_BLOCKED
    host.vmm.kvm.destroy(guest.machine, NOW)
    host.vmm.pci_tsm.disconnect(host.pf, NOW)
    assert host.memory.accounting() == {FREE: MEMORY // 4096}
    host.check_declared()


def test_keys_are_set_up_once_and_stopped_once() -> None:
    host = Host()
    stream = {"spdm_id": host.connection.spdm_id, "stream_id": STREAM}
    km = host.module.tdh_ide_stream_km

    def run(operation: KmOperation) -> Status:
        return host.connection.mailbox.pump(
            lambda response, now: km(d.TdhIdeStreamKm(**stream, operation=operation, response=response), now), NOW
        ).status

    assert run(KmOperation.SETUP) is Status.OPERAND_INVALID
    assert (
        km(d.TdhIdeStreamKm(**stream, operation=KmOperation.STOP, response=b"?"), NOW).status is Status.OPERAND_INVALID
    )
    host.connection.stream.disable()
    assert run(KmOperation.STOP) is Status.SUCCESS
    assert run(KmOperation.STOP) is Status.OPERAND_INVALID
    assert run(KmOperation.REFRESH) is Status.OPERAND_INVALID
    assert not host.port.ide.is_secure(STREAM)
    assert run(KmOperation.SETUP) is Status.SUCCESS, "and set up again, with new keys"
    assert host.connection.stream.enable()
    phases = [event.new for event in host.events if isinstance(event, StateChanged) and "of the TSM" in event.subject]
    assert phases == [StreamPhase.READY.name, StreamPhase.STOPPED.name, StreamPhase.READY.name]
    host.check_declared()


def test_a_set_up_that_fails_leaves_no_keys_in_the_root_port() -> None:
    host = Host(connect=False)
    carry = Mailbox.carry
    seen = 0

    def losing(self: Mailbox, data_object: bytes, now: float) -> bytes:
        nonlocal seen
        context = next(iter(host.module.records.contexts.values()), None)
        seen += context is not None and context.agent.task is not None and "KM" in context.agent.task[0]
        return b"" if seen == 12 else carry(self, data_object, now)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Mailbox, "carry", losing)
        with pytest.raises(CallRefused, match="IDE_KM_FAILED"):
            host.vmm.pci_tsm.connect(host.pf, NOW)
    assert seen >= 12
    assert not host.port.ide.is_secure(STREAM)
    assert not host.port.ide.keyed(STREAM)
    assert host.memory.accounting() == host.before
    assert host.vmm.pci_tsm.connect(host.pf, NOW).stream.secure, "the next try succeeds"
    host.check_declared()


def test_a_stream_that_went_insecure_starts_nothing() -> None:
    host = Host()
    guest = Guest(host)
    lock = guest.bind()
    guest.report(lock)
    guest.validate(lock).require("validate")
    host.port.ide.make_insecure(STREAM, InsecureCause.CHECK_FAILED)
    with pytest.raises(CallRefused, match="INVALID_STATE"):
        guest.start(lock).require("start")
    assert guest.tdi.state is InterfaceState.ERROR
    host.check_declared()
