"""IDE at two ports: streams set up through registers, their keys and associations, and what ends them."""

from __future__ import annotations

import pytest

from pcie.link_bench import BAR, HIGH_BAR, PF, RP, STREAM, Bench
from teeio.observe import StateChanged, TlpMoved
from teeio.pcie.capabilities.aer import AerCapability, Uncorrectable
from teeio.pcie.capabilities.ide import IdeCapability
from teeio.pcie.ide import SYNC_AT, Direction, KeySet
from teeio.pcie.ide_port import InsecureCause, ProgramResult
from teeio.pcie.ide_tlp import message_code
from teeio.pcie.link import Way
from teeio.pcie.seams import UNSUPPORTED
from teeio.pcie.tlp import (
    CompletionStatus,
    Routing,
    SubStream,
    Tlp,
    completion,
    config_read,
    memory_read,
    memory_write,
    message,
)

# -- traffic on a stream


def test_t_1_needs_a_stream(bench: Bench) -> None:
    assert bench.root.memory_write(HIGH_BAR, b"1234", t_bit=True) is CompletionStatus.UR
    assert not bench.root.memory_read(HIGH_BAR, 4, t_bit=True).ok
    assert not bench.port.dma_read(PF.requester_id, 0, 4, True).ok
    assert bench.device.asked == bench.host.asked == []


def test_traffic_goes_on_the_stream(bench: Bench) -> None:
    bench.secure()
    bench.events.clear()
    assert bench.fabric.memory_write(HIGH_BAR + 8, b"secret", t_bit=True) is CompletionStatus.SC
    assert bench.fabric.memory_read(HIGH_BAR + 8, 6, t_bit=True).data == b"secret"
    assert bench.device.asked == [(PF, True, STREAM)] * 2
    assert bench.port.dma_write(PF.requester_id, 0x9000, b"private", True) is CompletionStatus.SC
    assert bench.port.dma_read(PF.requester_id, 0x9000, 7, True).data == b"private"
    assert bench.port.dma_read(PF.requester_id, 0x9000, 7, False) == UNSUPPORTED
    assert bench.host.asked[:2] == [(PF.requester_id, True, STREAM)] * 2
    assert bench.host.asked[2] == (PF.requester_id, False, STREAM)
    protections = {event.protection for event in bench.events if isinstance(event, TlpMoved)}
    assert protections == {"IDE T=1", "IDE T=0"}


def test_nothing_of_the_payload_is_on_the_link(bench: Bench) -> None:
    bench.secure()
    seen: list[bytes] = []

    def listen(frame: bytes, way: Way) -> bytes:
        seen.append(frame)
        return frame

    bench.link.tamper = listen
    secret = b"a secret that nobody on the link may see"
    bench.fabric.memory_write(HIGH_BAR, secret, t_bit=True)
    assert bench.fabric.memory_read(HIGH_BAR, len(secret), t_bit=True).data == secret
    assert len(seen) == 3
    assert not any(secret[:8] in frame for frame in seen)


def test_the_address_association_decides_at_the_root_port(bench: Bench) -> None:
    bench.secure()
    bench.fabric.memory_write(BAR, b"1234")
    bench.fabric.memory_write(HIGH_BAR, b"1234")
    assert [stream for _, _, stream in bench.device.asked] == [None, STREAM]


LINK_STREAM = 9


def protect_the_link(bench: Bench) -> None:
    """Make the Link stream Secure at both ends."""
    for port in (bench.root, bench.port):
        ide = port.config.need(IdeCapability)
        control = ide.streams[0].control
        ide.write(control.offset, 4, control.put(0, stream_id=LINK_STREAM))
        for direction in Direction:
            for sub_stream in SubStream:
                mine = Direction(1 - direction) if port is bench.root else direction
                key = bytes([7, direction, sub_stream]) + bytes(29)
                assert port.ide.program(LINK_STREAM, KeySet.K0, mine, sub_stream, key, 1) is ProgramResult.OK
        for direction in Direction:
            for sub_stream in SubStream:
                assert port.ide.set_go(LINK_STREAM, KeySet.K0, direction, sub_stream)
        ide.write(control.offset, 4, control.put(0, stream_id=LINK_STREAM, enable=1))
    bench.events.clear()


def test_no_trusted_request_leaves_on_a_link_stream(bench: Bench) -> None:
    """It ends at the next port, which may be a switch's, and what lies beyond is nobody's promise."""
    protect_the_link(bench)
    tlp = memory_write(PF.requester_id, 0, 0, b"1234")
    assert bench.port.ide.select(tlp) == LINK_STREAM
    assert bench.port.ide.select(tlp, True) is None
    for stream_id in (None, LINK_STREAM):
        assert bench.root.memory_write(HIGH_BAR, b"1234", True, stream_id) is CompletionStatus.UR
        assert not bench.root.memory_read(HIGH_BAR, 4, True, stream_id).ok
        assert bench.port.dma_write(PF.requester_id, 0, b"1234", True, stream_id) is CompletionStatus.UR
        assert not bench.port.dma_read(PF.requester_id, 0, 4, True, stream_id).ok
    assert not any(isinstance(event, TlpMoved) for event in bench.events)
    assert bench.fabric.memory_read(HIGH_BAR, 4).ok
    assert bench.port.dma_read(PF.requester_id, 0, 4, False, LINK_STREAM).ok


@pytest.mark.parametrize("way", Way, ids=lambda way: way.name)
def test_t_on_a_link_stream_is_believed_by_nobody(bench: Bench, way: Way) -> None:
    """Sealed by the neighbour with the stream's own keys, as a switch or a lying port could."""
    protect_the_link(bench)
    sender, receiver = (bench.port, bench.root) if way is Way.UP else (bench.root, bench.port)
    asked = bench.host.asked if way is Way.UP else bench.device.asked
    at = 0 if way is Way.UP else HIGH_BAR
    (bound,) = [bound for bound in sender.ide._bound if bound.id == LINK_STREAM]
    for tlp in (memory_write(PF.requester_id, 0, at, b"1234"), memory_read(PF.requester_id, 1, at, 4)):
        bench.link.inject(bound.stream.seal(tlp, True), way)
        assert receiver.config.need(AerCapability).recorded(Uncorrectable.UNSUPPORTED_REQUEST)
    assert not asked
    bench.link.inject(bound.stream.seal(memory_write(PF.requester_id, 0, at, b"1234"), False), way)
    assert asked == [(PF if way is Way.DOWN else PF.requester_id, False, LINK_STREAM)]


def test_a_link_stream_carries_everything_else(bench: Bench) -> None:
    protect_the_link(bench)
    assert bench.fabric.config_read(PF, 0, 4) == 0x56781234
    assert bench.fabric.memory_read(BAR, 4).ok
    assert {event.protection for event in bench.events if isinstance(event, TlpMoved)} == {"IDE T=0"}


# -- keys and states


def test_status_registers_and_events_tell_the_state(bench: Bench) -> None:
    bench.associate()
    bench.program()
    assert bench.port.ide.keyed(STREAM)
    assert not bench.port.ide.is_secure(STREAM)
    bench.enable()
    _, block, _, _ = list(bench.sides())[1]
    ide = bench.device.config.need(IdeCapability)
    assert ide.value(block.status) == 0
    bench.go()
    assert ide.value(block.status) == 2
    assert bench.port.ide.default_stream() == STREAM
    assert bench.root.ide.default_stream() is None
    bench.enable(0)
    assert ide.value(block.status) == 0
    changes = [(e.old, e.new) for e in bench.events if isinstance(e, StateChanged) and e.subject.endswith("endpoint")]
    assert changes == [("Insecure", "Secure"), ("Secure", "Insecure")]
    assert bench.insecure == [("root", STREAM, InsecureCause.DISABLED), ("device", STREAM, InsecureCause.DISABLED)]
    assert not bench.port.ide.keyed(STREAM)


def test_refresh_under_traffic(bench: Bench) -> None:
    bench.secure()
    for salt, key_set in enumerate((KeySet.K1, KeySet.K0, KeySet.K1), 1):
        bench.program(key_set=key_set, salt=salt)
        bench.go(key_set=key_set)
        for port, *_ in bench.sides():
            for direction in Direction:
                for sub_stream in SubStream:
                    assert port.ide.set_stop(STREAM, KeySet(1 - key_set), direction, sub_stream)
        bench.fabric.memory_write(HIGH_BAR, b"1234", t_bit=True)
        assert bench.fabric.memory_read(HIGH_BAR, 4, t_bit=True).data == b"1234"
        assert bench.port.dma_read(PF.requester_id, 0, 4, True).ok
    assert bench.state() == (True, True)


def test_keys_that_are_refused(bench: Bench) -> None:
    bench.associate()
    program = bench.port.ide.program
    args = (KeySet.K0, Direction.TX, SubStream.PR)
    assert program(99, *args, bytes(32), 1) is ProgramResult.UNKNOWN_STREAM
    assert program(STREAM, *args, bytes(31), 1) is ProgramResult.BAD_KEY
    assert program(STREAM, *args, bytes(32), 2) is ProgramResult.BAD_IFV
    assert program(STREAM, *args, bytes(32), 1) is ProgramResult.OK
    for other in ((KeySet.K0, Direction.TX, SubStream.NPR), (KeySet.K1, Direction.RX, SubStream.PR), args):
        assert program(STREAM, *other, bytes(32), 1) is ProgramResult.KEY_REUSED
    bench.port.ide.reset()
    assert program(STREAM, *args, bytes(32), 1) is ProgramResult.KEY_REUSED
    bench.port.ide.reset(conventional=True)
    assert program(STREAM, *args, bytes(32), 1) is ProgramResult.OK
    assert not bench.port.ide.set_go(99, *args)
    assert not bench.port.ide.set_stop(99, *args)
    assert bench.port.ide.block(99) is None


def test_a_key_in_use_is_not_replaced(bench: Bench) -> None:
    bench.secure()
    result = bench.port.ide.program(STREAM, KeySet.K0, Direction.TX, SubStream.PR, b"\xee" * 32, 1)
    assert result is ProgramResult.IN_USE


def test_changing_the_stream_id_erases_keys(bench: Bench) -> None:
    bench.associate()
    bench.program()
    bench.associate(stream_id=6)
    assert not bench.port.ide.keyed(6)


def test_enabling_without_a_rid_association_fails(bench: Bench) -> None:
    bench.associate()
    bench.program()
    bench.go()
    block = bench.device.config.need(IdeCapability).streams[1]
    assert block.rid is not None
    bench.device.config.need(IdeCapability).write(block.rid[1].offset, 4, 0)
    bench.enable()
    assert bench.state() == (True, False)


@pytest.mark.parametrize("what", ["control", "rid", "address"])
def test_reconfiguration_while_enabled_fails_the_stream(bench: Bench, what: str) -> None:
    bench.secure()
    ide = bench.device.config.need(IdeCapability)
    block = ide.streams[1]
    assert block.rid is not None
    register = {"control": block.control, "rid": block.rid[0], "address": block.addresses[0][1]}[what]
    value = ide.value(register)
    ide.write(register.offset, 4, value)
    assert bench.state() == (True, True)
    ide.write(register.offset, 4, value ^ 1 << 20)
    assert bench.state() == (False, False)
    assert bench.insecure == [
        ("root", STREAM, InsecureCause.FAIL_RECEIVED),
        ("device", STREAM, InsecureCause.RECONFIGURED),
    ]


def test_the_device_can_order_a_stream_insecure(bench: Bench) -> None:
    bench.secure()
    bench.port.ide.make_insecure(STREAM)
    assert bench.insecure == [("root", STREAM, InsecureCause.FAIL_RECEIVED), ("device", STREAM, InsecureCause.ORDERED)]
    bench.enable(0)
    bench.program(salt=9)
    bench.go()
    bench.enable()
    assert bench.state() == (True, True)


def test_a_link_that_goes_down_makes_streams_insecure(bench: Bench) -> None:
    bench.secure()
    bench.link.fail()
    assert bench.state() == (False, False)
    assert {cause for _, _, cause in bench.insecure} == {InsecureCause.RESET}
    assert not bench.port.dma_read(PF.requester_id, 0, 4, False).ok


def test_an_enabled_stream_that_lost_its_keys_drops_t_0_traffic_too(bench: Bench) -> None:
    bench.secure()
    bench.link.fail()
    bench.link.restore()
    assert bench.fabric.memory_write(HIGH_BAR, b"1234") is CompletionStatus.UR
    assert not bench.port.dma_read(PF.requester_id, 0, 4, False).ok
    bench.device.config.reset()
    bench.port.ide.reset()
    assert bench.port.dma_write(PF.requester_id, 0, b"1234", False) is CompletionStatus.SC


def test_a_stopped_transmit_key_makes_the_stream_insecure_when_used(bench: Bench) -> None:
    bench.secure()
    assert bench.port.ide.set_stop(STREAM, KeySet.K0, Direction.TX, SubStream.PR)
    assert bench.state() == (True, True)
    assert bench.port.dma_write(PF.requester_id, 0, b"1234", True) is CompletionStatus.UR
    assert bench.state() == (False, False)


# -- associations


@pytest.mark.parametrize(
    ("tlp", "stream"),
    [
        (config_read(8, 0, PF.requester_id, 0, type_1=True), STREAM),
        (config_read(8, 0, 0x0777, 0, type_1=True), None),
        (config_read(8, 0, PF.requester_id, 0), None),
        (message(8, 0x7F, Routing.BY_ID, PF.requester_id.to_bytes(2, "big") + bytes(6)), STREAM),
        (message(8, 0x7F, Routing.BROADCAST), None),
        (message(8, 0x7F, Routing.TO_ROOT_COMPLEX), None),
        (memory_read(8, 0, HIGH_BAR, 4), STREAM),
        (memory_read(8, 0, BAR, 4), None),
        (completion(8, PF.requester_id, 0), STREAM),
        (completion(8, 0x0777, 0), None),
    ],
)
def test_associations_at_the_root_port(bench: Bench, tlp: Tlp, stream: int | None) -> None:
    bench.secure(configuration=1)
    assert bench.root.ide.select(tlp) == stream


@pytest.mark.parametrize(("t_bit", "stream"), [(True, STREAM), (False, None)])
def test_a_tee_limited_stream_carries_only_t_1(bench: Bench, t_bit: bool, stream: int | None) -> None:
    bench.secure(tee_limited=1)
    assert bench.port.ide.select(memory_read(PF.requester_id, 0, 0, 4), t_bit) == stream


def test_a_requester_outside_the_association_is_unsupported(bench: Bench) -> None:
    bench.secure()
    assert not bench.port.dma_read(0x0555, 0, 4, True).ok
    assert bench.port.dma_write(0x0555, 0x9000, b"1234", True) is CompletionStatus.SC
    assert bench.host.memory[0x9000:0x9004] == bytes(4)
    assert bench.refusals()[0] == "UNSUPPORTED_REQUEST"
    assert bench.state() == (True, True)


@pytest.mark.parametrize("spoilt", [False, True])
def test_errors_log_the_header_behind_all_prefixes(bench: Bench, spoilt: bool) -> None:
    bench.secure()
    pasid = bytes.fromhex("91000001")
    crossing = bytearray(memory_write(PF.requester_id, 0, HIGH_BAR, bytes(8)).header)
    crossing[-2:] = b"\x0f\xfc"
    if spoilt:
        bench.link.tamper = lambda frame, way: frame[:-1] + bytes([frame[-1] ^ 1])
    bench.root.ide.transmit(Tlp(bytes(crossing), bytes(4 * crossing[3]), pasid), False, STREAM)
    aer = bench.device.config.need(AerCapability)
    assert aer.recorded(Uncorrectable.IDE_CHECK_FAILED if spoilt else Uncorrectable.MALFORMED_TLP)
    assert b"".join(aer.value(register).to_bytes(4, "big") for register in aer.HEADER_LOG) == crossing


def test_nothing_follows_an_escort_that_was_refused(bench: Bench) -> None:
    bench.secure()
    for _ in range(SYNC_AT):
        bench.root.ide.transmit(memory_write(RP.requester_id, 0, HIGH_BAR, bytes(4)), True)
    frames: list[bytes] = []

    def spoil(frame: bytes, way: Way) -> bytes:
        frames.append(frame)
        return frame[:-1] + bytes([frame[-1] ^ 1]) if len(frames) == 1 else frame

    bench.link.tamper = spoil
    assert not bench.fabric.memory_read(HIGH_BAR, 4, t_bit=True).ok
    assert bench.state() == (False, False)
    assert [message_code(bench.link.mode.heading(frames[0])), message_code(Tlp.decode(frames[1]))] == [0x56, 0x55]
    assert len(frames) == 2


def test_an_escort_whose_key_was_stopped_makes_the_stream_insecure(bench: Bench) -> None:
    bench.secure()
    for _ in range(SYNC_AT):
        bench.root.ide.transmit(memory_write(RP.requester_id, 0, HIGH_BAR, bytes(4)), True)
    assert bench.root.ide.set_stop(STREAM, KeySet.K0, Direction.TX, SubStream.PR)
    assert not bench.fabric.memory_read(HIGH_BAR, 4, t_bit=True).ok
    assert bench.state() == (False, False)


def test_a_rid_limit_below_the_base_keeps_no_message_back(bench: Bench) -> None:
    bench.associate()
    for port, block, rids, _ in bench.sides():
        assert block.rid is not None
        port.config.need(IdeCapability).write(block.rid[0].offset, 4, rids[0] - 1 << 8)
    bench.program()
    bench.go()
    bench.enable()
    for _ in range(SYNC_AT):
        assert bench.root.ide.transmit(memory_write(RP.requester_id, 0, HIGH_BAR, bytes(4)), True)
    assert "Msg" in {event.kind for event in bench.events if isinstance(event, TlpMoved)}
    assert bench.state() == (True, True)
    bench.root.ide.make_insecure(STREAM)
    assert ("device", STREAM, InsecureCause.FAIL_RECEIVED) in bench.insecure
