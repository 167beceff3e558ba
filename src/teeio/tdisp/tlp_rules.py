"""What TLPs a TDI may send and accept in each state: two tables (PCIe Base 11.2.1, 11.4.10).

The device asks before it sends (`requester_rule`) and when a request for its MMIO arrives (`completer_rule`).
Configuration requests need no IDE and are not judged here; I/O space must not carry a function that a TVM relies on.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from types import MappingProxyType

from teeio.tdisp.messages import InterfaceState, RangeAttributes
from teeio.tdisp.states import ERROR, LOCKED, RUN, UNLOCKED


class RequesterTlp(Enum):
    """Kinds of TLP that a TDI sends."""

    MEMORY = "memory read or write that is no interrupt"
    MSI = "interrupt by the MSI capability"
    MSIX = "interrupt by the MSI-X table, the table not locked"
    LOCKED_MSIX = "interrupt by the MSI-X table, the table locked and reported"
    TRANSLATION_REQUEST = "ATS Translation Request"
    PAGE_REQUEST = "Page Request"
    INVALIDATE_COMPLETION = "ATS Invalidate Completion"
    VENDOR_MESSAGE = "vendor-defined message that is TDI-specific"


class Sending(Enum):
    """How a TLP may be sent."""

    FORBIDDEN = "not at all"
    LEGACY = "T clear, as for a legacy VM"
    UNTRUSTED = "T clear"
    TRUSTED = "T set, on a bound stream"
    AS_REQUEST = "T and stream of the request that it completes"


def _row(unlocked: Sending, locked: Sending, run: Sending, error: Sending) -> Mapping[InterfaceState, Sending]:
    return MappingProxyType({UNLOCKED: unlocked, LOCKED: locked, RUN: run, ERROR: error})


_NO, _OLD, _T0, _T1, _SAME = Sending.FORBIDDEN, Sending.LEGACY, Sending.UNTRUSTED, Sending.TRUSTED, Sending.AS_REQUEST

REQUESTER_TABLE: Mapping[RequesterTlp, Mapping[InterfaceState, Sending]] = MappingProxyType(
    {
        RequesterTlp.MEMORY: _row(_OLD, _NO, _T1, _NO),
        RequesterTlp.MSI: _row(_OLD, _T0, _T0, _NO),
        RequesterTlp.MSIX: _row(_OLD, _T0, _T0, _NO),
        RequesterTlp.LOCKED_MSIX: _row(_OLD, _T0, _T1, _NO),
        # UNCONFIRMED: a device guide's tables for ATS in ERROR contradict themselves; forbidden here.
        RequesterTlp.TRANSLATION_REQUEST: _row(_OLD, _NO, _T1, _NO),
        RequesterTlp.PAGE_REQUEST: _row(_OLD, _NO, _T1, _NO),
        RequesterTlp.INVALIDATE_COMPLETION: _row(_SAME, _SAME, _SAME, _SAME),
        RequesterTlp.VENDOR_MESSAGE: _row(_NO, _T1, _T1, _T1),
    }
)
"""How each kind of TLP may be sent in each state."""


def requester_rule(kind: RequesterTlp, state: InterfaceState) -> Sending:
    """Say how the TDI may send a TLP of `kind` in `state`."""
    return REQUESTER_TABLE[kind][state]


def completion_accepted(state: InterfaceState) -> bool:
    """Tell whether a completion of the TDI's T=1 read still counts; its T bit does not matter (11.2.1)."""
    return state is RUN


class Target(Enum):
    """Kinds of MMIO that a request may aim at."""

    TEE = "range with IS_NON_TEE_MEM clear"
    NON_TEE = "range with IS_NON_TEE_MEM set"
    LOCKED_MSIX = "MSI-X table or PBA, locked"


class Access(Enum):
    """How a memory request arrived."""

    TRUSTED_BOUND = "T set, on a bound stream"
    TRUSTED_ELSEWHERE = "T set, on another stream"
    UNTRUSTED = "T clear, or not under IDE"


class Handling(Enum):
    """What becomes of a memory request: handled, or rejected as UR, Unexpected Completion or a drop."""

    HANDLE = "handle"
    REJECT = "reject"


def _handled_in(*states: InterfaceState) -> Mapping[InterfaceState, Handling]:
    return MappingProxyType({s: Handling.HANDLE if s in states else Handling.REJECT for s in InterfaceState})


_ALWAYS = _handled_in(*InterfaceState)
_PROTECTED = {
    Access.TRUSTED_BOUND: _handled_in(RUN),
    Access.TRUSTED_ELSEWHERE: _handled_in(),
    # Own reading: before the lock the attribute has no meaning yet, so a legacy VM may use the range.
    Access.UNTRUSTED: _handled_in(UNLOCKED),
}

COMPLETER_TABLE: Mapping[Target, Mapping[Access, Mapping[InterfaceState, Handling]]] = MappingProxyType(
    {
        Target.TEE: MappingProxyType(_PROTECTED),
        Target.LOCKED_MSIX: MappingProxyType(_PROTECTED),
        Target.NON_TEE: MappingProxyType(dict.fromkeys(Access, _ALWAYS)),
    }
)
"""What becomes of a memory request to each kind of MMIO, by how it arrived and by state."""


def completer_rule(
    target: Target, access: Access, state: InterfaceState, *, non_tee_ignores_state: bool = True
) -> Handling:
    """Say what becomes of a memory request to the TDI's MMIO. The completion's T equals the request's.

    UNCONFIRMED: the completer rules say that handling of non-TEE ranges ignores the state, while the text on each
    state rejects requests with T set outside RUN without excepting them; `non_tee_ignores_state=False` follows the
    latter.
    """
    if not non_tee_ignores_state and access is not Access.UNTRUSTED and state is not RUN:
        return Handling.REJECT
    return COMPLETER_TABLE[target][access][state]


def target_of(attributes: RangeAttributes) -> Target:
    """Say which kind of MMIO a locked range with these attributes is; MSI-X ranges are reported only when locked."""
    if attributes & (RangeAttributes.MSIX_TABLE | RangeAttributes.MSIX_PBA):
        return Target.LOCKED_MSIX
    return Target.NON_TEE if attributes & RangeAttributes.IS_NON_TEE_MEM else Target.TEE
