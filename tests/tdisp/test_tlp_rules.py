"""The TLP tables: what each state allows, read against the rules of PCIe Base 11.2.1 as sentences."""

from __future__ import annotations

import pytest

from teeio.tdisp.messages import InterfaceState, RangeAttributes
from teeio.tdisp.tlp_rules import (
    COMPLETER_TABLE,
    REQUESTER_TABLE,
    Access,
    Handling,
    RequesterTlp,
    Sending,
    Target,
    completer_rule,
    completion_accepted,
    requester_rule,
    target_of,
)

RUN, ERROR = InterfaceState.RUN, InterfaceState.ERROR
ALL = list(InterfaceState)


def test_the_tables_are_complete() -> None:
    assert {(k, s) for k, row in REQUESTER_TABLE.items() for s in row} == {(k, s) for k in RequesterTlp for s in ALL}
    assert {(t, a, s) for t, rows in COMPLETER_TABLE.items() for a, row in rows.items() for s in row} == {
        (t, a, s) for t in Target for a in Access for s in ALL
    }


@pytest.mark.parametrize("state", ALL)
def test_memory_requests_of_a_tvm_go_out_only_in_run_with_t_set(state: InterfaceState) -> None:
    rule = requester_rule(RequesterTlp.MEMORY, state)
    assert (rule is Sending.TRUSTED) == (state is RUN)
    assert rule is not Sending.UNTRUSTED


@pytest.mark.parametrize("kind", [k for k in RequesterTlp if k is not RequesterTlp.INVALIDATE_COMPLETION])
def test_error_sends_nothing_but_trusted_vendor_messages(kind: RequesterTlp) -> None:
    rule = requester_rule(kind, ERROR)
    assert rule is (Sending.TRUSTED if kind is RequesterTlp.VENDOR_MESSAGE else Sending.FORBIDDEN)


def test_msix_is_trusted_only_when_the_table_is_locked() -> None:
    assert requester_rule(RequesterTlp.LOCKED_MSIX, RUN) is Sending.TRUSTED
    assert requester_rule(RequesterTlp.MSIX, RUN) is Sending.UNTRUSTED
    assert requester_rule(RequesterTlp.MSI, RUN) is Sending.UNTRUSTED


@pytest.mark.parametrize("state", ALL)
@pytest.mark.parametrize("target", [Target.TEE, Target.LOCKED_MSIX])
def test_tee_ranges_answer_only_the_bound_stream_in_run(target: Target, state: InterfaceState) -> None:
    assert (completer_rule(target, Access.TRUSTED_BOUND, state) is Handling.HANDLE) == (state is RUN)
    assert completer_rule(target, Access.TRUSTED_ELSEWHERE, state) is Handling.REJECT
    legacy = state is InterfaceState.CONFIG_UNLOCKED
    assert (completer_rule(target, Access.UNTRUSTED, state) is Handling.HANDLE) == legacy


@pytest.mark.parametrize("state", ALL)
@pytest.mark.parametrize("access", list(Access))
def test_non_tee_ranges_ignore_the_state_unless_told_otherwise(access: Access, state: InterfaceState) -> None:
    assert completer_rule(Target.NON_TEE, access, state) is Handling.HANDLE
    strict = completer_rule(Target.NON_TEE, access, state, non_tee_ignores_state=False)
    assert (strict is Handling.HANDLE) == (access is Access.UNTRUSTED or state is RUN)


@pytest.mark.parametrize("state", ALL)
def test_completions_count_only_in_run(state: InterfaceState) -> None:
    assert completion_accepted(state) == (state is RUN)


@pytest.mark.parametrize(
    ("attributes", "target"),
    [
        (RangeAttributes.NONE, Target.TEE),
        (RangeAttributes.IS_MEM_ATTR_UPDATABLE, Target.TEE),
        (RangeAttributes.IS_NON_TEE_MEM, Target.NON_TEE),
        (RangeAttributes.MSIX_TABLE, Target.LOCKED_MSIX),
        (RangeAttributes.MSIX_PBA | RangeAttributes.IS_NON_TEE_MEM, Target.LOCKED_MSIX),
    ],
)
def test_target_of(attributes: RangeAttributes, target: Target) -> None:
    assert target_of(attributes) is target
