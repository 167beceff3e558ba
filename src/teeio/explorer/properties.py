"""What must hold in every state, each as a row: isolation of bytes, T=1 only in RUN, one lock from evidence to start, fresh IVs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from teeio.abi.operands import PAGE_SIZE
from teeio.errors import TeeioError
from teeio.explorer.world import World
from teeio.host.secure_ept import TRANSLATES, SeptState
from teeio.scenarios.stage import STREAM_ID
from teeio.tdisp.messages import InterfaceState
from teeio.tdisp.tlp_rules import RequesterTlp, Sending


@dataclass(frozen=True, slots=True)
class Property:
    """A rule over the whole world: `broken` says how it does not hold, or None."""

    name: str
    broken: Callable[[World], str | None]


def _vmm_reads(world: World) -> str | None:
    memory = world.platform.vmm.memory.read(0, world.platform.memory.size)
    for tenant in world.tenants:
        if tenant.mark in memory:
            return f"the VMM reads the secret of TVM {tenant.name} in memory"
    return None


def _other_reads(world: World) -> str | None:
    """Look through the eyes of each TVM at all that it has mapped, for the other's secret."""
    memory = world.platform.memory
    for tenant in world.tenants:
        sept = world.platform.module.records.tvm(tenant.tdr).sept
        for _, leaf in sept.leaves():
            if leaf.state not in TRANSLATES or leaf.state is SeptState.MMIO_MAPPED:
                continue
            try:
                seen = memory.view(sept.owner).read(leaf.hpa, leaf.level.size)
            except TeeioError:
                continue
            for other in world.tenants:
                if other is not tenant and other.mark in seen:
                    return f"TVM {tenant.name} reads the secret of TVM {other.name}"
    return None


def _device_gives(world: World) -> str | None:
    """Look at the device's memory through T=0, which the VMM has."""
    for tenant in world.tenants:
        bar = tenant.vf.bars[0]
        seen = world.platform.root_complex.vmm.mmio_read(bar.address + 2 * PAGE_SIZE, 8)
        if seen == tenant.mark[:8]:
            return f"the VMM reads with T=0 what TVM {tenant.name} wrote to its device"
    return None


def _trusted_outside_run(world: World) -> str | None:
    device = world.platform.device
    for tenant in world.tenants:
        state = device.tdi(tenant.vf.address).state
        if state is InterfaceState.RUN:
            continue
        if device.bar_read(tenant.vf.address, 0, 0, 4, True, STREAM_ID).ok:
            return f"the VF of TVM {tenant.name} answers T=1 in {state.name}"
        if device.tdi(tenant.vf.address).sending(RequesterTlp.MEMORY) is Sending.TRUSTED:
            return f"the VF of TVM {tenant.name} sends T=1 in {state.name}"
    return None


def _start_on_other_evidence(world: World) -> str | None:
    for tenant in world.tenants:
        devif = world.platform.module.records.devifs.get(tenant.function_id)
        state = world.platform.device.tdi(tenant.vf.address).state
        if devif is None or state is not InterfaceState.RUN or devif.state is not InterfaceState.RUN:
            continue
        if devif.tvm.tdr != tenant.tdr:
            return f"the VF of TVM {tenant.name} runs for another TVM, which has seen no evidence"
        if devif.bind_session_id != tenant.attested:
            return (
                f"the VF of TVM {tenant.name} runs under lock {devif.bind_session_id}, "
                f"the evidence is of lock {tenant.attested}"
            )
    return None


def _repeated_iv(world: World) -> str | None:
    repeated = world.ledger.repeated if world.ledger else None
    return f"sealed twice with {repeated}" if repeated else None


PROPERTIES: tuple[Property, ...] = (
    Property("no private byte is readable by the VMM", _vmm_reads),
    Property("no private byte is readable by another TVM", _other_reads),
    Property("nothing that a TVM wrote to its device is readable with T=0", _device_gives),
    Property("no T=1 outside RUN", _trusted_outside_run),
    Property("no start on evidence of another lock", _start_on_other_evidence),
    Property("no key and IV twice", _repeated_iv),
)
"""All of them."""


def broken(world: World) -> tuple[str, str] | None:
    """Give the first property that does not hold, by name, and how; None if all hold."""
    for one in PROPERTIES:
        problem = one.broken(world)
        if problem is not None:
            return one.name, problem
    return None
