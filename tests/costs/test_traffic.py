"""Counting frames."""

from teeio.costs.ide_efficiency import secure_pair
from teeio.costs.traffic import LinkMeter, Traffic
from teeio.crypto.entropy import SeededEntropy
from teeio.pcie.link import Way
from teeio.pcie.tlp import memory_read, memory_write

WRITE = memory_write(0x100, 0, 1 << 32, bytes(256))


def test_a_plain_frame_is_header_and_payload() -> None:
    traffic = Traffic()
    traffic.add(WRITE.encode())
    traffic.add(memory_read(0x100, 0, 0x1000, 64).encode())
    assert traffic == Traffic(tlps=2, payload=256, tlp_bytes=16 + 256 + 12)
    assert traffic.on_link(8) == 16 + 256 + 12 + 16


def test_a_unit_has_a_prefix_for_each_tlp_and_one_mac() -> None:
    near, _ = secure_pair(SeededEntropy(b"unit"), 2)
    traffic = Traffic()
    for frame in near.seal_unit([WRITE, WRITE]):
        traffic.add(frame)
    assert traffic == Traffic(
        tlps=2, payload=512, ide_tlps=2, ide_bytes=2 * 4 + 12, tlp_bytes=2 * (16 + 256) + 2 * 4 + 12
    )


def test_bytes_that_are_no_tlp_count_as_bytes() -> None:
    traffic = Traffic()
    for frame in (b"", b"\xff" * 20, b"\x92", b"\x92\0\0\0"):
        traffic.add(frame)
    assert (traffic.tlps, traffic.payload, traffic.tlp_bytes) == (4, 0, 25)


def test_the_meter_keeps_directions_apart_and_changes_nothing() -> None:
    meter = LinkMeter()
    assert meter(WRITE.encode(), Way.UP) == WRITE.encode()
    down, up = meter.take()
    assert (down.tlps, up.tlps) == (0, 1)
    assert meter.take() == (Traffic(), Traffic())
