"""Where a descriptor's buffers lie for the accelerator: in memory, in its own device memory, behind a translation."""

from __future__ import annotations

from typing import Any

import pytest

from device.test_accelerator import SOURCE, TARGET, Driver
from teeio.accelerator_interface import (
    MEMORY_SIZE,
    SESSION_KEY_SIZE,
    Descriptor,
    DescriptorFlags,
    Direction,
    Operation,
    Result,
    protected_transfer,
)
from teeio.crypto.aead import AeadKey
from teeio.crypto.algorithms import Aead
from teeio.pcie.capabilities.ats import AtsCapability
from teeio.tdisp.messages import InterfaceState

F = DescriptorFlags
DATA = bytes(range(256)) * 4


@pytest.fixture
def driver(protected: Any) -> Driver:
    return Driver(protected, protected.bring(protected.vf(1), InterfaceState.RUN)).setup()


def test_through_device_memory_and_back(driver: Driver) -> None:
    driver.put(0, DATA, destination=0x80, flags=F.LOCAL_DESTINATION)
    driver.put(1, DATA, source=0x80, flags=F.LOCAL_SOURCE)
    driver.run(2)
    assert driver.result(len(DATA)) == DATA
    model = driver.tdi.function.model
    assert bytes(model.memory[0x80 : 0x80 + len(DATA)]) == DATA


@pytest.mark.parametrize("flag", [F.LOCAL_SOURCE, F.LOCAL_DESTINATION])
@pytest.mark.parametrize("offset", [MEMORY_SIZE - len(DATA) + 1, MEMORY_SIZE, (1 << 64) - 4])
def test_device_memory_has_an_end(driver: Driver, flag: F, offset: int) -> None:
    place = {"source": offset} if flag is F.LOCAL_SOURCE else {"destination": offset}
    driver.put(0, DATA, flags=flag, **place)
    driver.run(1)
    assert driver.completion().status == Result.BAD_LENGTH
    assert driver.tdi.state is InterfaceState.RUN


def test_nothing_in_device_memory_is_sealed(driver: Driver) -> None:
    key = bytes(range(SESSION_KEY_SIZE))
    driver.tdi.function.model.use_session_key(key)
    driver.tdi.function.model.memory[: len(DATA)] = DATA
    driver.put(0, DATA, source=0, flags=F.LOCAL_SOURCE | F.PROTECTED, sequence=1)
    driver.run(1)
    asked = Descriptor(
        operation=Operation.COPY, length=len(DATA), source=0, destination=TARGET, completion=0, sequence=1
    )
    label = protected_transfer(asked, Direction.FROM_DEVICE, len(DATA))
    sealed = driver.result(len(DATA) + 16)
    assert AeadKey(Aead.AES_256_GCM, key).open(label.nonce, sealed, label.encode()) == DATA
    driver.put(1, DATA, source=0, flags=F.LOCAL_SOURCE | F.PROTECTED, sequence=1)
    driver.run(2)
    assert driver.completion(1).status == Result.REPLAYED


@pytest.mark.parametrize("flag", [F.TRANSLATED_SOURCE, F.TRANSLATED_DESTINATION])
@pytest.mark.parametrize("enabled", [False, True])
def test_without_a_translation_there_is_no_access(driver: Driver, flag: F, enabled: bool) -> None:
    """With ATS off it cannot ask; with ATS on the host here refuses, which costs a running TDI its state."""
    if enabled:
        ats = driver.tdi.function.space.need(AtsCapability)
        ats.write(AtsCapability.CONTROL.offset, 2, AtsCapability.CONTROL.put(0, enable=1))
    driver.put(0, DATA, flags=flag)
    memory = driver.rig.host.memory
    memory[TARGET : TARGET + 4] = b"kept"
    driver.run(1)
    assert driver.result(4) == b"kept"
    assert driver.completion().status == Result.PENDING
    assert (driver.tdi.state is InterfaceState.ERROR) is enabled
    assert bytes(memory[SOURCE : SOURCE + len(DATA)]) == DATA
