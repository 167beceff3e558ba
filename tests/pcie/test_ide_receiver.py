"""The receiving side of an IDE stream: the cipher against a whole GCM, remembered shapes, units, counts."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given
from hypothesis import strategies as st

from pcie.test_ide import CPL, KEY, MRD, MWR, distinct, go, load, pair
from teeio.errors import Misuse
from teeio.pcie import ide_frame
from teeio.pcie.ide import MAX_SHAPES, KeySet, StreamSettings
from teeio.pcie.ide_key import (
    INVOCATIONS,
    MAC_SIZE,
    IdeCheckFailed,
    KeySlot,
    PcrcCheckFailed,
    initialization_vector,
)
from teeio.pcie.ide_tlp import SUB_STREAM_SHIFT, ide_escort, ide_sync
from teeio.pcie.tlp import MessageCode, Routing, SubStream, Tlp, memory_write, message

PASID_PREFIX = bytes.fromhex("91000001")


def ready(key: bytes = KEY) -> KeySlot:
    slot = KeySlot()
    slot.install(key)
    assert slot.go()
    return slot


# -- the cipher: two calls for one GCM whose tag is cut short

SIZES = st.one_of(st.integers(0, 80), st.integers(0, 1028).map(lambda dwords: 4 * dwords))


@given(key=st.binary(min_size=32, max_size=32), size=SIZES, associated=st.binary(max_size=180), data=st.data())
def test_a_slot_opens_what_gcm_seals(key: bytes, size: int, associated: bytes, data: st.DataObject) -> None:
    plaintext = (data.draw(st.binary(min_size=1, max_size=16)) * (size // 1 + 1))[:size]
    slot = ready(key)
    for invocation in (1, 2):
        sealed = AESGCM(key).encrypt(initialization_vector(invocation), plaintext, associated)
        assert slot.open(sealed[:size], sealed[size : size + MAC_SIZE], associated) == plaintext


@given(size=st.integers(0, 64), associated=st.binary(min_size=1, max_size=48), data=st.data())
def test_a_slot_opens_nothing_else(size: int, associated: bytes, data: st.DataObject) -> None:
    parts = [bytearray(part) for part in (bytes(size), bytes(MAC_SIZE), associated)]
    sealed = AESGCM(KEY).encrypt(initialization_vector(1), bytes(size), associated)
    parts[0][:], parts[1][:] = sealed[:size], sealed[size : size + MAC_SIZE]
    part = data.draw(st.sampled_from([part for part in parts if part]))
    part[data.draw(st.integers(0, len(part) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(IdeCheckFailed, match="MAC"):
        ready().open(*(bytes(part) for part in parts))


@pytest.mark.parametrize("size", [0, 11, 13, 16])
def test_a_mac_has_96_bits(size: int) -> None:
    sealed = AESGCM(KEY).encrypt(initialization_vector(1), bytes(4), b"A")
    with pytest.raises(IdeCheckFailed, match="MAC"):
        ready().open(sealed[:4], sealed[4 : 4 + size], b"A")


@given(size=st.integers(1, 256).map(lambda dwords: 4 * dwords), count=st.integers(2, 8))
def test_units_carry_any_payload_that_fits(size: int, count: int) -> None:
    near, far = pair(aggregation=(8, 1, 1))
    count = min(count, 1024 // size)
    tlps = [memory_write(0x100, 0, 0x1000 * number, bytes([number]) * size) for number in range(max(count, 1))]
    found = [item for frame in near.seal_unit(tlps, True) for item in far.receive(frame)]
    assert found == [(tlp, True) for tlp in tlps]


# -- shapes


@pytest.mark.parametrize("change", [-4, -1, 1, 4])
@pytest.mark.parametrize("known", [False, True])
def test_a_frame_is_as_long_as_its_header_says(change: int, known: bool) -> None:
    near, far = pair()
    if known:
        far.open(near.seal(MWR))
    frame = near.seal(MWR)
    with pytest.raises(IdeCheckFailed, match="bytes"):
        far.open(frame[:change] if change < 0 else frame + bytes(change))
    assert not far.secure


def test_a_known_shape_does_not_hide_another_type() -> None:
    near, far = pair()
    far.open(near.seal(MWR))
    frame = bytearray(near.seal(MWR))
    frame[3] ^= SubStream.NPR << SUB_STREAM_SHIFT
    with pytest.raises(IdeCheckFailed, match="sub-stream"):
        far.open(bytes(frame))


def test_a_unit_of_more_than_256_dw_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    near, far = pair(aggregation=(2, 1, 1))
    monkeypatch.setattr("teeio.pcie.ide.MAX_UNIT_PAYLOAD", 4096)
    first, second = near.seal_unit([memory_write(0x100, 0, 0, bytes(520))] * 2)
    assert far.receive(first) == ()
    with pytest.raises(IdeCheckFailed, match="256 DW"):
        far.receive(second)
    assert not far.secure


def test_shapes_do_not_outlive_their_settings() -> None:
    near, far = pair(pcrc=True)
    far.open(near.seal(MWR))
    for stream, flip in ((near, False), (far, True)):
        stream.disable()
        load(stream, KeySet.K0, distinct(KeySet.K1), flip)
        go(stream, KeySet.K0)
        stream.enable(StreamSettings(stream_id=5, pcrc=stream is near))
    with pytest.raises(IdeCheckFailed, match="PCRC is off"):
        far.open(near.seal(MWR))


def test_shapes_are_remembered_and_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    near, far = pair()
    for dwords in range(1, 1025):
        write = memory_write(0x100, 0, 0, bytes(4 * dwords))
        for traffic_class in (0, 1):
            header = bytes([write.header[0], traffic_class << 4]) + write.header[2:]
            far.open(near.seal(write._replace(header=header)))
        if near.sync_due:
            far.open(near.seal_sync(0x100, 8))
        assert len(far._known) <= MAX_SHAPES
    monkeypatch.setattr("teeio.pcie.ide.shape_of", None)
    assert far.open(near.seal(write._replace(header=header)))[0].payload == bytes(4096)


def test_other_prefixes_are_part_of_a() -> None:
    near, far = pair()
    prefixed = MWR._replace(prefixes=PASID_PREFIX * 2)
    for _ in range(2):
        assert far.open(near.seal(prefixed, True)) == (prefixed, True)
        assert far.open(near.seal(MWR)) == (MWR, False)
    assert len(far._known) == 1
    frame = bytearray(near.seal(prefixed))
    frame[7] ^= 1
    with pytest.raises(IdeCheckFailed, match="MAC"):
        far.open(bytes(frame))


@given(st.binary(max_size=40))
def test_any_bytes_have_a_shape_or_break_a_rule(frame: bytes) -> None:
    for settings in (
        StreamSettings(5),
        StreamSettings(5, selective=False, pcrc=True, escorts=True),
    ):
        try:
            shape = ide_frame.shape_of(frame, settings)
        except IdeCheckFailed:
            continue
        try:
            parts = shape.split(frame)
        except ide_frame.WrongLength:
            continue
        assert b"".join(parts) == frame


# -- counts and messages


def test_a_pcrc_that_fails_takes_its_unit_with_it() -> None:
    near, _ = pair(aggregation=(2, 1, 1))
    _, far = pair(aggregation=(2, 1, 1), pcrc=True)
    first, second = near.seal_unit([MWR, MWR])
    assert far.receive(first) == ()
    with pytest.raises(PcrcCheckFailed):
        far.receive(second)
    assert far.secure
    assert far.receive(near.seal(MRD)) == ((MRD, False),)
    unit = near.seal_unit([MWR, MWR])
    assert far.receive(unit[0]) == ()
    with pytest.raises(PcrcCheckFailed):
        far.receive(unit[1])


def test_a_sync_inside_a_unit_counts() -> None:
    near, far = pair(aggregation=(4, 1, 1))
    for _ in range(3):
        far.open(near.seal(MWR))
    sync = ide_sync(0x100, 8, 4, 4)
    frames = near.seal_unit([sync, MWR])
    near._sent = [1, 1]
    assert [far.receive(frame) for frame in frames] == [(), ((sync, False), (MWR, False))]
    for follower in (MRD, CPL):
        assert far.open(near.seal(follower)) == (follower, False)
    near.seal(MWR)
    with pytest.raises(IdeCheckFailed, match="overtook"):
        far.open(near.seal(MRD))


def test_a_received_counter_that_overflows_breaks_the_stream() -> None:
    near, far = pair()
    far._posted = INVOCATIONS - 2
    far.open(near.seal(MWR))
    far.open(near.seal(MRD))
    far.open(near.seal(MWR))
    with pytest.raises(IdeCheckFailed, match="overflows"):
        far.open(near.seal(CPL))
    assert not far.secure


def sealed_as(tlp: Tlp, sub_stream: SubStream, escorts: bool) -> tuple[bytes, bool]:
    """Seal a TLP on a sub-stream that is not its own; give the frame, and whether the other end takes it."""
    near, far = pair(escorts=escorts)
    near._classes = bytes([sub_stream]) * 256
    frame = near.seal(tlp)
    try:
        return frame, far.open(frame) == (tlp, False)
    except IdeCheckFailed as error:
        assert "may not travel" in str(error)
        assert not far.secure
        return frame, False


@pytest.mark.parametrize("sub_stream", [SubStream.NPR, SubStream.CPL])
def test_nothing_leaves_its_sub_stream(sub_stream: SubStream) -> None:
    escort, other = ide_escort(0x100, 8, SubStream.NPR), message(0x100, MessageCode.VENDOR_DEFINED_1, Routing.BY_ID)
    for tlp in (escort, other, MWR):
        for escorts in (False, True):
            assert not sealed_as(tlp, sub_stream, escorts)[1]


@pytest.mark.parametrize(
    "tlp", [ide_escort(0x100, 8, SubStream.NPR), message(0x100, MessageCode.VENDOR_DEFINED_1, Routing.BY_ID)]
)
@pytest.mark.parametrize("escorts", [True, False])
def test_every_flipped_bit_of_a_message_is_caught(tlp: Tlp, escorts: bool) -> None:
    frame = pair(escorts=escorts)[0].seal(tlp)
    for bit in range(8 * len(frame)):
        spoilt = bytearray(frame)
        spoilt[bit // 8] ^= 1 << bit % 8
        _, far = pair(escorts=escorts)
        with pytest.raises(IdeCheckFailed):
            far.open(bytes(spoilt))
        assert not far.secure


@pytest.mark.parametrize("sub_stream", range(3, 8))
@pytest.mark.parametrize("escorts", [True, False])
def test_nothing_travels_on_reserved_sub_streams(sub_stream: int, escorts: bool) -> None:
    for tlp in (
        ide_escort(0x100, 8, SubStream.NPR),
        message(0x100, MessageCode.VENDOR_DEFINED_1, Routing.BY_ID),
        MWR,
        MRD,
        CPL,
    ):
        near, far = pair(escorts=escorts)
        frame = bytearray(near.seal(tlp))
        frame[3] = frame[3] & 0x0F | sub_stream << SUB_STREAM_SHIFT
        with pytest.raises(IdeCheckFailed, match="sub-stream"):
            far.open(bytes(frame))
        assert not far.secure


def test_nothing_opens_after_a_failure() -> None:
    near, far = pair(aggregation=(2, 1, 1))
    first, second = near.seal_unit([MWR, MWR])
    far.receive(first)
    with pytest.raises(IdeCheckFailed):
        far.receive(second[:-1] + bytes([second[-1] ^ 1]))
    with pytest.raises(Misuse, match="Insecure"):
        far.receive(near.seal(MWR))
