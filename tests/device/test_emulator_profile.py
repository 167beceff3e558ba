"""The device that a reference emulator's requester expects, taken through that requester's own sequence of messages.

The sequence is that of DMTF spdm-emu, spdm_requester_pci_doe.c: IDE_KM set-up, TDISP, IDE_KM teardown, CXL IDE_KM, CXL TSP.
"""

from __future__ import annotations

from typing import Any

import pytest

from teeio.crypto.entropy import SeededEntropy
from teeio.cxl import ide_km as cxl
from teeio.cxl import tsp_messages as tsp
from teeio.device.device import Device
from teeio.device.profiles import EMULATOR_FUNCTION, EMULATOR_HEARTBEAT, EMULATOR_PORT_INDEX, emulator_device
from teeio.ide_km.messages import (
    Direction,
    KeyProg,
    KeySet,
    KeySubStream,
    KGostopAck,
    KpAck,
    KSetGo,
    KSetStop,
    Query,
    QueryResp,
    key_slots,
)
from teeio.mctp import MctpBinding
from teeio.pcie.doe import DoeBinding
from teeio.spdm.vendor import VendorProtocol
from teeio.tdisp import messages as t
from teeio.tdisp.messages import InterfaceState, LockFlags

NOW, SESSION, STREAM = 1.8e9, 0xFFFF_FFFF, 0
OFFSET = 0xD000_0000
SLOTS = [slot for direction in Direction for slot in key_slots(KeySet.K0, direction)]


class Emulator:
    """The requester, at the level of vendor protocols."""

    def __init__(self, device: Device, seed: bytes = b"emulator") -> None:
        self.device, self.session = device, SESSION
        self.protocols = device.dsm.responder(DoeBinding()).vendor_protocols
        self.keys = SeededEntropy(seed)

    def _protocol(self, vendor: bytes, number: int) -> VendorProtocol:
        return next(p for p in self.protocols if (p.vendor_id, p.protocol_id) == (vendor, number))

    def say(self, vendor: bytes, number: int, message: Any) -> bytes:
        answer = self._protocol(vendor, number).respond(self.session, message.encode(), NOW)
        assert answer is not None, f"no answer to {type(message).__name__}"
        return answer

    def pci(self, number: int, message: Any) -> bytes:
        return self.say(b"\x01\x00", number, message)

    def tdisp(self, message: t.Message) -> Any:
        return t.decode_message(self.pci(1, message))

    def cxl(self, number: int, message: Any) -> bytes:
        return self.say(b"\x98\x1e", number, message)

    def end(self) -> None:
        for protocol in self.protocols:
            protocol.session_ended(self.session)

    # -- the requester's procedures

    def ide_setup(self) -> None:
        answer = QueryResp.decode(self.pci(0, Query(port_index=EMULATOR_PORT_INDEX)))
        assert (answer.max_port_index, answer.bus, answer.device_function) == (1, 0xBE, 0)
        assert len(answer.registers) % 4 == 0
        assert len(answer.registers) >= 8
        for slot in SLOTS:
            where = {"stream_id": STREAM, "key_sub_stream": KeySubStream.of(slot), "port_index": EMULATOR_PORT_INDEX}
            assert KpAck.decode(self.pci(0, KeyProg(key_dwords=self.keys(32), **where))).status == 0
            assert KGostopAck.decode(self.pci(0, KSetGo(**where))).stream_id == STREAM

    def ide_teardown(self) -> None:
        for slot in SLOTS:
            where = {"stream_id": STREAM, "key_sub_stream": KeySubStream.of(slot), "port_index": EMULATOR_PORT_INDEX}
            assert KGostopAck.decode(self.pci(0, KSetStop(**where))).stream_id == STREAM

    def state(self) -> InterfaceState:
        return self.tdisp(t.GetDeviceInterfaceState(function_id=EMULATOR_FUNCTION)).state  # type: ignore[no-any-return]

    def lock(self) -> Any:
        capabilities = self.tdisp(t.GetTdispCapabilities(function_id=EMULATOR_FUNCTION))
        parameters = t.LockParameters(
            flags=capabilities.lock_flags_supported, default_stream_id=STREAM, mmio_reporting_offset=OFFSET
        )
        return self.tdisp(t.LockInterfaceRequest(function_id=EMULATOR_FUNCTION, parameters=parameters))

    def report(self) -> t.DeviceInterfaceReport:
        data, remainder = b"", 0x40
        while remainder:
            wanted = min(remainder, 0x40)
            request = t.GetDeviceInterfaceReport(function_id=EMULATOR_FUNCTION, offset=len(data), length=wanted)
            portion = self.tdisp(request)
            assert len(portion.portion) <= wanted
            data, remainder = data + portion.portion, portion.remainder_length
        return t.DeviceInterfaceReport.decode(data)

    def tdisp_round(self) -> t.DeviceInterfaceReport:
        assert self.tdisp(t.GetTdispVersion(function_id=EMULATOR_FUNCTION)).versions == (0x10,)
        assert self.state() is InterfaceState.CONFIG_UNLOCKED
        nonce = self.lock().nonce
        assert self.state() is InterfaceState.CONFIG_LOCKED
        report = self.report()
        self.tdisp(t.StartInterfaceRequest(function_id=EMULATOR_FUNCTION, nonce=nonce))
        assert self.state() is InterfaceState.RUN
        self.tdisp(t.StopInterfaceRequest(function_id=EMULATOR_FUNCTION))
        assert self.state() is InterfaceState.CONFIG_UNLOCKED
        return report

    def cxl_round(self, *, primary: bool) -> None:
        answer = cxl.QueryResp.decode(self.cxl(0, cxl.Query(port_index=0)))
        assert answer.caps & cxl.QueryCaps.K_SET_STOP
        for direction in cxl.Direction:
            where = {"stream_id": 0, "key_sub_stream": cxl.KeySubStream(direction=direction), "port_index": 0}
            prog = cxl.KeyProg(key_dwords=self.keys(32), iv_dwords=bytes(12), **where)
            assert cxl.KpAck.decode(self.cxl(0, prog)).status == 0
            self.cxl(0, cxl.KSetGo(**where))
        assert tsp.GetTargetTspVersionResponse.decode(self.cxl(1, tsp.GetTargetTspVersion())).versions == (0x10,)
        tsp.GetTargetCapabilitiesResponse.decode(self.cxl(1, tsp.GetTargetCapabilities()))
        if primary:
            tsp.LockTargetConfigurationResponse.decode(self.cxl(1, tsp.LockTargetConfiguration()))
            ranges = (tsp.MemoryRange(start=0x100000, length=0x10000),)
            tsp.SetTargetTeStateResponse.decode(self.cxl(1, tsp.SetTargetTeState(te_state=1, ranges=ranges)))
        for direction in cxl.Direction:
            where = {"stream_id": 0, "key_sub_stream": cxl.KeySubStream(direction=direction), "port_index": 0}
            self.cxl(0, cxl.KSetStop(**where))


@pytest.fixture
def device() -> Device:
    return emulator_device(SeededEntropy(b"emulator"), NOW)


def test_the_whole_sequence_twice(device: Device) -> None:
    """The requester opens a second session after the first has ended, and repeats everything in it."""
    for seed in (b"first", b"second"):
        emulator = Emulator(device, seed)
        emulator.ide_setup()
        report = emulator.tdisp_round()
        emulator.ide_teardown()
        emulator.cxl_round(primary=True)
        emulator.end()
        assert len(report.ranges) == 5


def test_the_report_is_shifted_by_the_offset(device: Device) -> None:
    emulator = Emulator(device)
    emulator.ide_setup()
    report = emulator.tdisp_round()
    placed = device.vfs[0].placed()
    assert report.ranges[0].first_page * 4096 == placed[0].start + OFFSET
    assert report.msi_x_message_control == 3
    assert report.info & t.InterfaceInfo.NO_FW_UPDATE_WHILE_LOCKED


def test_function_and_port_are_those_that_it_asks_for(device: Device) -> None:
    assert EMULATOR_FUNCTION == 0xBEEF
    assert device.hosted()[0xBEEF] is device.tdis[device.vfs[0]].interface
    assert set(device.dsm.ide_km.ports) == {0, 1}
    assert device.dsm.settings.heartbeat_period == EMULATOR_HEARTBEAT == 0xF0
    assert device.tdis[device.vfs[0]].interface.lock_flags == LockFlags.defined()


@pytest.mark.parametrize("missing", SLOTS, ids=lambda slot: f"{slot.direction.name}-{slot.sub_stream.name}")
def test_every_one_of_the_six_keys_is_needed(device: Device, missing: Any) -> None:
    emulator = Emulator(device)
    emulator.ide_setup()
    where = {"stream_id": STREAM, "key_sub_stream": KeySubStream.of(missing), "port_index": EMULATOR_PORT_INDEX}
    emulator.pci(0, KSetStop(**where))
    assert emulator.lock().code is t.ErrorCode.INVALID_REQUEST


@pytest.mark.parametrize(
    ("registry", "vendor", "data", "answer"),
    [
        (0, b"\xe0\x7e", b"\1", b"\x012.4.1"),
        (1, b"\xe0\x7e", b"\1", None),
        (0, b"\1\0", b"\1", None),
        (0, b"\xe0\x7e", b"", None),
    ],
)
def test_the_manufacturers_own_message(
    device: Device, registry: int, vendor: bytes, data: bytes, answer: bytes | None
) -> None:
    request = t.VdmRequest(function_id=EMULATOR_FUNCTION, registry_id=registry, vendor_id=vendor, data=data)
    found = Emulator(device).tdisp(request)
    assert getattr(found, "data", None) == answer if answer else found.code is t.ErrorCode.INVALID_REQUEST


def test_all_optional_requests_are_announced(device: Device) -> None:
    capabilities = Emulator(device).tdisp(t.GetTdispCapabilities(function_id=EMULATOR_FUNCTION))
    assert int.from_bytes(capabilities.req_msgs_supported, "little") == 0x7FF
    assert (capabilities.dev_addr_width, capabilities.num_req_this, capabilities.num_req_all) == (52, 1, 1)


def test_keys_at_the_idle_port_do_not_count(device: Device) -> None:
    emulator = Emulator(device)
    for slot in SLOTS:
        where = {"stream_id": STREAM, "key_sub_stream": KeySubStream.of(slot), "port_index": 0}
        assert KpAck.decode(emulator.pci(0, KeyProg(key_dwords=emulator.keys(32), **where))).status == 0
    assert emulator.lock().code is t.ErrorCode.INVALID_REQUEST


def test_other_functions_are_not_hosted(device: Device) -> None:
    emulator = Emulator(device)
    answer = emulator.tdisp(t.GetDeviceInterfaceState(function_id=0xBEEF + 4))
    assert answer.code is t.ErrorCode.INVALID_INTERFACE
    with_segment = t.FunctionId(requester_id=0xBEEF, segment=0, segment_valid=1).number()
    assert emulator.tdisp(t.GetDeviceInterfaceState(function_id=with_segment)).state is InterfaceState.CONFIG_UNLOCKED


@pytest.mark.parametrize("binding", [DoeBinding(), MctpBinding()], ids=["doe", "mctp"])
def test_a_connection_that_goes_away_takes_its_sessions_along(device: Device, binding: Any) -> None:
    responder = device.dsm.responder(binding)
    emulator = Emulator(device)
    emulator.ide_setup()
    emulator.lock()
    device.dsm.disconnect(responder)
    assert emulator.state() is InterfaceState.CONFIG_LOCKED
    emulator.end()
    assert Emulator(device).state() is InterfaceState.ERROR
