"""The accelerator: a driver in a TVM sets up a ring, rings the doorbell, and finds results, completions and interrupts."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from teeio.accelerator_interface import (
    DESCRIPTOR_SIZE,
    MAX_LENGTH,
    MAX_RING,
    SESSION_KEY_SIZE,
    AcceleratorRegisters,
    Completion,
    Descriptor,
    DescriptorFlags,
    Direction,
    Operation,
    Result,
    Telemetry,
    protected_transfer,
)
from teeio.crypto.aead import TAG_SIZE, AeadKey
from teeio.crypto.algorithms import Aead
from teeio.device.models.accelerator import Accelerator
from teeio.device.models.model import DmaError
from teeio.errors import Misuse
from teeio.pcie.seams import ResetKind
from teeio.tdisp.messages import InterfaceState
from teeio.tdisp.states import Event

R = AcceleratorRegisters
RING, SOURCE, TARGET, DONE = 0x90000, 0xA0000, 0xB0000, 0xC0000
INTERRUPT_AT = 0x2000
ENTRIES = 8


@dataclass
class Driver:
    """Drives one function over the link, with T=1 as a TVM's driver does."""

    rig: Any
    tdi: Any

    def write(self, register: Any, value: int) -> None:
        self.rig.fabric.memory_write(self.rig.bar(self.tdi, 0) + register.offset, value.to_bytes(4, "little"), True)

    def read(self, register: Any) -> int:
        return int.from_bytes(
            self.rig.fabric.memory_read(self.rig.bar(self.tdi, 0) + register.offset, 4, True).data, "little"
        )

    def setup(self, entries: int = ENTRIES) -> Driver:
        self.write(R.RING_LOW, RING)
        self.write(R.RING_SIZE, entries)
        self.write(R.CONTROL, R.CONTROL.put(0, enable=1, vector=1))
        return self

    def put(self, index: int, data: bytes, **fields: Any) -> None:
        wanted = {"operation": Operation.COPY, "length": len(data), "source": SOURCE, "destination": TARGET}
        wanted |= {"completion": DONE + 16 * index, **fields}
        memory = self.rig.host.memory
        memory[SOURCE : SOURCE + len(data)] = data
        memory[RING + index * DESCRIPTOR_SIZE : RING + (index + 1) * DESCRIPTOR_SIZE] = Descriptor(**wanted).encode()

    def run(self, index: int) -> None:
        self.write(R.DOORBELL, index)
        self.rig.device.work()

    def result(self, size: int) -> bytes:
        return bytes(self.rig.host.memory[TARGET : TARGET + size])

    def completion(self, index: int = 0) -> Completion:
        return Completion.decode(bytes(self.rig.host.memory[DONE + 16 * index : DONE + 16 * index + 16]))


@pytest.fixture
def driver(protected: Any) -> Driver:
    return Driver(protected, protected.bring(protected.vf(1), InterfaceState.RUN)).setup()


def scaled(data: bytes, scale: int, addend: int) -> bytes:
    words = [int.from_bytes(data[at : at + 4], "little") for at in range(0, len(data), 4)]
    return b"".join(((word * scale + addend) % (1 << 32)).to_bytes(4, "little") for word in words)


def test_the_layout_of_a_descriptor() -> None:
    assert (
        len(Descriptor(operation=Operation.COPY, length=1, source=2, destination=3, completion=4).encode())
        == DESCRIPTOR_SIZE
    )
    assert len(Completion(status=Result.DONE, index=0, length=0).encode()) == 16


def test_all_operations_on_private_memory(driver: Driver) -> None:
    data = bytes(range(256)) * 20
    for number, operation in enumerate(Operation):
        driver.put(number, data, operation=operation, scale=0x8000_0003, addend=0xFFFF_FFF0)
        driver.run(number + 1)
        expected = {
            Operation.COPY: data,
            Operation.SCALE_ADD: scaled(data, 0x8000_0003, 0xFFFF_FFF0),
            Operation.SHA256: hashlib.sha256(data).digest(),
        }[operation]
        assert driver.result(len(expected)) == expected
        found = driver.completion(number)
        assert (found.status, found.index, found.length) == (Result.DONE, number, len(expected))
    assert R.STATUS.get(driver.read(R.STATUS), "consumed") == 3


def test_several_descriptors_wrap_around_the_ring(driver: Driver) -> None:
    for index in range(ENTRIES):
        driver.put(index, b"data")
    driver.run(6)
    driver.run(3)
    assert R.STATUS.get(driver.read(R.STATUS), "consumed") == 3
    assert [driver.completion(index).status for index in range(ENTRIES)] == [Result.DONE] * ENTRIES
    assert driver.tdi.function.model.telemetry.value(Telemetry.DESCRIPTORS) == ENTRIES + 3


def test_an_interrupt_follows_the_completion(driver: Driver) -> None:
    msix = driver.tdi.function.msix
    msix.set(msix.CONTROL, enable=1)
    msix.table.write(16, 16, INTERRUPT_AT | 0x41 << 64)
    driver.put(0, b"data", flags=DescriptorFlags.INTERRUPT)
    driver.run(1)
    assert driver.rig.host.memory[INTERRUPT_AT] == 0x41
    assert driver.rig.host.asked[-1][1] == INTERRUPT_AT


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ({"operation": 0}, Result.BAD_OPERATION),
        ({"operation": 99}, Result.BAD_OPERATION),
        ({"length": 0}, Result.BAD_LENGTH),
        ({"length": MAX_LENGTH + 1}, Result.BAD_LENGTH),
        ({"operation": Operation.SCALE_ADD, "length": 6}, Result.BAD_LENGTH),
    ],
)
def test_a_bad_descriptor_is_completed_with_an_error_and_the_next_one_is_done(
    driver: Driver, fields: dict[str, int], status: Result
) -> None:
    driver.put(0, b"data", **fields)
    driver.put(1, b"good")
    driver.run(2)
    assert (driver.completion(0).status, driver.completion(1).status) == (status, Result.DONE)
    assert driver.tdi.function.model.telemetry.value(Telemetry.FAILURES) == 1
    assert driver.tdi.state is InterfaceState.RUN


def test_failing_dma_stops_the_ring(driver: Driver) -> None:
    driver.put(0, b"data", source=0x7000_0000)
    driver.put(1, b"good")
    driver.run(2)
    model = driver.tdi.function.model
    assert driver.tdi.state is InterfaceState.ERROR
    assert not model.work()
    assert driver.completion(1).status is Result.PENDING


@pytest.mark.parametrize(("entries", "index"), [(0, 0), (MAX_RING + 1, 1), (8, 8), (8, 0xFFFF)])
def test_a_doorbell_that_fits_no_ring_is_refused(driver: Driver, entries: int, index: int) -> None:
    driver.write(R.RING_SIZE, entries)
    driver.run(index)
    assert R.ERROR.get(driver.read(R.ERROR), "code") == Result.BAD_RING


def test_a_ring_that_shrinks_under_work_still_ends(driver: Driver) -> None:
    for index in range(ENTRIES):
        driver.put(index, b"data")
    driver.write(R.DOORBELL, 6)
    driver.write(R.RING_SIZE, 4)
    assert driver.rig.device.work()
    assert R.STATUS.get(driver.read(R.STATUS), "consumed") == 6
    driver.run(1)
    assert R.ERROR.get(driver.read(R.ERROR), "code") == Result.BAD_RING


def test_a_ring_that_is_off_takes_no_doorbell(driver: Driver) -> None:
    driver.write(R.CONTROL, 0)
    driver.put(0, b"data")
    driver.run(1)
    assert driver.completion().status is Result.PENDING


def test_the_host_neither_sees_registers_nor_starts_work(driver: Driver) -> None:
    address = driver.rig.bar(driver.tdi, 0)
    driver.put(0, b"data")
    driver.rig.fabric.memory_write(address + R.DOORBELL.offset, b"\1\0\0\0", False)
    assert not driver.rig.device.work()
    assert not driver.rig.fabric.memory_read(address + R.RING_LOW.offset, 4, False).ok
    assert driver.rig.fabric.memory_read(driver.rig.bar(driver.tdi, 4), 4, False).ok


@pytest.mark.parametrize("end", ["stop", "error"])
def test_accepted_work_dies_with_the_state(driver: Driver, end: str) -> None:
    driver.put(0, b"data")
    driver.write(R.DOORBELL, 1)
    if end == "stop":
        driver.tdi.interface.stop(0x11)
    else:
        driver.tdi.interface.happen(Event.TRUST_CHANGED)
    asked = len(driver.rig.host.asked)
    assert not driver.rig.device.work()
    assert len(driver.rig.host.asked) == asked


def test_work_of_the_host_before_the_lock_is_dropped(protected: Any) -> None:
    tdi = protected.pf
    for register, value in ((R.RING_LOW, RING), (R.RING_SIZE, 4), (R.CONTROL, 1), (R.DOORBELL, 1)):
        protected.fabric.memory_write(protected.bar(tdi, 0) + register.offset, value.to_bytes(4, "little"))
    protected.bring(tdi, InterfaceState.RUN)
    assert not protected.device.work()


def test_failing_dma_of_a_legacy_driver_is_shown(rig: Any) -> None:
    tdi = rig.pf
    for register, value in ((R.RING_LOW, RING), (R.RING_SIZE, 4), (R.CONTROL, 1), (R.DOORBELL, 1)):
        rig.fabric.memory_write(rig.bar(tdi, 0) + register.offset, value.to_bytes(4, "little"))
    assert rig.device.work()
    assert rig.fabric.memory_read(rig.bar(tdi, 0) + R.ERROR.offset, 4).data[0] == Result.DMA_FAILED


def test_status_says_where_the_ring_stands_after_dma_failed_behind_the_descriptor(driver: Driver) -> None:
    """The descriptor was fetched, its source is nowhere: the index has moved, and STATUS must not lag behind."""
    driver.put(0, b"data", source=0x7000_0000)
    driver.run(1)
    registers = driver.tdi.function.model.registers
    assert (registers.get(R.STATUS, "consumed"), registers.get(R.STATUS, "busy")) == (1, 0)


def test_clearing_enable_drops_what_waits(driver: Driver) -> None:
    driver.put(0, b"data")
    driver.write(R.DOORBELL, 1)
    assert R.STATUS.get(driver.read(R.STATUS), "busy")
    driver.write(R.CONTROL, 0)
    assert not R.STATUS.get(driver.read(R.STATUS), "busy")
    assert not driver.rig.device.work()


def test_a_reset_in_the_middle_of_work_ends_it(rig: Any) -> None:
    """Also where no TDI state stands in the way: a function used by a legacy VM."""
    tdi = rig.pf
    for register, value in ((R.RING_LOW, 0x4000), (R.RING_SIZE, 4), (R.CONTROL, 1), (R.DOORBELL, 3)):
        rig.fabric.memory_write(rig.bar(tdi, 0) + register.offset, value.to_bytes(4, "little"))
    rig.host.meanwhile = lambda: rig.device.reset(ResetKind.FUNCTION_LEVEL)
    assert rig.device.work()
    assert len(rig.host.asked) == 1
    assert tdi.function.model.registers.read(0x0C, 24) == 0
    assert not rig.device.work()


# -- protected transfers, of a device outside the trust domain

KEY = bytes(range(SESSION_KEY_SIZE))


def sealed(data: bytes, sequence: int) -> bytes:
    descriptor = Descriptor(
        operation=Operation.COPY, length=len(data), source=0, destination=0, completion=0, sequence=sequence
    )
    transfer = protected_transfer(descriptor, Direction.TO_DEVICE, len(data))
    return AeadKey(Aead.AES_256_GCM, KEY).seal(transfer.nonce, data, transfer.encode())


def protected_copy(driver: Driver, index: int, data: bytes, sequence: int, source: bytes) -> Result:
    driver.put(index, source, length=len(data), flags=DescriptorFlags.PROTECTED, sequence=sequence)
    driver.run(index + 1)
    return driver.completion(index).status


def test_a_protected_transfer_is_opened_and_sealed(driver: Driver) -> None:
    driver.tdi.function.model.use_session_key(KEY)
    assert R.CAPABILITY.get(driver.read(R.CAPABILITY), "protected")
    data = b"weights!" * 40
    assert protected_copy(driver, 0, data, 1, sealed(data, 1)) is Result.DONE
    assert driver.completion(0).length == len(data)
    done = Descriptor(operation=Operation.COPY, length=len(data), source=0, destination=0, completion=0, sequence=1)
    transfer = protected_transfer(done, Direction.FROM_DEVICE, len(data))
    result = driver.result(len(data) + TAG_SIZE)
    assert AeadKey(Aead.AES_256_GCM, KEY).open(transfer.nonce, result, transfer.encode()) == data


def test_what_is_wrong_with_a_protected_transfer_is_said(driver: Driver) -> None:
    data = b"data" * 8
    assert protected_copy(driver, 0, data, 1, sealed(data, 1)) is Result.NO_KEY
    driver.tdi.function.model.use_session_key(KEY)
    spoilt = bytes([sealed(data, 5)[0] ^ 1]) + sealed(data, 5)[1:]
    assert protected_copy(driver, 1, data, 5, spoilt) is Result.AUTHENTICATION_FAILED
    assert protected_copy(driver, 2, data, 6, sealed(data, 5)) is Result.AUTHENTICATION_FAILED
    assert protected_copy(driver, 3, data, 5, sealed(data, 5)) is Result.DONE
    assert protected_copy(driver, 4, data, 5, sealed(data, 5)) is Result.REPLAYED
    assert protected_copy(driver, 5, data, 4, sealed(data, 4)) is Result.REPLAYED


def test_stop_erases_the_session_key(driver: Driver) -> None:
    model = driver.tdi.function.model
    model.use_session_key(KEY)
    driver.tdi.interface.stop(0x11)
    assert not model.registers.get(R.CAPABILITY, "protected")
    assert model._key is None


def test_a_session_key_of_another_size_is_misuse() -> None:
    with pytest.raises(Misuse, match="32 bytes"):
        Accelerator().use_session_key(b"short")


class Nowhere:
    """A bus whose memory is whatever hypothesis says, and which fails when it runs out."""

    def __init__(self, data: bytes) -> None:
        self.data = data

    def read(self, address: int, size: int) -> bytes:
        if size > len(self.data):
            raise DmaError("no more")
        found, self.data = self.data[:size], self.data[size:]
        return found

    def write(self, address: int, data: bytes) -> None:
        return None

    def interrupt(self, vector: int) -> None:
        return None


@given(
    st.binary(max_size=400), st.lists(st.tuples(st.integers(0, 0x40), st.binary(min_size=1, max_size=16)), max_size=12)
)
def test_no_ring_and_no_register_write_breaks_it(memory: bytes, writes: list[tuple[int, bytes]]) -> None:
    model = Accelerator()
    model.attach(Nowhere(memory))
    for offset, data in writes:
        model.write(0, offset, data)
        model.work()
        assert len(model.read(0, offset, 8)) == 8
    model.scrub()
    assert not any(model.memory)
