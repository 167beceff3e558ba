"""What TVMs do: an honest one with its own interface, call by call; and any one with the other's, by the other's name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from teeio.abi import hypercalls as v
from teeio.abi import tdcalls as g
from teeio.abi.operands import GPA_SHARED_BIT, PAGE_SIZE, DevifOperation
from teeio.errors import Misuse
from teeio.explorer.action import Leaves, Own, Topic
from teeio.explorer.witness import OWN_INTERFACE
from teeio.explorer.world import Tenant, World
from teeio.guest.accept import tee_ranges
from teeio.guest.attest import exchange, read_interface
from teeio.tdisp.messages import DeviceInterfaceReport


def _bind(world: World, own: Tenant) -> None:
    tvm = own.guest.tvm
    tvm.ask(v.TdcmBind(function_id=own.function_id), tvm.vmm.tdcm_bind, world.now())


def _attest(world: World, own: Tenant) -> None:
    """Take the lock's id, then what belongs to it; the evidence counts for that lock alone."""
    tvm, function_id = own.guest.tvm, own.function_id
    info = read_interface(tvm, function_id)
    if info.bind_session_id != own.attested:
        own.attested, own.ranges = 0, ()
    call = v.TdcmGetTdiReport(function_id=function_id)
    carried, answer = exchange(
        tvm,
        function_id,
        info.bind_session_id,
        DevifOperation.REPORT,
        lambda: tvm.ask(call, tvm.vmm.tdcm_get_tdi_report, world.now()),
    )
    if answer.bind_session_id == info.bind_session_id:
        report = DeviceInterfaceReport.decode(carried.report)
        own.ranges = tee_ranges(report, info.mmio_reporting_offset, own.interface.function.bars)
        own.reporting_offset = info.mmio_reporting_offset
        own.attested = info.bind_session_id


def _validate(world: World, own: Tenant) -> None:
    tvm = own.guest.tvm
    key = read_interface(tvm, own.function_id).public_key_hash
    validate = g.TdgDevifValidate(function_id=own.function_id, bind_session_id=own.attested, public_key_hash=key)
    tvm.tdcall(validate, tvm.tsm.tdg_devif_validate)


def _accept(world: World, own: Tenant) -> None:
    _validate(world, own)
    tvm = own.guest.tvm
    for found in own.ranges:
        call = g.TdgMmioAccept(
            function_id=own.function_id,
            bind_session_id=own.attested,
            gpa=found.gpa,
            range_index=found.index,
            page_offset=0,
            count=found.pages,
        )
        tvm.tdcall(call, tvm.tsm.tdg_mmio_accept)
        physical = found.first_page * PAGE_SIZE - own.reporting_offset
        own.mmio.update((found.gpa + at, physical + at) for at in range(0, found.pages * PAGE_SIZE, PAGE_SIZE))


def _accept_dma(world: World, own: Tenant) -> None:
    tvm = own.guest.tvm
    call = g.TdgDmarAccept(function_id=own.function_id, bind_session_id=own.attested)
    tvm.tdcall(call, tvm.tsm.tdg_dmar_accept)


def _allow_start(world: World, own: Tenant) -> None:
    tvm = own.guest.tvm
    tvm.tdcall(g.TdgTdiStart(function_id=own.function_id, bind_session_id=own.attested), tvm.tsm.tdg_tdi_start)
    own.allowed = own.attested


def _write_registers(world: World, own: Tenant) -> None:
    """Write the secret to the device, which only its own TVM may read there."""
    if not own.ranges:
        raise Misuse("the TVM knows of no register", remedy="read the report first")
    own.guest.tvm.processor.store(own.ranges[-1].gpa + PAGE_SIZE, own.mark[:8])


def _accept_page(world: World, own: Tenant) -> None:
    tvm = own.guest.tvm
    tvm.tdcall(g.TdgMemPageAccept(gpa=own.spare), tvm.tsm.tdg_mem_page_accept)


# -- shared memory ------------------------------------------------------------------------------------------------------


def _share(world: World, own: Tenant) -> None:
    if own.shared is not None:
        raise Misuse("the TVM shares a page already")
    own.shared = own.guest.tvm.allocate_shared(PAGE_SIZE, world.now())


def _unshare(world: World, own: Tenant) -> None:
    if own.shared is None:
        raise Misuse("the TVM shares no page")
    own.guest.tvm.free(own.shared, world.now())
    own.shared = None


def _write_shared(world: World, own: Tenant) -> None:
    own.guest.tvm.processor.store(own.shared_page | GPA_SHARED_BIT, own.public)


# -- the other's interface, which does not exist for this TVM ------------------------------------------------------------


def _on_others(
    what: str, call: type, method: str, operands: Callable[[Tenant, int], dict[str, Any]], topic: Topic = Topic.LIFE
) -> Own:
    """Name the other's interface in a call; `operands` has the caller and the lock that holds. That it is answered is noted."""

    def reach(world: World, own: Tenant) -> None:
        other, tvm = world.other(own), own.guest.tvm
        devif = world.tsm.records.devifs.get(other.function_id)
        lock = devif.bind_session_id if devif else 0
        tvm.tdcall(call(function_id=other.function_id, **operands(own, lock)), getattr(tvm.tsm, method))
        if devif is None or devif.tvm.tdr != own.tdr:
            world.witness.note(OWN_INTERFACE, f"TVM {own.name} could {what} the interface of TVM {other.name}")

    return Own("TVM", f"{what} the other's interface", topic, reach)


def _lock(own: Tenant, lock: int) -> dict[str, Any]:
    return {"bind_session_id": lock}


_ON_OTHERS = (
    _on_others("read", g.TdgDevifRead, "tdg_devif_read", lambda *_: {}),
    _on_others(
        "ask for the report of",
        g.TdgDevifRequest,
        "tdg_devif_request",
        lambda _, lock: {"bind_session_id": lock, "operation": DevifOperation.REPORT},
    ),
    _on_others("accept the DMA of", g.TdgDmarAccept, "tdg_dmar_accept", _lock, Topic.LIFE | Topic.DMA),
    _on_others("allow the start of", g.TdgTdiStart, "tdg_tdi_start", _lock),
    _on_others(
        "accept the MMIO of",
        g.TdgMmioAccept,
        "tdg_mmio_accept",
        lambda own, lock: {
            "bind_session_id": lock,
            "gpa": own.registers,
            "range_index": 0,
            "page_offset": 0,
            "count": 1,
        },
        Topic.MMIO,
    ),
)


TVM_ACTIONS: tuple[Own, ...] = (
    Own("TVM", "ask to bind and lock", Topic.LIFE, _bind, leaves=Leaves.STEPS),
    Own("TVM", "read the report and the lock's id", Topic.LIFE | Topic.MMIO, _attest, leaves=Leaves.STEPS),
    Own("TVM", "validate the device's key", Topic.LIFE, _validate, of="A"),
    Own("TVM", "validate, accept MMIO", Topic.LIFE | Topic.MMIO, _accept, leaves=Leaves.STEPS),
    Own("TVM", "accept DMA", Topic.LIFE | Topic.DMA, _accept_dma),
    Own("TVM", "allow the start", Topic.LIFE, _allow_start),
    Own("TVM", "write to the device", Topic.LIFE | Topic.MMIO | Topic.LINK, _write_registers),
    Own("TVM", "accept the given page", Topic.MEMORY, _accept_page),
    Own("TVM", "share a page", Topic.MEMORY, _share, of="A"),
    Own("TVM", "make the shared page private", Topic.MEMORY, _unshare, of="A"),
    Own("TVM", "write to the shared page", Topic.MEMORY, _write_shared, of="A"),
    *_ON_OTHERS,
)
"""Everything that a TVM can do."""
