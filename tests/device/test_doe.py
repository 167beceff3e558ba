"""From configuration accesses to RUN: SPDM over the DOE mailbox, IDE_KM and TDISP in a session, then work on private memory."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, TypeVar

import pytest

from teeio.crypto.entropy import SeededEntropy
from teeio.device.device import DOE_LIMIT
from teeio.errors import ErrorResponse, TransportError
from teeio.flow import Done, Flow, Send
from teeio.ide_km import flows as ide_km
from teeio.ide_km.messages import Direction, KeySet, key_slots
from teeio.pcie.address import Bdf
from teeio.pcie.capabilities.doe import DoeCapability
from teeio.pcie.doe import SECURED_SPDM, SPDM, DoeBinding, discover, exchange
from teeio.pcie.ide import Direction as PortDirection
from teeio.pcie.ide import KeySet as PortKeySet
from teeio.pcie.ide_port import ProgramResult
from teeio.pcie.tlp import SubStream
from teeio.spdm import flows
from teeio.spdm.requester import Requester
from teeio.spdm.state import RESPONDER_CAPABILITIES, Session, Settings
from teeio.tdisp import flows as tdisp
from teeio.tdisp.messages import InterfaceState, LockFlags, LockParameters

T = TypeVar("T")
PF, STREAM, NOW = Bdf(0, 1, 0, 0), 5, 1.8e9


class Host:
    """A requester that reaches the device through configuration accesses alone."""

    def __init__(self, rig: Any) -> None:
        self.rig = rig
        self.requester = Requester(DoeBinding(), Settings(), SeededEntropy(b"host"))
        self.base = rig.device.pfs[0].space.need(DoeCapability).base
        self.now = NOW

    def read(self, offset: int, size: int) -> int:
        return self.rig.fabric.config_read(PF, offset, size)  # type: ignore[no-any-return]

    def write(self, offset: int, size: int, value: int) -> None:
        self.rig.fabric.config_write(PF, offset, size, value)

    def run(self, flow: Flow[T], session: Session | None = None) -> T:
        action = self.requester.start(flow, self.now, session.session_id if session else None)
        while not isinstance(action, Done):
            assert isinstance(action, Send)
            answer = exchange(self.read, self.write, self.base, action.frame)
            action = self.requester.receive(answer, self.now)
        return action.result  # type: ignore[no-any-return]

    def open_session(self) -> Session:
        self.run(flows.connect(self.requester))
        self.run(flows.get_digests())
        self.run(flows.get_certificate(self.requester))
        return self.run(flows.key_exchange(self.requester))

    def keys(self, session: Session) -> None:
        """Give both ends of the stream the same keys and let them go."""
        entropy = SeededEntropy(b"keys")
        keys = {slot: entropy(32) for direction in Direction for slot in key_slots(KeySet.K0, direction)}
        self.run(ide_km.query(0), session)
        self.run(ide_km.program_keys(0, STREAM, keys), session)
        for slot, key in keys.items():
            far = PortKeySet.K0, PortDirection(1 - slot.direction), SubStream(slot.sub_stream)
            assert self.rig.root.ide.program(STREAM, *far, key, 1) is ProgramResult.OK
            assert self.rig.root.ide.set_go(STREAM, *far)
        for direction in Direction:
            self.run(ide_km.set_go(0, STREAM, KeySet.K0, direction), session)


@pytest.fixture
def host(rig: Any) -> Host:
    rig.associate()
    return Host(rig)


def test_discovery_over_the_link(host: Host) -> None:
    assert discover(host.read, host.write, host.base)[1:] == [SPDM, SECURED_SPDM]


def test_from_the_mailbox_to_run_and_back(host: Host) -> None:
    rig, session = host.rig, host.open_session()
    host.keys(session)
    rig.enable()
    assert rig.device.port.ide.is_secure(STREAM)
    tdi = rig.vf(1)
    function_id = rig.address(tdi).requester_id
    parameters = LockParameters(
        flags=LockFlags.NO_FW_UPDATE, default_stream_id=STREAM, mmio_reporting_offset=-0x10_0000_0000
    )
    nonce = host.run(tdisp.lock_interface(function_id, parameters), session)
    report = host.run(tdisp.get_device_interface_report(function_id), session)
    assert report.ranges[0].first_page == (rig.bar(tdi, 0) - 0x10_0000_0000) // 4096
    host.run(tdisp.start_interface(function_id, nonce), session)
    assert host.run(tdisp.get_state(function_id), session) is InterfaceState.RUN
    rig.fabric.memory_write(rig.bar(tdi, 0) + 0x1000, b"private!", True)
    assert rig.fabric.memory_read(rig.bar(tdi, 0) + 0x1000, 8, True).data == b"private!"
    host.run(tdisp.stop_interface(function_id), session)
    host.run(flows.end_session(host.requester, session))
    assert not rig.device.port.ide.keyed(STREAM)


def test_measurements_over_the_mailbox_are_those_of_the_dsm(host: Host) -> None:
    session = host.open_session()
    evidence = host.run(flows.get_measurements(host.requester, session=session.session_id))
    algorithm = host.requester.connection.measurement_hash
    assert list(evidence.blocks) == host.rig.device.dsm.measurement_blocks(algorithm)


def test_a_lock_without_keys_says_why(host: Host) -> None:
    session = host.open_session()
    with pytest.raises(ErrorResponse, match="INVALID_REQUEST"):
        host.run(tdisp.lock_interface(0x0100, LockParameters(default_stream_id=STREAM)), session)


def test_a_lapsed_heartbeat_is_the_end_of_trust(make_rig: Any) -> None:
    settings = Settings(capabilities=RESPONDER_CAPABILITIES, heartbeat_period=10)
    rig = make_rig(settings=settings)
    rig.associate()
    host = Host(rig)
    session = host.open_session()
    host.keys(session)
    host.run(tdisp.lock_interface(0x0100, LockParameters(default_stream_id=STREAM)), session)
    rig.device.advance(NOW + 19)
    assert rig.pf.state is InterfaceState.CONFIG_LOCKED
    rig.device.advance(NOW + 21)
    assert rig.pf.state is InterfaceState.ERROR
    assert not rig.device.port.ide.keyed(STREAM)


def test_a_mailbox_that_is_reset_in_use_answers_afterwards(host: Host) -> None:
    host.write(host.base + DoeCapability.WRITE_MAILBOX.offset, 4, 0x0001_0001)
    host.write(host.base + DoeCapability.CONTROL.offset, 4, 1 << 31)
    with pytest.raises(TransportError, match="no answer"):
        exchange(host.read, host.write, host.base, b"\x01\x00\x07\x00\x02\x00\x00\x00", polls=3)
    assert host.open_session().session_id


def test_an_object_above_the_limit_is_refused(host: Host) -> None:
    space = host.rig.device.pfs[0].space
    with pytest.raises(TransportError, match="set Error"):
        exchange(space.read, space.write, host.base, DoeBinding().wrap(bytes(DOE_LIMIT), secured=False), polls=3)
    space.write(host.base + DoeCapability.CONTROL.offset, 4, 1)
    assert discover(host.read, host.write, host.base)


def test_both_versions(rig: Any) -> None:
    for version in (0x12, 0x13):
        host = Host(rig)
        host.requester.settings = replace(host.requester.settings, versions=(version,))
        assert host.open_session().session_id
        assert host.requester.connection.version == version
