"""The driver on both data paths: right results, exact costs, and a device that stops answering or lies."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import pytest

from guest.fake_accelerator import SESSION_KEY
from guest.fake_memory import BAR0, SHARED
from guest.fake_world import World
from guest.test_dma import meter
from teeio.abi.operands import PAGE_SIZE
from teeio.accelerator_interface import (
    COMPLETION_SIZE,
    AcceleratorRegisters,
    Completion,
    Descriptor,
    Operation,
    compute,
)
from teeio.accelerator_interface import Result as Outcome
from teeio.device.models.accelerator import Accelerator
from teeio.errors import AuthenticationFailed, ErrorResponse, Incompatible, Misuse, PeerViolation, TransportError
from teeio.guest.accept import AssignedInterface, Phase
from teeio.guest.cost import CostMeter
from teeio.guest.dma import BounceDma, PrivateDma, ProtectedSession
from teeio.guest.driver import TRUSTED_REGISTERS, VECTOR, AcceleratorDriver, DeviceLost
from teeio.guest.pci import enumerate_functions
from teeio.tdisp.messages import InterfaceState


class Bench:
    """A world with a driver bound, by one of the two paths."""

    def __init__(self, path: str, model: Any = None, *, ring_size: int = 8, pool_size: int = 1 << 20) -> None:
        self.world = World(model)
        tvm = self.world.tvm
        tvm.boot()
        self.meter = CostMeter(lambda: 0.0)
        self.interface = AssignedInterface(tvm, enumerate_functions(tvm, 0.0)[0])
        self.dma: PrivateDma | BounceDma
        if path == "private":
            self.interface.bring_up(self.world.verifier(), TRUSTED_REGISTERS, 1.0)
            self.dma = PrivateDma(tvm)
        else:
            session = ProtectedSession(SESSION_KEY) if path == "protected" else None
            if session:
                self.world.model.use_session_key(SESSION_KEY)
            self.dma = BounceDma(tvm, self.meter, 0.0, session=session, pool_size=pool_size)
        self.driver = AcceleratorDriver(
            tvm, self.interface.function, self.dma, self.meter, interface=self.interface, ring_size=ring_size
        )
        self.driver.probe(2.0)

    def run(self, operation: Operation, data: bytes, **parameters: int) -> bytes:
        size = operation.result_size(len(data))
        source, target = self.world.tvm.allocate(len(data)), self.world.tvm.allocate(size)
        source.write(0, data)
        self.driver.run(operation, source.gpa, len(data), target.gpa, 3.0, **parameters)
        return target.read(0, size)


PATHS = ["private", "protected", "plain"]


def words(*values: int) -> bytes:
    return b"".join(value.to_bytes(4, "little") for value in values)


# -- work that is done right ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("direct", [True, False], ids=["passthrough", "emulated"])
def test_results_are_right_on_every_path(path: str, direct: bool) -> None:
    bench = Bench(path)
    bench.world.direct_mmio = direct
    data = words(1, 2, 0xFFFF_FFFF)
    assert bench.run(Operation.COPY, data) == data
    assert bench.run(Operation.SCALE_ADD, data, scale=2, addend=5) == words(7, 9, 3)
    assert bench.run(Operation.SHA256, data) == hashlib.sha256(data).digest()


@pytest.mark.parametrize("path", PATHS)
def test_work_larger_than_ring_segment_and_pool_is_cut(path: str) -> None:
    bench = Bench(path, ring_size=3, pool_size=8 * PAGE_SIZE)
    data = bytes(range(256)) * 600
    assert bench.run(Operation.COPY, data) == data


@pytest.mark.parametrize("path", PATHS)
def test_the_ring_wraps(path: str) -> None:
    bench = Bench(path, ring_size=2)
    for number in range(7):
        assert bench.run(Operation.COPY, bytes([number]) * 100) == bytes([number]) * 100


def test_the_private_path_copies_and_encrypts_nothing() -> None:
    bench = Bench("private")
    before = bench.meter.total
    bench.run(Operation.COPY, bytes(100_000))
    cost = bench.meter.total - before
    assert (cost.copies, cost.bytes_copied, cost.bytes_encrypted, cost.bytes_decrypted) == (0, 0, 0, 0)
    assert (cost.payload, cost.exits) == (200_000, 0)


def test_the_private_path_uses_private_memory_and_trusted_accesses_only() -> None:
    bench = Bench("private")
    bench.world.dma_log.clear()
    bench.run(Operation.COPY, b"the secret".ljust(12))
    assert not bench.world.shared
    touched = {address & -PAGE_SIZE for _, address, _ in bench.world.dma_log}
    assert all(bench.world.pages[page].state == "mapped" for page in touched)
    assert not any(address & SHARED for address in touched)


@pytest.mark.parametrize(("path", "overhead"), [("protected", 16), ("plain", 0)])
def test_the_bounce_path_costs_two_copies_for_each_segment(path: str, overhead: int) -> None:
    bench = Bench(path, pool_size=64 * 2048)
    bench.world.direct_mmio = True
    segment = bench.dma.max_segment // 4 * 4
    size = 2 * segment + 1000
    before = bench.meter.total
    bench.run(Operation.COPY, bytes(size))
    cost = bench.meter.total - before
    assert cost.payload == 2 * size
    assert cost.copies == 6
    assert cost.bytes_copied == 2 * (size + 3 * overhead)
    assert cost.bytes_encrypted == cost.bytes_decrypted == (size if overhead else 0)
    assert cost.exits == 0


def test_emulated_doorbells_cost_exits() -> None:
    bench = Bench("plain")
    before = bench.meter.total
    bench.run(Operation.COPY, bytes(100))
    assert (bench.meter.total - before).exits == 1


def test_cpu_time_is_that_of_the_tvm_alone() -> None:
    bench = Bench("protected")
    counted = meter()
    bench.dma._meter = bench.driver._meter = counted  # type: ignore[union-attr]
    bench.run(Operation.COPY, bytes(100))
    # One second each: seal and copy out, write the descriptor, read the completion, copy in and open.
    assert counted.total.cpu_seconds == 4.0


@pytest.mark.parametrize("path", PATHS)
def test_the_device_model_follows_the_datasheet(path: str) -> None:
    bench = Bench(path, Accelerator())
    data = words(*range(1000))
    wanted = Descriptor(
        operation=Operation.SCALE_ADD, length=0, source=0, destination=0, completion=0, scale=3, addend=1
    )
    assert bench.run(Operation.COPY, data) == data
    assert bench.run(Operation.SHA256, data) == hashlib.sha256(data).digest()
    assert bench.run(Operation.SCALE_ADD, data, scale=3, addend=1) == compute(wanted, data)


# -- interrupts ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", PATHS)
def test_an_interrupt_kept_back_delays_but_does_not_lose_work(path: str) -> None:
    bench = Bench(path)
    bench.world.interrupts_reach = False
    assert bench.run(Operation.COPY, b"data") == b"data"


def test_interrupts_out_of_nowhere_are_no_completions() -> None:
    bench = Bench("plain")
    halts = []

    def spurious() -> None:
        bench.world.tvm.interrupts.deliver(VECTOR)
        halts.append(1)
        if len(halts) == 5:
            bench.world.model.work()

    bench.world.tvm.halt = spurious
    assert bench.run(Operation.COPY, b"data") == b"data"
    assert len(halts) == 5


# -- a device that falls out of RUN ----------------------------------------------------------------------------------------


def test_error_is_noticed_and_the_device_used_no_more() -> None:
    bench = Bench("private")
    source = bench.world.tvm.allocate(PAGE_SIZE)
    source.write(0, b"the secret")
    bench.world.fail()
    with pytest.raises(DeviceLost) as caught:
        bench.run(Operation.COPY, b"more")
    assert caught.value.state is InterfaceState.ERROR
    assert bench.interface.phase is Phase.LOST
    bench.world.calls.clear()
    with pytest.raises(Misuse, match="not bound to a working device"):
        bench.run(Operation.COPY, b"more")
    assert not bench.world.calls  # not even asked


def test_check_finds_a_lost_device_without_work() -> None:
    bench = Bench("private")
    bench.driver.check(3.0)
    bench.world.fail()
    with pytest.raises(DeviceLost):
        bench.driver.check(4.0)


def test_the_data_stay_out_of_reach_after_error() -> None:
    bench = Bench("private")
    bench.run(Operation.COPY, b"the secret")
    bench.world.dma_log.clear()
    bench.world.fail()
    assert bench.world.model.read(0, AcceleratorRegisters.RING_LOW.offset, 4) == bytes(4)
    with pytest.raises(DeviceLost):
        bench.driver.check(4.0)
    bench.world.model.work()
    assert not bench.world.dma_log


def test_recovery_after_error_needs_the_whole_way() -> None:
    bench = Bench("private")
    bench.world.fail()
    with pytest.raises(DeviceLost):
        bench.driver.check(3.0)
    with pytest.raises(Misuse, match="busy"):
        bench.interface.unlock(4.0)
    bench.driver.remove(4.0)
    with pytest.raises(Misuse, match="accepted interface"):
        bench.driver.probe(5.0)
    bench.interface.unlock(5.0)
    bench.interface.bring_up(bench.world.verifier(), TRUSTED_REGISTERS, 6.0)
    bench.driver.probe(7.0)
    assert bench.run(Operation.COPY, b"again") == b"again"


def test_a_mapping_that_the_vmm_takes_away_is_a_lost_device() -> None:
    bench = Bench("private")
    del bench.world.pages[BAR0]
    with pytest.raises(DeviceLost):
        bench.run(Operation.COPY, b"data")


def test_a_device_gone_from_the_untrusted_path_is_lost_too() -> None:
    bench = Bench("plain")
    bench.world.state = InterfaceState.ERROR
    with pytest.raises(DeviceLost) as caught:
        bench.driver.check(3.0)
    assert caught.value.state is None


# -- lies ------------------------------------------------------------------------------------------------------------------


def meddle(bench: Bench, action: Callable[[World], None]) -> None:
    """Let the VMM act between the doorbell and the device's work, or after it if `action` works itself."""
    bench.world.tvm.halt = lambda: action(bench.world)


def shared_find(world: World, needle: Callable[[bytes], int]) -> tuple[bytearray, int]:
    return next((page, at) for page in world.shared.values() if (at := needle(bytes(page))) >= 0)


def test_a_source_changed_on_its_way_is_refused_by_the_device() -> None:
    bench = Bench("protected")

    def flip(world: World) -> None:
        pool = world.shared[min(world.shared)]
        pool[0] ^= 1
        world.model.work()

    meddle(bench, flip)
    with pytest.raises(AuthenticationFailed, match="could not open"):
        bench.run(Operation.COPY, b"data")
    with pytest.raises(Misuse):
        bench.run(Operation.COPY, b"data")


def test_a_result_changed_on_its_way_is_refused_by_the_driver() -> None:
    bench = Bench("protected")

    def flip(world: World) -> None:
        if world.model.work():
            pool = world.shared[min(world.shared)]
            pool[2048] ^= 1  # the second mapping

    meddle(bench, flip)
    with pytest.raises(AuthenticationFailed, match="does not verify"):
        bench.run(Operation.COPY, b"data")
    assert bench.dma.free_slots == 512  # type: ignore[union-attr]


def test_an_operation_changed_on_its_way_is_noticed() -> None:
    """Descriptors lie in shared memory; the associated data ties the payload to what was asked for."""
    bench = Bench("protected")
    ring = bench.driver._ring
    assert ring is not None

    def change(world: World) -> None:
        page = world.shared[ring.gpa]
        page[0] = Operation.SHA256
        world.model.work()

    meddle(bench, change)
    with pytest.raises(AuthenticationFailed):
        bench.run(Operation.COPY, bytes(32))


def test_a_descriptor_played_again_is_refused_by_the_device() -> None:
    bench = Bench("protected", ring_size=2)
    bench.run(Operation.COPY, b"first")
    bench.world.model.consumed = 0
    bench.world.model.work()
    assert bench.world.model.last_sequence == 1
    assert bench.driver._completions is not None
    completion = Completion.decode(bench.driver._completions.read(0, COMPLETION_SIZE))
    assert completion.status == Outcome.REPLAYED


@pytest.mark.parametrize(
    ("completion", "error"),
    [
        (Completion(status=Outcome.DONE, index=1, length=4), PeerViolation),
        (Completion(status=Outcome.DONE, index=0, length=5), PeerViolation),
        (Completion(status=Outcome.BAD_OPERATION, index=0, length=0), ErrorResponse),
        (Completion(status=0xFFFF_FFFF, index=0xFFFF_FFFF, length=0xFFFF_FFFF), ErrorResponse),  # type: ignore[arg-type]
    ],
)
def test_a_completion_that_does_not_fit_is_refused(completion: Completion, error: type[Exception]) -> None:
    bench = Bench("plain")
    completions = bench.driver._completions
    assert completions is not None

    def forge(world: World) -> None:
        world.shared[completions.gpa][:COMPLETION_SIZE] = completion.encode()
        world.tvm.interrupts.deliver(VECTOR)

    meddle(bench, forge)
    bench.world.model.work = lambda: False
    with pytest.raises(error):
        bench.run(Operation.COPY, b"data")
    assert bench.dma.free_slots == 512  # type: ignore[union-attr]


def test_a_device_that_does_nothing_is_given_up() -> None:
    bench = Bench("private")
    bench.world.tvm.halt = lambda: None
    with pytest.raises(TransportError, match="does not complete"):
        bench.run(Operation.COPY, b"data")


def test_memory_that_a_busy_device_may_still_touch_is_not_reused() -> None:
    bench = Bench("private")
    ring = bench.driver._ring
    assert ring is not None
    bench.world.model.registers.set(AcceleratorRegisters.STATUS, busy=1)
    bench.driver.remove(3.0)
    assert bench.interface.driver is None
    assert bench.world.tvm.is_private(ring.gpa, ring.size)  # still in use


def test_a_device_that_stopped_says_why() -> None:
    bench = Bench("private")
    bench.world.tvm.halt = lambda: None
    bench.world.model.registers.set(AcceleratorRegisters.ERROR, code=Outcome.DMA_FAILED)
    with pytest.raises(ErrorResponse, match="DMA_FAILED"):
        bench.run(Operation.COPY, b"data")


# -- probe and misuse ------------------------------------------------------------------------------------------------------


def test_probe_refuses_what_does_not_fit() -> None:
    world = World()
    world.tvm.boot()
    function = enumerate_functions(world.tvm, 0.0)[0]
    with pytest.raises(Misuse, match="accepted interface"):
        AcceleratorDriver(world.tvm, function, PrivateDma(world.tvm), meter()).probe(1.0)
    dma = BounceDma(world.tvm, meter(), 0.0, session=ProtectedSession(SESSION_KEY))
    with pytest.raises(Incompatible, match="session key"):
        AcceleratorDriver(world.tvm, function, dma, meter()).probe(1.0)
    for size in (1, 1025):
        with pytest.raises(Misuse, match="ring"):
            AcceleratorDriver(world.tvm, function, dma, meter(), ring_size=size)
    world.model.registers.set(AcceleratorRegisters.IDENTITY, magic=0x1234)
    interface = AssignedInterface(world.tvm, function)
    driver = AcceleratorDriver(world.tvm, function, dma, meter(), interface=interface)
    with pytest.raises(PeerViolation, match="identifies itself"):
        driver.probe(1.0)
    assert interface.driver is None


def test_a_driver_is_bound_once() -> None:
    bench = Bench("private")
    with pytest.raises(Misuse, match="bound already"):
        bench.driver.probe(3.0)
    assert bench.interface.driver == "accelerator"
    bench.driver.remove(3.0)
    bench.driver.remove(3.0)
    assert bench.interface.driver is None
    bench.driver.probe(4.0)


@pytest.mark.parametrize(
    ("operation", "length"),
    [(Operation.COPY, 0), (Operation.COPY, -1), (Operation.SCALE_ADD, 6), (Operation.SHA256, 1 << 20)],
)
def test_work_that_cannot_be_is_refused_and_harms_nothing(operation: Operation, length: int) -> None:
    bench = Bench("plain")
    source = bench.world.tvm.allocate(1 << 20)
    with pytest.raises(Misuse):
        bench.driver.run(operation, source.gpa, length, source.gpa, 3.0)
    assert bench.run(Operation.COPY, b"data") == b"data"


@pytest.mark.parametrize("path", PATHS)
def test_only_the_tvms_own_private_memory_is_worked_on(path: str) -> None:
    bench = Bench(path)
    own, shared = bench.world.tvm.allocate(PAGE_SIZE), bench.world.tvm.allocate_shared(PAGE_SIZE, 3.0)
    for source, target in ((own.gpa, shared.gpa), (BAR0, own.gpa), (own.gpa + PAGE_SIZE - 4, own.gpa)):
        with pytest.raises(Misuse, match="private memory"):
            bench.driver.run(Operation.COPY, source, 8, target, 3.0)
    assert bench.run(Operation.COPY, b"data") == b"data"
