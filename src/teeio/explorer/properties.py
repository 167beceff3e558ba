"""What must hold in every state, each as a row: isolation of bytes, mappings and calls, T=1 only in RUN, evidence of one lock, fresh IVs.

What cannot be told from a state, since it happened on the way, a witness has noted.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from teeio.abi.operands import PAGE_SIZE, DmarLevel
from teeio.errors import TeeioError
from teeio.explorer.witness import RULES
from teeio.explorer.world import World
from teeio.host.dmar_tables import address
from teeio.host.secure_ept import TRANSLATES, SeptState
from teeio.host.tdx.records import StreamPhase
from teeio.tdisp.messages import InterfaceState


@dataclass(frozen=True, slots=True)
class Property:
    """A rule over the whole world: `broken` says how it does not hold, or None. To look changes nothing, and sends no TLP."""

    name: str
    broken: Callable[[World], str | None]


def _vmm_reads(world: World) -> str | None:
    """Read all memory that was ever written to; the rest holds zeroes."""
    memory = world.platform.memory
    pages = (page for page, written in enumerate(memory._written) if written)
    seen = b"".join(world.platform.vmm.memory.read(page * PAGE_SIZE, PAGE_SIZE) for page in pages)
    for tenant in world.tenants:
        if tenant.mark in seen:
            return f"the VMM reads the secret of TVM {tenant.name} in memory"
    return None


def _other_reads(world: World) -> str | None:
    """Look through the eyes of each TVM at all that it has mapped, for the other's secret."""
    memory = world.platform.memory
    for tenant in world.living:
        sept = world.sept(tenant)
        for _, leaf in sept.leaves():
            if leaf.state not in TRANSLATES or leaf.state is SeptState.MMIO_MAPPED:  # that is another property's
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
    """Look at the device's memory with T=0, as the VMM can. No TLP is sent: looking must not change what is looked at."""
    for tenant in world.tenants:
        reply = world.platform.device.bar_read(tenant.vf.address, 0, 2 * PAGE_SIZE, 8, False, None)
        if reply.ok and reply.data == tenant.mark[:8]:
            return f"the VMM reads with T=0 what TVM {tenant.name} wrote to its device"
    return None


def _altered(world: World) -> str | None:
    """Look whether each TVM's page holds what was written there, and its device's memory nothing else either."""
    memory = world.platform.memory
    for tenant in world.living:
        sept = world.sept(tenant)
        leaf = sept.translate(tenant.secret)
        try:
            page = tenant.mark if leaf is None else memory.view(sept.owner).read(leaf.hpa, len(tenant.mark))
        except TeeioError:
            page = tenant.mark  # the TVM is told that the page is poisoned, and takes nothing of it for its own
        if page != tenant.mark:
            return f"the page of TVM {tenant.name} holds {page[:32]!r}, which nobody wrote"
    for tenant in world.tenants:
        model: Any = tenant.tdi.function.model
        held = model.memory
        if held != bytes(len(held)) and held.strip(b"\0") != tenant.mark[:8]:
            return f"the device of TVM {tenant.name} holds what its TVM did not write"
    return None


def _private_mmio(world: World) -> str | None:
    """Look where private MMIO leads: to an interface of the same TVM, and once accepted where the TVM has been told."""
    records = world.platform.module.records
    for tenant in world.living:
        for gpa, leaf in world.sept(tenant).leaves():
            if leaf.state not in (SeptState.MMIO_PENDING, SeptState.MMIO_MAPPED):
                continue
            entry = records.mmio.entry(leaf.hpa)
            devif = records.devifs.get(entry.function_id) if entry else None
            if devif is None or devif.tvm.tdr != tenant.tdr:
                return f"TVM {tenant.name}'s private MMIO at {gpa:#x} is of no interface of its own"
            if leaf.state is SeptState.MMIO_MAPPED and tenant.mmio.get(gpa) != leaf.hpa:
                return f"TVM {tenant.name}'s private MMIO at {gpa:#x} leads to {leaf.hpa:#x}, which no report has there"
    return None


def _trusted_entries(world: World) -> str | None:
    """Look where the trusted entries lead that count."""
    records = world.platform.module.records
    for level, requester_id, entry in world.trusted_entries():
        devif = records.devifs.get(requester_id)
        present = level is DmarLevel.PASID and entry.present
        if present and (devif is None or address(entry) != devif.tvm.tdr):
            return f"the trusted entry of requester {requester_id:#06x} leads to another TVM than its own"
    return None


def _in_the_clear(world: World) -> str | None:
    leaked = world.tap.leaked
    return f"a TLP of {len(leaked)} bytes shows a secret" if leaked is not None else None


def _start_on_other_evidence(world: World) -> str | None:
    for tenant in world.tenants:
        devif = world.platform.module.records.devifs.get(tenant.function_id)
        state = tenant.tdi.state
        if devif is None or state is not InterfaceState.RUN or devif.state is not InterfaceState.RUN:
            continue
        if devif.tvm.tdr != tenant.tdr:
            return f"the VF of TVM {tenant.name} runs for another TVM, which has seen no evidence"
        lock, says = devif.bind_session_id, f"the VF of TVM {tenant.name} runs under lock {devif.bind_session_id}"
        if lock != tenant.attested:
            return f"{says}, the evidence is of lock {tenant.attested}"
        if lock != tenant.allowed:
            return f"{says}, for which its TVM has not allowed the start"
    return None


def _without_lock(world: World) -> str | None:
    """Look at what the TSM takes for locked: an answer that came too late must not have brought it back."""
    for devif in world.platform.module.records.devifs.values():
        if devif.state.locked and not devif.bind_session_id:
            return f"interface {devif.function_id:#06x} is {devif.state.name} in the TSM's eyes, under no lock"
        if devif.state.locked and devif.stream.phase is StreamPhase.BLOCKED:
            return f"interface {devif.function_id:#06x} is {devif.state.name} in the TSM's eyes on a blocked stream"
    return None


def _outlived_session(world: World) -> str | None:
    """Look for what should have ended with its session, at the TSM and in the device (PCIe Base 11.4.5)."""
    for stream in world.platform.module.records.streams():
        if stream.phase is StreamPhase.READY and stream.spdm.agent.session is None:
            return f"IDE stream {stream.stream_id} is in use in the TSM's eyes, its session is over"
    sessions = world.platform.device.responder.sessions
    for tenant in world.tenants:
        interface = tenant.tdi.interface
        if interface.state.locked and interface.session not in sessions:
            return f"the VF of TVM {tenant.name} is {interface.state.name}, the session that locked it is over"
    return None


def _silent_session(world: World) -> str | None:
    device = world.platform.device
    for session in device.responder.sessions.values():
        silent = device.now - session.last_seen
        if session.heartbeat_period and silent > 2 * session.heartbeat_period:
            return f"session {session.session_id:#x} goes on at the device after {silent:.0f} s of silence"
    return None


def _repeated_iv(world: World) -> str | None:
    repeated = world.ledger.repeated if world.ledger else None
    return f"sealed twice with {repeated}" if repeated else None


UNTOUCHED = "what is refused changes nothing"
NO_CRASH = "nothing but a TeeioError comes out"

OF_STEPS = (UNTOUCHED, NO_CRASH)
"""Rules over a step, not over a state; the search looks at them."""


def _witnessed(rule: str) -> Property:
    return Property(rule, lambda world: world.witness.problems.get(rule))


PROPERTIES: tuple[Property, ...] = (
    *(_witnessed(rule) for rule in RULES),
    Property("no private byte is readable by the VMM", _vmm_reads),
    Property("no private byte is readable by another TVM", _other_reads),
    Property("nothing that a TVM wrote to its device is readable with T=0", _device_gives),
    Property("no secret is in the clear on the link", _in_the_clear),
    Property("nothing is altered on its way", _altered),
    Property("a TVM's private MMIO is its own interface's, as it was reported", _private_mmio),
    Property("a trusted entry that counts leads to the interface's TVM", _trusted_entries),
    Property("no start on evidence of another lock, none that the TVM has not allowed", _start_on_other_evidence),
    Property("no interface counts as locked without a lock, or on a blocked stream", _without_lock),
    Property("no stream and no lock outlives its session", _outlived_session),
    Property("no session goes on in silence for two heartbeat periods", _silent_session),
    Property("no late TLP of one TVM counts as another's", lambda world: world.tap.late()),
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
