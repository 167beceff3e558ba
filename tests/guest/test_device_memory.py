"""Buffers in device memory: what a driver's back end makes of guest addresses."""

from __future__ import annotations

import pytest

from teeio.accelerator_interface import DescriptorFlags
from teeio.guest.device_memory import DeviceMemoryDma, reached
from teeio.guest.dma import Label, Mapping, Place
from teeio.pcie.address import AddressRange

OWN, PEER = AddressRange(0x4000_0000, 0xF000), AddressRange(0x5000_0000, 0xF000)
LABEL = Label(bytes(12), b"")


class Inner:
    """A back end that remembers what it was asked for."""

    trusted = True
    session = None
    max_segment = 4096

    def __init__(self) -> None:
        self.asked: list[str] = []

    def __getattr__(self, name: str) -> object:
        def call(*operands: object) -> object:
            self.asked.append(name)
            return Mapping(1, 2, 3, LABEL) if name in ("to_device", "from_device") else None

        return call


@pytest.fixture
def inner() -> Inner:
    return Inner()


@pytest.fixture
def dma(inner: Inner) -> DeviceMemoryDma:
    return DeviceMemoryDma(inner, OWN)  # type: ignore[arg-type]


def test_own_memory_is_reached_by_offset(dma: DeviceMemoryDma, inner: Inner) -> None:
    for map_one in (dma.to_device, dma.from_device):
        mapping = map_one(OWN.start + 0x80, 64, LABEL)
        assert (mapping.place, mapping.address, mapping.gpa) == (Place.OWN_DEVICE, 0x80, OWN.start + 0x80)
        dma.finish(mapping)
        dma.release(mapping)
    dma.expect(OWN.start, OWN.size)
    assert inner.asked == []


def test_a_peers_memory_is_reached_by_address_once_it_is_a_peer(dma: DeviceMemoryDma, inner: Inner) -> None:
    dma.expect(PEER.start, 4)
    assert inner.asked == ["expect"], "as any other address, which no back end maps"
    dma.peers.append(PEER)
    dma.expect(PEER.start, 4)
    assert dma.to_device(PEER.start, 4, LABEL) == Mapping(PEER.start, 4, PEER.start, LABEL, Place.PEER_DEVICE)
    assert inner.asked == ["expect"]


@pytest.mark.parametrize(("gpa", "size"), [(OWN.start - 4, 8), (OWN.end - 4, 8), (OWN.start, 0), (0x1000, 4)])
def test_all_else_is_the_back_ends(dma: DeviceMemoryDma, inner: Inner, gpa: int, size: int) -> None:
    dma.expect(gpa, size)
    mapping = dma.to_device(gpa, size, LABEL)
    dma.finish(mapping)
    dma.release(mapping)
    dma.close(0.0)
    assert inner.asked == ["expect", "to_device", "finish", "release", "close"]
    assert (dma.trusted, dma.session, dma.max_segment) == (True, None, 4096)


def test_the_flags_say_where_both_lie() -> None:
    assert reached(Place.MEMORY, Place.MEMORY) == DescriptorFlags.NONE
    assert reached(Place.OWN_DEVICE, Place.PEER_DEVICE) == (
        DescriptorFlags.LOCAL_SOURCE | DescriptorFlags.TRANSLATED_DESTINATION
    )
    assert reached(Place.PEER_DEVICE, Place.OWN_DEVICE) == (
        DescriptorFlags.TRANSLATED_SOURCE | DescriptorFlags.LOCAL_DESTINATION
    )
