"""What a DSM offers besides proving its identity: the capability flags say what, a reset lets what waits take effect."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from teeio.crypto.entropy import SeededEntropy
from teeio.device.configuration import Configuration, measurements_of, services_of
from teeio.device.device import Device
from teeio.device.identity import LOG_INDEX, Firmware, Manufacture, changes, device_class, measured
from teeio.device.services import IN_USE, SPARE, Services
from teeio.pcie.doe import DoeBinding
from teeio.pcie.seams import ResetKind
from teeio.spdm.constants import Capability
from teeio.spdm.device_state import Measured, Slot
from teeio.spdm.messages import DeviceClass, DmtfEvent, MeasurementType
from teeio.spdm.mutual import MutualAuthentication
from teeio.spdm.state import RESPONDER_CAPABILITIES, Settings
from teeio.spdm.wishes import KeyRenewal, report_events

NOW = 1.8e9
NOTHING = Capability(0)


def device(flags: Capability = NOTHING, services: Services | None = None) -> Device:
    settings = Settings(capabilities=RESPONDER_CAPABILITIES | flags)
    configuration = Configuration(vfs=0, settings=settings, services=services or Services())
    return Device(configuration, SeededEntropy(b"services"), NOW)


def waiting(made: Device) -> Slot:
    """Leave a write of slot 1 waiting for a reset."""
    store = made.dsm.provisioning
    assert store is not None
    slot = store.identities[0].slots[0]
    store.stage(store.identities[0], 1, slot)
    return slot


def test_without_flags_nothing_is_offered() -> None:
    dsm = device().dsm
    assert (dsm.provisioning, dsm.events) == (None, None)
    responder = dsm.responder(DoeBinding())
    assert (responder.provisioning, responder.events, responder.mutual) == (None, None, None)
    assert responder.wishes == (report_events,)


# CSR_CAP does not go without SET_CERT_CAP.
@pytest.mark.parametrize(
    "flag", [Capability.SET_CERT, Capability.SET_CERT | Capability.CSR, Capability.GET_KEY_PAIR_INFO], ids=repr
)
def test_any_provisioning_flag_gives_every_connection_the_same_store(flag: Capability) -> None:
    dsm = device(flag, Services(spare_keys=2, trusted_environment=True)).dsm
    one, other = (dsm.responder(DoeBinding()) for _ in range(2))
    store = dsm.provisioning
    assert store is not None
    assert one.provisioning is other.provisioning is store
    assert store.trusted_environment
    assert [(pair.key is None, pair.capabilities) for pair in store.key_pairs] == [
        (False, IN_USE), (False, IN_USE), (True, SPARE), (True, SPARE),
    ]  # fmt: skip


def test_what_a_connection_gets() -> None:
    mutual = MutualAuthentication(lambda chain, now: None)
    wishes = KeyRenewal()
    services = Services(mutual=mutual, wishes=lambda: [wishes], device_classes=(DeviceClass(registry=4),))
    dsm = device(Capability.EVENT, services).dsm
    responder = dsm.responder(DoeBinding())
    assert responder.mutual is mutual
    assert responder.events is dsm.events
    assert responder.wishes == (report_events, wishes)
    assert responder.device_classes == (DeviceClass(registry=4),)


def test_wishes_are_made_for_each_connection() -> None:
    dsm = device(services=Services(wishes=lambda: [KeyRenewal()])).dsm
    one, other = (dsm.responder(DoeBinding()).wishes[1] for _ in range(2))
    assert one is not other


def test_a_reset_lets_what_waits_take_effect() -> None:
    made = device(Capability.SET_CERT)
    slot = waiting(made)
    assert 1 not in made.dsm.identities[0].slots
    made.reset(ResetKind.FUNCTION_LEVEL)
    assert 1 not in made.dsm.identities[0].slots
    made.reset(ResetKind.CONVENTIONAL)
    assert made.dsm.identities[0].slots[1] == slot
    assert made.responder.identities[0].slots[1] == slot
    assert len(made.dsm.root_certificates) == 3


def test_a_changed_slot_is_an_event() -> None:
    made = device(Capability.SET_CERT | Capability.EVENT)
    told: list[tuple[Any, bytes]] = []
    assert made.dsm.events is not None
    made.dsm.events.subscribe_to_all(7)
    store = made.dsm.provisioning
    assert store is not None
    store.put(store.identities[0], 2, store.identities[0].slots[0])
    told = [(event.type_id, event.detail) for event in made.dsm.events.waiting(7)]
    assert told == [(DmtfEvent.CERTIFICATE_CHANGED, b"\x04")]


def test_changed_measurements_are_an_event() -> None:
    made = device(Capability.EVENT)
    assert made.dsm.events is not None
    made.dsm.events.subscribe_to_all(7)
    made.update_firmware(Firmware())
    assert made.dsm.events.waiting(7) == ()
    made.update_firmware(Firmware(rom=b"another"))
    [event] = made.dsm.events.waiting(7)
    assert (event.type_id, event.detail) == (DmtfEvent.MEASUREMENT_CHANGED, (1 << 1).to_bytes(32, "little"))
    made.set_debug(True)
    assert made.dsm.events.waiting(7)[-1].detail == (1 << 0xFE).to_bytes(32, "little")


def test_changes_are_of_contents_and_of_what_comes_and_goes() -> None:
    kind = MeasurementType.VERSION
    before = [Measured(1, kind, b"a"), Measured(2, kind, b"b"), Measured(3, kind, b"c")]
    now = [Measured(1, kind, b"a"), Measured(2, kind, b"B"), Measured(4, kind, b"d")]
    assert int.from_bytes(changes(before, now), "little") == 1 << 2 | 1 << 3 | 1 << 4
    assert not any(changes(before, before))


def test_the_log_is_kept_by_devices_that_offer_it() -> None:
    without, settings = Configuration(), Settings(capabilities=RESPONDER_CAPABILITIES | Capability.MEL)
    assert measurements_of(without).log == []
    kept = measurements_of(replace(without, settings=settings))
    assert {entry.measurement_index for entry in kept.log} == {LOG_INDEX}
    assert [item.index for item in kept.measured if item.type is MeasurementType.HASH_EXTEND] == [LOG_INDEX]
    assert len(kept.measured) == len(measured(without.manufacture)) + 1


def test_the_log_follows_the_firmware() -> None:
    made = device(Capability.MEL)
    before = made.measurements.extension_log()
    made.update_firmware(Firmware(version="9"))
    assert made.measurements.extension_log() != before
    assert b"firmware 9" in made.measurements.extension_log()


def test_the_device_class_follows_from_the_configuration_header() -> None:
    told = device_class(Manufacture())
    assert (told.registry, told.vendor) == (3, bytes.fromhex("e07e"))
    assert [one.identifier.hex() for one in told.subordinates] == ["a010", "000012", "01"]
    assert services_of(Configuration()).device_classes == (told,)
