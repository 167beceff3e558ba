"""What the TVM finds in configuration space, and what it makes of a VMM that shows nonsense."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from guest.fake_memory import BAR0, BAR2, BAR4, REQUESTER_ID
from guest.fake_world import World
from teeio.abi.operands import PAGE_SIZE
from teeio.accelerator_interface import BAR_SIZE, VECTORS
from teeio.errors import AuthenticationFailed, Misuse, PeerViolation, TeeioError, TransportError
from teeio.guest.mmio import MmioWindow
from teeio.guest.pci import GuestBar, MsixPlace, enumerate_functions
from teeio.pcie.capabilities.header import CommonHeader
from teeio.pcie.capabilities.msix import MsixCapability


def test_the_function_is_found_as_it_is() -> None:
    world = World()
    before = world.config.snapshot()
    (function,) = enumerate_functions(world.tvm, 0.0)
    assert function.address.requester_id == REQUESTER_ID
    assert (function.vendor_id, function.device_id, function.class_code) == (0x7EE0, 0x10A0, 0x120000)
    assert function.tee_io
    assert function.bars == (
        GuestBar(0, BAR0, BAR_SIZE, True),
        GuestBar(2, BAR2, 2 * PAGE_SIZE, True),
        GuestBar(4, BAR4, PAGE_SIZE, True),
    )
    capability = world.config.need(MsixCapability).base
    assert function.msix == MsixPlace(capability, 2, 0, VECTORS)
    assert world.config.snapshot() == before  # sizing puts everything back


def test_enable_sets_decoding_and_bus_mastering_only() -> None:
    world = World()
    (function,) = enumerate_functions(world.tvm, 0.0)
    function.enable(0.0)
    assert world.config.header.value(CommonHeader.COMMAND) == 0b110


def test_msix_entries_lead_to_processor_vectors() -> None:
    world = World()
    (function,) = enumerate_functions(world.tvm, 0.0)
    function.enable_msix(world.tvm, {1: 0x55}, 0.0)
    message = world.msix.raise_vector(1)
    assert message is not None
    assert (message.address, message.data) == (0xFEE0_0000, 0x55)
    with pytest.raises(PeerViolation):
        function.enable_msix(world.tvm, {VECTORS: 0x55}, 0.0)


def test_a_bar_that_the_driver_needs_must_be_there() -> None:
    world = World()
    (function,) = enumerate_functions(world.tvm, 0.0)
    for number, size in ((1, 1), (0, BAR_SIZE + 1)):
        with pytest.raises(PeerViolation):
            function.need_bar(number, size)


class Nonsense:
    """A configuration space that answers with whatever it is given."""

    def __init__(self, answer: Callable[[int, int], int]) -> None:
        self.answer = answer

    def read(self, offset: int, size: int) -> int:
        return self.answer(offset, size)

    def write(self, offset: int, size: int, value: int) -> None:
        pass


def test_a_function_that_reads_as_all_ones_is_said_not_to_answer() -> None:
    world = World()
    world.config = Nonsense(lambda offset, size: (1 << 8 * size) - 1 if offset >= 0x34 else 0)  # type: ignore[assignment]
    with pytest.raises(TransportError, match="does not answer") as caught:
        enumerate_functions(world.tvm, 0.0)
    assert "give the interface back" in caught.value.remedy


def test_a_capability_list_with_a_loop_is_refused() -> None:
    world = World()
    world.config = Nonsense(lambda offset, size: 0x4000 if offset == 0x40 else 0x40 if offset == 0x34 else 0)  # type: ignore[assignment]
    with pytest.raises(PeerViolation, match="loop"):
        enumerate_functions(world.tvm, 0.0)


@given(st.randoms(use_true_random=False))
@settings(max_examples=60)
def test_nonsense_gives_functions_or_clear_errors(random: object) -> None:
    world = World()
    world.config = Nonsense(lambda offset, size: random.getrandbits(8 * size))  # type: ignore[assignment, attr-defined]
    with suppress(TeeioError):  # anything else would be a crash that the VMM can cause
        enumerate_functions(world.tvm, 0.0)


def test_a_value_wider_than_asked_for_is_refused() -> None:
    world = World()
    world.config = Nonsense(lambda offset, size: 1 << 64)  # type: ignore[assignment]
    with pytest.raises(AuthenticationFailed, match="MMIO"):
        enumerate_functions(world.tvm, 0.0)


@pytest.mark.parametrize(("direct", "hypercalls"), [(True, 0), (False, 4)])
def test_shared_windows_go_direct_or_by_hypercall(direct: bool, hypercalls: int) -> None:
    world = World()
    world.direct_mmio = direct
    window = MmioWindow(world.tvm, BAR0, BAR_SIZE, trusted=False)
    window.write(0x10, 4, 0x1234_5640, 0.0)
    assert window.read(0x10, 4, 0.0) == 0x1234_5640
    window.store(0x10, bytes(range(0x40, 0x48)), 0.0)
    assert window.load(0x10, 3, 0.0) == bytes([0x40, 0x41, 0x42])
    assert world.calls.count("tdvmcall_request_mmio") in (hypercalls, hypercalls + 1)


def test_windows_are_bounded_and_aligned() -> None:
    window = MmioWindow(World().tvm, BAR0, PAGE_SIZE, trusted=True)
    for offset, size in ((PAGE_SIZE, 4), (-4, 4), (2, 4), (0, 3), (PAGE_SIZE - 4, 8)):
        with pytest.raises(Misuse):
            window.read(offset, size, 0.0)
