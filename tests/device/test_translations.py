"""ATS and page requests of a function: what it keeps, when it forgets, and what ends its trust."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from device.link_tap import OTHER_STREAM, Agent, Tap, second_stream
from teeio.device.models.model import DmaError
from teeio.device.translations import CACHE_SIZE
from teeio.pcie.capabilities.ats import AtsCapability
from teeio.pcie.capabilities.page_request import PageRequestCapability
from teeio.pcie.tlp import TlpType
from teeio.pcie.translation import (
    AddressType,
    Invalidation,
    PageResponse,
    ResponseCode,
    invalidate_request,
    page_response,
)
from teeio.tdisp.messages import InterfaceInfo, InterfaceState, LockFlags
from teeio.tdisp.states import Event

UNLOCKED, LOCKED, RUN, ERROR = InterfaceState
SESSION, STREAM, PAGE, TARGET = 0x11, 5, 4096, 0x3000


def translating(make_rig: Callable[..., Any], state: InterfaceState = RUN) -> tuple[Any, Any, Any]:
    """Give a bench whose host serves ATS, the PF's TDI, and its ATS side."""
    rig = make_rig(vfs=1).protect()
    space = rig.pf.function.space
    ats, pages = space.need(AtsCapability), space.need(PageRequestCapability)
    ats.write(AtsCapability.CONTROL.offset, 2, AtsCapability.CONTROL.put(0, enable=1))
    pages.write(PageRequestCapability.CONTROL.offset, 2, 1)
    pages.write(PageRequestCapability.ALLOCATION.offset, 4, 2)
    rig.root.agent = Agent(rig)
    tdi = rig.bring(rig.pf, state)
    return rig, tdi, rig.device.bus_of(rig.address(tdi)).translating


def told(rig: Any, tlp: Any, t_bit: bool = True) -> None:
    assert rig.root.post(tlp, t_bit, STREAM)


def response(rig: Any, **fields: Any) -> Any:
    body = PageResponse(destination=rig.address(rig.pf).requester_id, **fields)
    return page_response(rig.root.function.requester_id, body)


def invalidation(rig: Any, tag: int = 0, **fields: int) -> Any:
    return invalidate_request(
        rig.root.function.requester_id, rig.address(rig.pf).requester_id, tag, Invalidation(**fields)
    )


@pytest.mark.parametrize("state", [UNLOCKED, RUN], ids=lambda state: state.name)
def test_what_is_translated_is_asked_for_by_translated_address(
    make_rig: Callable[..., Any], state: InterfaceState
) -> None:
    rig, tdi, side = translating(make_rig, state)
    bus = rig.device.bus_of(rig.address(tdi))
    (entry,) = side.request(TARGET)
    assert (entry.page, entry.read, entry.write) == (TARGET // PAGE, 1, 1)
    tap = Tap(rig.link)
    bus.write(TARGET + 8, b"payload!")
    assert bus.read(TARGET + 8, 8) == b"payload!"
    bus.read(TARGET + PAGE, 8)
    assert [(one.type, one.address_type, one.t_bit, one.stream_id) for one in tap.up()] == [
        (TlpType.MWR, AddressType.TRANSLATED, state is RUN, STREAM),
        (TlpType.MRD, AddressType.TRANSLATED, state is RUN, STREAM),
        (TlpType.MRD, AddressType.UNTRANSLATED, state is RUN, STREAM),
    ]
    assert rig.host.memory[TARGET + 8 : TARGET + 16] == b"payload!"


@pytest.mark.parametrize(
    ("entry", "reads", "writes"),
    [
        ({"read": 1, "write": 1}, True, True),
        ({"read": 1}, True, False),
        ({"write": 1}, False, True),
        ({}, False, False),
        ({"read": 1, "write": 1, "untranslated_only": 1}, False, False),
    ],
)
def test_a_translation_serves_only_what_it_allows(
    make_rig: Callable[..., Any], entry: dict[str, int], reads: bool, writes: bool
) -> None:
    rig, tdi, side = translating(make_rig)
    rig.root.agent.entry = entry
    side.request(TARGET)
    tap, bus = Tap(rig.link), rig.device.bus_of(rig.address(tdi))
    bus.read(TARGET, 4)
    bus.write(TARGET, b"word")
    assert [one.address_type == AddressType.TRANSLATED for one in tap.up()] == [reads, writes]


@pytest.mark.parametrize(
    ("first", "fields"),
    [(TARGET, {"page": 3}), (TARGET, {"page": 1, "large": 1}), (TARGET, {"page": 0x7FFFFFFFFFFFF, "large": 1})],
)
def test_an_invalidation_takes_what_it_names(make_rig: Callable[..., Any], first: int, fields: dict[str, int]) -> None:
    rig, _, side = translating(make_rig)
    side.request(first, 2)
    assert len(side.cache) == 2
    told(rig, invalidation(rig, **fields))
    assert side.cache.find(first, write=False) is None
    # Page 3 alone; pages 0 to 3; everything.
    assert (side.cache.find(first + PAGE, write=False) is None) == (fields["page"] > 3)
    assert rig.root.agent.asked == ["translate", "INVALIDATE_COMPLETION"]


def test_an_invalidation_of_something_else_takes_nothing(make_rig: Callable[..., Any]) -> None:
    rig, _, side = translating(make_rig)
    side.request(TARGET)
    told(rig, invalidation(rig, page=9))
    assert len(side.cache) == 1


@pytest.mark.parametrize("what", ["ITag", "ATS off", "another function", "cut short"])
def test_an_invalidation_that_makes_no_sense_is_not_completed(make_rig: Callable[..., Any], what: str) -> None:
    rig, tdi, side = translating(make_rig)
    tlp = invalidation(rig, 32 if what == "ITag" else 0, page=1)
    if what == "ATS off":
        rig.pf.function.space.need(AtsCapability).write(AtsCapability.CONTROL.offset, 2, 0)
    if what == "another function":
        tlp = invalidate_request(rig.root.function.requester_id, 0x01F8, 0, Invalidation(page=1))
    if what == "cut short":
        tlp = tlp._replace(header=tlp.header[:3] + b"\1" + tlp.header[4:], payload=tlp.payload[:4])
    told(rig, tlp)
    assert rig.root.agent.asked == []
    assert tdi.state is RUN
    side.cache.clear()


CHANGES: dict[str, Callable[[Any, Any], object]] = {
    "lock": lambda rig, tdi: rig.lock(tdi),
    "stop": lambda rig, tdi: tdi.interface.stop(SESSION),
    "error": lambda rig, tdi: tdi.interface.happen(Event.TRUST_CHANGED),
    "ATS off": lambda rig, tdi: tdi.function.space.need(AtsCapability).write(AtsCapability.CONTROL.offset, 2, 0),
    "reset": lambda rig, tdi: tdi.function.reset(),
}


@pytest.mark.parametrize("change", CHANGES)
def test_no_translation_outlives_what_made_it(make_rig: Callable[..., Any], change: str) -> None:
    """A translation from before the lock would lead the TVM's data to where the VMM wants them."""
    rig, tdi, side = translating(make_rig, UNLOCKED if change == "lock" else RUN)
    side.request(TARGET)
    assert len(side.cache) == 1
    CHANGES[change](rig, tdi)
    assert len(side.cache) == 0


def test_the_cache_is_bounded(make_rig: Callable[..., Any]) -> None:
    _, _, side = translating(make_rig)
    side.request(0, CACHE_SIZE + 3)
    assert len(side.cache) == CACHE_SIZE
    assert side.cache.find(0, write=False) is None
    assert side.cache.find(CACHE_SIZE * PAGE, write=False) == CACHE_SIZE * PAGE


@pytest.mark.parametrize(("state", "after"), [(RUN, ERROR), (UNLOCKED, UNLOCKED)])
def test_a_translation_completed_with_t_clear_ends_trust(
    make_rig: Callable[..., Any], state: InterfaceState, after: InterfaceState, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The partner itself answers with T clear, under a good MAC."""
    rig, tdi, side = translating(make_rig, state)
    answer = rig.root._answer
    monkeypatch.setattr(rig.root, "_answer", lambda received, reply: answer(received._replace(t_bit=False), reply))
    if state is RUN:
        with pytest.raises(DmaError, match="UNPROTECTED"):
            side.request(TARGET)
        assert rig.causes()[-1] == Event.UNPROTECTED_TRANSLATION.value
    else:
        side.request(TARGET)
    assert tdi.state is after
    assert len(side.cache) == (after is UNLOCKED)


def test_memory_completed_with_t_clear_does_not(make_rig: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """A requester in RUN ignores the T bit of completions that are no translations (11.2.1)."""
    rig, tdi, _ = translating(make_rig)
    answer = rig.root._answer
    monkeypatch.setattr(rig.root, "_answer", lambda received, reply: answer(received._replace(t_bit=False), reply))
    rig.host.memory[TARGET : TARGET + 4] = b"word"
    assert rig.device.bus_of(rig.address(tdi)).read(TARGET, 4) == b"word"
    assert tdi.state is RUN


@pytest.mark.parametrize(("state", "after"), [(RUN, ERROR), (UNLOCKED, UNLOCKED)])
def test_a_host_that_refuses_translations(
    make_rig: Callable[..., Any], state: InterfaceState, after: InterfaceState
) -> None:
    rig, tdi, side = translating(make_rig, state)
    rig.root.agent = None
    with pytest.raises(DmaError, match=r"UR|RUN"):
        side.request(TARGET)
    assert tdi.state is after


def test_translated_addresses_reach_nothing_where_nobody_serves_them(make_rig: Callable[..., Any]) -> None:
    """A root port without an agent took them for untranslated ones once."""
    rig, tdi, side = translating(make_rig, UNLOCKED)
    side.request(TARGET)
    rig.root.agent = None
    rig.host.asked.clear()
    bus = rig.device.bus_of(rig.address(tdi))
    bus.write(TARGET, b"evil")
    with pytest.raises(DmaError, match="UR"):
        bus.read(TARGET, 4)
    assert rig.host.asked == []
    assert rig.host.memory[TARGET : TARGET + 4] == bytes(4)


def test_without_ats_no_translation_is_asked_for(make_rig: Callable[..., Any]) -> None:
    rig, _, side = translating(make_rig)
    rig.pf.function.space.need(AtsCapability).write(AtsCapability.CONTROL.offset, 2, 0)
    with pytest.raises(DmaError, match="needs ATS"):
        side.request(TARGET)


# -- page requests


@pytest.mark.parametrize("state", [UNLOCKED, RUN], ids=lambda state: state.name)
def test_a_page_request_is_answered(make_rig: Callable[..., Any], state: InterfaceState) -> None:
    _, tdi, side = translating(make_rig, state)
    for _ in range(5):
        assert side.request_page(TARGET) is ResponseCode.SUCCESS
    assert tdi.state is state


def test_a_response_with_t_clear_ends_trust(make_rig: Callable[..., Any]) -> None:
    rig, tdi, side = translating(make_rig)
    rig.root.agent.t_of_response = False
    with pytest.raises(DmaError, match="RUN"):
        side.request_page(TARGET)
    assert tdi.state is ERROR
    assert rig.causes()[-1] == Event.UNPROTECTED_TRANSLATION.value


@pytest.mark.parametrize(("stream_id", "state"), [(STREAM, RUN), (OTHER_STREAM, ERROR)])
def test_a_response_with_t_set_counts_on_a_bound_stream_alone(
    make_rig: Callable[..., Any], stream_id: int, state: InterfaceState
) -> None:
    rig, tdi, side = translating(make_rig)
    second_stream(rig)
    rig.root.agent.answers_pages = False
    side.request_page(TARGET)
    assert rig.root.post(response(rig, group=0), True, stream_id)
    assert tdi.state is state


def test_no_more_page_requests_wait_than_were_allotted(make_rig: Callable[..., Any]) -> None:
    rig, _, side = translating(make_rig)
    rig.root.agent.answers_pages = False
    assert [side.request_page(TARGET), side.request_page(TARGET)] == [None, None]
    with pytest.raises(DmaError, match="needs page requests"):
        side.request_page(TARGET)
    told(rig, response(rig, group=1))
    assert side.request_page(TARGET) is None


def status(rig: Any, field: str) -> int:
    value: int = rig.pf.function.space.need(PageRequestCapability).get(PageRequestCapability.STATUS, field)
    return value


def test_responses_that_nobody_asked_for_show_in_the_status(make_rig: Callable[..., Any]) -> None:
    rig, tdi, _ = translating(make_rig)
    told(rig, response(rig, group=7), t_bit=False)
    assert status(rig, "unexpected_group")
    assert tdi.state is RUN


@pytest.mark.parametrize("code", [ResponseCode.FAILURE, 7])
def test_a_failure_shows_in_the_status(make_rig: Callable[..., Any], code: int) -> None:
    rig, _, side = translating(make_rig)
    rig.root.agent.answers_pages = False
    side.request_page(TARGET)
    told(rig, response(rig, group=0, code=code))
    assert status(rig, "response_failure")
    assert side.cache.answered(0) is ResponseCode.FAILURE


@pytest.mark.parametrize("which", ["pf", "vf"])
def test_page_requests_show_in_the_report_and_are_locked(make_rig: Callable[..., Any], which: str) -> None:
    """A VF uses the capability of its PF, so a change there hits the VF's TDI too (PCIe Base table 11-2)."""
    rig, _, _ = translating(make_rig, UNLOCKED)
    tdi = rig.bring(rig.pf if which == "pf" else rig.vf(0), RUN, LockFlags.NONE)
    assert tdi.interface.report(SESSION).info & InterfaceInfo.PRS_ENABLED
    pages = rig.pf.function.space.need(PageRequestCapability)
    rig.fabric.config_write(rig.address(rig.pf), pages.base + PageRequestCapability.ALLOCATION.offset, 4, 1)
    assert tdi.state is ERROR


def test_a_page_request_that_was_not_sent_is_not_outstanding(make_rig: Callable[..., Any]) -> None:
    rig, tdi, side = translating(make_rig, UNLOCKED)
    rig.device.port.ide.make_insecure(STREAM)
    for _ in range(4):
        with pytest.raises(DmaError, match="not answered"):
            side.request_page(TARGET)
    assert tdi.state is UNLOCKED
