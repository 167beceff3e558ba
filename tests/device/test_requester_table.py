"""Every row of the requester table, in every state, by a device that really tries, as seen on the link."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import pytest

from device.link_tap import OTHER_STREAM, Agent, Seen, Tap, second_stream
from teeio.device.models.model import DmaError
from teeio.pcie.capabilities.ats import AtsCapability
from teeio.pcie.capabilities.page_request import PageRequestCapability
from teeio.pcie.tlp import MessageCode, TlpType
from teeio.pcie.translation import AddressType, Invalidation, invalidate_request
from teeio.tdisp.messages import InterfaceState, LockFlags
from teeio.tdisp.tlp_rules import REQUESTER_TABLE, RequesterTlp, Sending

UNLOCKED, LOCKED, RUN, ERROR = InterfaceState
STREAM, TARGET, VECTOR = 5, 0x3000, 1


class Attempt(NamedTuple):
    """How a kind of TLP is sent, and how it is known on the link; `locked` asks for a locked MSI-X table."""

    send: Callable[[Any, Any], object]
    known: Callable[[Seen], bool]
    locked: bool = False


def _is(kind: TlpType, address_type: AddressType = AddressType.UNTRANSLATED) -> Callable[[Seen], bool]:
    return lambda one: one.type is kind and one.address_type == address_type


def _says(code: MessageCode) -> Callable[[Seen], bool]:
    return lambda one: one.type.is_message and one.code == code


def _read_and_write(rig: Any, tdi: Any) -> None:
    bus = rig.device.bus_of(rig.address(tdi))
    bus.write(TARGET, b"payload!")
    bus.read(TARGET, 8)


def _interrupt(rig: Any, tdi: Any) -> None:
    rig.device.bus_of(rig.address(tdi)).interrupt(VECTOR)


def _by_msi(rig: Any, tdi: Any) -> None:
    function = tdi.function
    function.msi.set(function.msi.CONTROL, enable=1)
    function.msi.set(function.msi.ADDRESS, address=TARGET >> 2)
    function.msi.set(function.msi.DATA, data=0x77)
    function.msix.set(function.msix.CONTROL, enable=0)
    _interrupt(rig, tdi)


def _invalidate(rig: Any, tdi: Any, t_bit: bool = False, stream_id: int = STREAM) -> None:
    """Let the host ask for an invalidation; the completion is the device's own."""
    request = invalidate_request(rig.root.function.requester_id, rig.address(tdi).requester_id, 3, Invalidation(page=1))
    assert rig.root.post(request, t_bit, stream_id)


ATTEMPTS: dict[RequesterTlp, Attempt] = {
    RequesterTlp.MEMORY: Attempt(_read_and_write, lambda one: one.type in (TlpType.MRD, TlpType.MWR)),
    RequesterTlp.MSI: Attempt(_by_msi, _is(TlpType.MWR)),
    RequesterTlp.MSIX: Attempt(_interrupt, _is(TlpType.MWR)),
    RequesterTlp.LOCKED_MSIX: Attempt(_interrupt, _is(TlpType.MWR), locked=True),
    RequesterTlp.TRANSLATION_REQUEST: Attempt(
        lambda rig, tdi: rig.device.bus_of(rig.address(tdi)).translating.request(TARGET),
        _is(TlpType.MRD, AddressType.TRANSLATION_REQUEST),
    ),
    RequesterTlp.PAGE_REQUEST: Attempt(
        lambda rig, tdi: rig.device.bus_of(rig.address(tdi)).translating.request_page(TARGET),
        _says(MessageCode.PAGE_REQUEST),
    ),
    RequesterTlp.INVALIDATE_COMPLETION: Attempt(_invalidate, _says(MessageCode.INVALIDATE_COMPLETION)),
    RequesterTlp.VENDOR_MESSAGE: Attempt(
        lambda rig, tdi: rig.device.bus_of(rig.address(tdi)).vendor_message(b"TDI said", b"data"),
        _says(MessageCode.VENDOR_DEFINED_1),
    ),
}


def ready(make_rig: Callable[..., Any], which: str, state: InterfaceState, *, locked: bool = False) -> tuple[Any, Any]:
    """Give a bench with a TDI in a state, everything enabled that the table rules."""
    rig = make_rig().protect()
    second_stream(rig)
    tdi = rig.pf if which == "pf" else rig.vf(1)
    function = tdi.function
    function.msix.set(function.msix.CONTROL, enable=1)
    function.msix.table.write(16 * VECTOR, 16, TARGET | 0x77 << 64)
    ats = function.space.need(AtsCapability)
    ats.write(AtsCapability.CONTROL.offset, 2, AtsCapability.CONTROL.put(0, enable=1))
    pages = rig.pf.function.space.need(PageRequestCapability)
    pages.set(pages.CONTROL, enable=1)
    pages.set(pages.ALLOCATION, requests=4)
    rig.root.agent = Agent(rig)
    return rig, rig.bring(tdi, state, LockFlags.LOCK_MSIX if locked else LockFlags.NONE)


@pytest.mark.parametrize("state", list(InterfaceState), ids=lambda state: state.name)
@pytest.mark.parametrize("kind", list(REQUESTER_TABLE), ids=lambda kind: kind.name)
@pytest.mark.parametrize("which", ["pf", "vf"])
def test_what_leaves_the_device_is_what_the_table_says(
    make_rig: Callable[..., Any], which: str, kind: RequesterTlp, state: InterfaceState
) -> None:
    attempt = ATTEMPTS[kind]
    rig, tdi = ready(make_rig, which, state, locked=attempt.locked)
    # Before the lock no table is locked, and the row of the locked one says the same as the other.
    sending = REQUESTER_TABLE[kind][state]
    tap = Tap(rig.link)
    if sending is Sending.FORBIDDEN:
        try:
            attempt.send(rig, tdi)
        except DmaError as error:
            assert state.name in str(error)
        assert tap.up() == []
        assert tdi.state is state
        return
    attempt.send(rig, tdi)
    sent = tap.up()
    assert sent
    for one in sent:
        assert attempt.known(one)
        assert (one.t_bit, one.stream_id) == (sending is Sending.TRUSTED, STREAM)
        assert one.requester_id == rig.address(tdi).requester_id
    assert tdi.state is state


@pytest.mark.parametrize("state", list(InterfaceState), ids=lambda state: state.name)
@pytest.mark.parametrize("way", [(False, STREAM), (True, STREAM), (False, OTHER_STREAM), (True, OTHER_STREAM)])
def test_an_invalidate_completion_goes_the_way_its_request_came(
    make_rig: Callable[..., Any], state: InterfaceState, way: tuple[bool, int]
) -> None:
    rig, tdi = ready(make_rig, "vf", state)
    tap = Tap(rig.link)
    _invalidate(rig, tdi, *way)
    assert REQUESTER_TABLE[RequesterTlp.INVALIDATE_COMPLETION][state] is Sending.AS_REQUEST
    assert [(one.code, one.t_bit, one.stream_id) for one in tap.up()] == [(MessageCode.INVALIDATE_COMPLETION, *way)]
    assert rig.root.agent.asked == ["INVALIDATE_COMPLETION"]


def test_an_invalidation_without_ide_is_completed_without_ide(make_rig: Callable[..., Any]) -> None:
    rig, tdi = ready(make_rig, "pf", RUN)
    tap = Tap(rig.link)
    root, device = rig.root.function.requester_id, rig.address(tdi).requester_id
    rig.root.ide.transmit_plain(invalidate_request(root, device, 0, Invalidation(page=1)))
    assert [(one.code, one.t_bit, one.stream_id) for one in tap.up()] == [
        (MessageCode.INVALIDATE_COMPLETION, False, None)
    ]


@pytest.mark.parametrize("state", list(InterfaceState), ids=lambda state: state.name)
def test_only_the_tdi_that_may_send_sends(make_rig: Callable[..., Any], state: InterfaceState) -> None:
    """The states of two functions of one device do not rub off on each other."""
    rig, _ = ready(make_rig, "vf", state)
    tap = Tap(rig.link)
    _read_and_write(rig, rig.pf)
    assert {(one.t_bit, one.requester_id) for one in tap.up()} == {(False, rig.address(rig.pf).requester_id)}
