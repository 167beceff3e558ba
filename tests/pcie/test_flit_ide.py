"""IDE in Flit Mode: sealed frames byte for byte, what the clear words say, and every way to break them."""

from __future__ import annotations

import contextlib

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given
from hypothesis import strategies as st

from pcie.flit_samples import PASID, TLPS, VENDOR, memory
from pcie.test_ide import CPL, KEY, MRD, MWR, PAYLOAD, distinct, go, load
from teeio.errors import Misuse
from teeio.pcie.flit_decoding import ide_place, take
from teeio.pcie.flit_headers import OhcC
from teeio.pcie.flit_mode import FlitMode
from teeio.pcie.flit_stream import FlitStream
from teeio.pcie.flit_types import Trailer
from teeio.pcie.ide import KeySet, StreamSettings
from teeio.pcie.ide_key import IdeCheckFailed, PcrcCheckFailed, StaleKey, pcrc
from teeio.pcie.ide_tlp import ESCORTED_FLAG
from teeio.pcie.link_mode import IdeFields
from teeio.pcie.tlp import (
    CompletionStatus,
    MessageCode,
    Routing,
    SubStream,
    Tlp,
    TlpType,
    completion,
    config_read,
    memory_read,
    memory_write,
    message,
)

MODE = FlitMode(3)
WRITE = memory_write(0x100, 0, 0x1_2345_6783, bytes(range(1, 14)))._replace(prefixes=PASID + VENDOR)
REFUSAL = completion(0x100, 0x8, 1, status=CompletionStatus.CA)


def pair(segment: int = 3, **settings: object) -> tuple[FlitStream, FlitStream]:
    """Make the two ends of a Secure stream 5 in Flit Mode."""
    ends = FlitStream(segment), FlitStream(segment)
    for flip, stream in enumerate(ends):
        load(stream, KeySet.K0, distinct(KeySet.K0), bool(flip))
        go(stream, KeySet.K0)
        stream.enable(StreamSettings(stream_id=5, **settings))  # type: ignore[arg-type]
        assert stream.secure
    return ends


def vector_pair(**settings: object) -> tuple[FlitStream, FlitStream]:
    near, far = FlitStream(), FlitStream()
    for stream in (near, far):
        load(stream, KeySet.K0, lambda direction, sub_stream: KEY)
        go(stream, KeySet.K0)
        stream.enable(StreamSettings(stream_id=5, **settings))  # type: ignore[arg-type]
    return near, far


def by_hand(invocation: int, clear: str, plaintext: bytes) -> str:
    """Give the frame that the rules of 6.33.5 make: IV, A, P, and the tag's first 96 bits."""
    associated = bytes.fromhex(clear)
    sealed = AESGCM(KEY).encrypt(invocation.to_bytes(12, "big"), plaintext, associated)
    return (associated + sealed[:-4]).hex()


# -- vectors: by the rules of PCIe Base 6.33, computed apart from the code under test


def test_a_write_has_ohc_c_and_a_mac() -> None:
    near, far = vector_pair()
    clear = "6004a004 01000000 00000001 23456780 00000509"
    frame = near.seal(MWR, True)
    assert frame.hex() == by_hand(1, clear, PAYLOAD)
    assert far.open(frame) == (MWR, True)


def test_pcrc_is_in_the_trailer_and_sealed() -> None:
    near, far = vector_pair(pcrc=True)
    frame = near.seal(MWR, True)
    assert frame.hex() == by_hand(1, "6004c004 01000000 00000001 23456780 00000509", PAYLOAD + pcrc(PAYLOAD))
    assert len(frame) == 5 * 4 + len(PAYLOAD) + 4 * 4
    assert far.open(frame) == (MWR, True)


def test_a_read_carries_the_posted_counter_and_a_completion_no_segment() -> None:
    near, far = vector_pair()
    far.open(near.seal(MWR, True))
    frame = near.seal(MRD, True)
    assert frame.hex() == by_hand(1, "2004a004 01000001 00000001 23456780 00010519", b"")
    assert far.open(frame) == (MRD, True)
    frame = near.seal(CPL, False)
    assert frame.hex() == by_hand(1, "4a04a004 01000001 00080010 00010520", bytes(16))
    assert far.open(frame) == (CPL, False)


def test_a_unit_of_two_has_one_mac() -> None:
    near, far = vector_pair(aggregation=(2, 1, 1), pcrc=True)
    frames = near.seal_unit([MWR, MWR], True)
    clear = [f"6004{trailer}04 01000000 00000001 23456780 00000509" for trailer in ("00", "c0")]
    data = PAYLOAD * 2
    sealed = AESGCM(KEY).encrypt((1).to_bytes(12, "big"), data + pcrc(data), bytes.fromhex("".join(clear)))
    assert frames == [bytes.fromhex(clear[0]) + sealed[:16], bytes.fromhex(clear[1]) + sealed[16:-4]]
    assert far.receive(frames[0]) == ()
    assert far.receive(frames[1]) == ((MWR, True),) * 2


# -- sealing and opening


@given(TLPS, st.booleans(), st.booleans(), st.booleans())
def test_every_tlp_travels_sealed(tlp: Tlp, t_bit: bool, with_pcrc: bool, selective: bool) -> None:
    near, far = pair(pcrc=with_pcrc, selective=selective)
    if selective and not tlp.type.selective:
        with pytest.raises(Misuse):
            near.seal(tlp, t_bit)
        return
    frame = near.seal(tlp, t_bit)
    assert MODE.ide_fields(frame) == IdeFields(5, tlp.sub_stream, 0, t_bit, 0, True)
    assert MODE.stream_of(frame) == 5
    assert MODE.type_of(frame) is tlp.type
    assert MODE.heading(frame) == tlp._replace(payload=b"")
    assert far.open(frame) == (tlp, t_bit)


@pytest.mark.parametrize(
    ("tlp", "valid"), [(WRITE, 1), (MRD, 1), (CPL, 0), (config_read(8, 1, 0x100, 0, type_1=True), 0)]
)
def test_requests_name_their_segment_but_for_configuration(tlp: Tlp, valid: int) -> None:
    near, far = pair()
    frame = near.seal(tlp)
    ohc_c = OhcC.decode(take(frame).c)
    assert (ohc_c.segment_valid, ohc_c.segment) == (valid, 3 * valid)
    assert far.open(frame) == (tlp, False)
    if valid:
        with pytest.raises(IdeCheckFailed, match="segment"):
            pair(4)[1].open(pair(3)[0].seal(tlp))


def test_a_refusal_names_the_segment_of_its_request() -> None:
    near, _ = pair()
    frame = near.seal(REFUSAL, True)
    assert take(frame).a.hex() == "03038004"


@pytest.mark.parametrize("tlp", [WRITE, MRD, CPL, REFUSAL], ids=["MWr", "MRd", "CplD", "Cpl"])
@pytest.mark.parametrize("with_pcrc", [False, True])
def test_every_flipped_bit_is_caught(tlp: Tlp, with_pcrc: bool) -> None:
    frame = pair(pcrc=with_pcrc)[0].seal(tlp, True)
    for bit in range(8 * len(frame)):
        spoilt = bytearray(frame)
        spoilt[bit // 8] ^= 1 << bit % 8
        _, far = pair(pcrc=with_pcrc)
        with pytest.raises((IdeCheckFailed, StaleKey)):
            far.open(bytes(spoilt))
        assert not far.secure


@given(st.data())
def test_mutated_frames_raise_only_ide_errors(data: st.DataObject) -> None:
    near, far = pair()
    frame = bytearray(near.seal(data.draw(st.sampled_from([WRITE, MRD, CPL]))))
    for at in data.draw(st.lists(st.integers(0, len(frame) - 1), max_size=6)):
        frame[at] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(frame)))
    with contextlib.suppress(IdeCheckFailed, StaleKey, PcrcCheckFailed):
        far.receive(bytes(frame[:cut]))


# -- sub-streams and trailers


def rewritten(frame: bytes, sub_stream: int) -> bytes:
    at = ide_place(frame) + 3
    return frame[:at] + bytes([frame[at] & 0x0F | sub_stream << 4]) + frame[at + 1 :]


@pytest.mark.parametrize("sub_stream", range(8))
def test_sub_streams_of_other_classes_and_those_that_are_reserved_fail(sub_stream: int) -> None:
    near, far = pair()
    frame = rewritten(near.seal(WRITE, True), sub_stream)
    if sub_stream == SubStream.PR:
        assert far.open(frame) == (WRITE, True)
        return
    why = "no OHC-C of an IDE TLP" if sub_stream == 7 else "may not travel on this sub-stream"
    with pytest.raises(IdeCheckFailed, match=why):
        far.open(frame)
    assert not far.secure


@pytest.mark.parametrize("trailer", range(8))
def test_trailers(trailer: int) -> None:
    near, far = pair()
    frame = bytearray(near.seal(WRITE, True))
    frame[2] = frame[2] & 0x1F | trailer << 5
    if trailer == Trailer.MAC:
        assert far.open(bytes(frame)) == (WRITE, True)
        return
    with pytest.raises(IdeCheckFailed, match="no IDE TLP has" if trailer == Trailer.ECRC else "."):
        far.open(bytes(frame))


def test_a_type_that_a_selective_stream_may_not_carry_is_refused() -> None:
    near, _ = pair(selective=False)
    _, far = pair()
    for tlp in (memory(TlpType.IORD, 0x80), config_read(8, 1, 0x100, 0), message(8, 0x7F, Routing.LOCAL)):
        with pytest.raises(IdeCheckFailed, match="may not travel"):
            pair()[1].open(near.seal(tlp))
    assert far.secure


def test_a_pcrc_that_was_not_agreed_or_is_missing() -> None:
    with_pcrc, without = pair(pcrc=True), pair()
    with pytest.raises(IdeCheckFailed, match="PCRC is off"):
        without[1].open(with_pcrc[0].seal(WRITE))
    with pytest.raises(PcrcCheckFailed, match="missing"):
        with_pcrc[1].open(without[0].seal(WRITE))
    assert with_pcrc[1].secure


# -- order, units, keys


def test_lost_repeated_and_overtaking_frames_are_noticed() -> None:
    for arriving in ((1,), (0, 0), (2,), (1, 0)):
        near, far = pair()
        frames = [near.seal(WRITE), near.seal(WRITE), near.seal(MRD)]
        with pytest.raises(IdeCheckFailed):
            for number in arriving:
                far.open(frames[number])


def test_sync_and_escorts() -> None:
    near, far = pair()
    far.open(near.seal(WRITE))
    sync, _ = far.open(near.seal_sync(8, 0x100))
    assert sync.message().code == 0x54
    assert far.open(near.seal(MRD)) == (MRD, False)
    near, far = pair(escorts=True)
    far.open(near.seal(WRITE))
    far.open(near.seal_sync(8, 0x100))
    far.open(near.seal_escort(8, 0x100, SubStream.CPL))
    escort = near.seal_escort(8, 0x100, SubStream.NPR)
    header = far.open(escort)[0].message()
    assert (header.code, header.tag) == (0x56, SubStream.NPR)
    frames = [near.seal(MRD), near.seal(MRD)]
    fields = [MODE.ide_fields(frame) for frame in frames]
    assert [one.pr_sent_counter for one in fields if one] == [2, 0]
    assert [frame[ide_place(frame) + 3] & ESCORTED_FLAG for frame in frames] == [ESCORTED_FLAG, 0]
    assert [far.open(frame) for frame in frames] == [(MRD, False)] * 2
    near, far = pair(escorts=True)
    near._escorts[0] = ESCORTED_FLAG
    with pytest.raises(IdeCheckFailed, match="without its IDE Escort"):
        far.open(near.seal(MRD))
    near, far = pair(escorts=True)
    with pytest.raises(IdeCheckFailed, match="may not travel"):
        far.open(rewritten(near.seal(message(8, 0x7F, Routing.BY_ID)), SubStream.NPR))


def test_every_flipped_bit_of_an_escort_is_caught() -> None:
    frame = pair(escorts=True)[0].seal_escort(8, 0x100, SubStream.NPR)
    for bit in range(8 * len(frame)):
        spoilt = bytearray(frame)
        spoilt[bit // 8] ^= 1 << bit % 8
        _, far = pair(escorts=True)
        with pytest.raises(IdeCheckFailed):
            far.open(bytes(spoilt))
        assert not far.secure


def test_an_escort_with_data_keeps_to_its_sub_stream() -> None:
    near, far = pair(escorts=True)
    with pytest.raises(IdeCheckFailed, match="may not travel"):
        far.open(rewritten(near.seal(message(8, MessageCode.IDE_ESCORT, Routing.BY_ID, data=PAYLOAD)), SubStream.NPR))


@given(st.lists(st.sampled_from([MWR, WRITE]), min_size=1, max_size=8), st.booleans())
def test_units_open_whole(tlps: list[Tlp], with_pcrc: bool) -> None:
    near, far = pair(aggregation=(8, 8, 8), pcrc=with_pcrc)
    frames = near.seal_unit(tlps, True)
    assert [take(frame).trailer is Trailer.NONE for frame in frames] == [True] * (len(tlps) - 1) + [False]
    *rest, last = (far.receive(frame) for frame in frames)
    assert not any(rest)
    assert last == tuple((tlp, True) for tlp in tlps)
    assert far.open(near.seal(CPL, True)) == (CPL, True)


def test_without_a_mac_a_unit_ends_in_failure() -> None:
    near, far = pair(aggregation=(8, 1, 1))
    frame = near.seal_unit([MWR, MWR])[0]
    with pytest.raises(IdeCheckFailed, match="M is clear"):
        far.open(frame)


def test_keys_change_over_with_traffic_in_flight() -> None:
    near, far = pair()
    old = [near.seal(tlp, True) for tlp in (WRITE, MRD, CPL)]
    for flip, stream in enumerate((near, far)):
        load(stream, KeySet.K1, distinct(KeySet.K1), bool(flip))
        go(stream, KeySet.K1)
    new = near.seal(WRITE, True)
    fields = MODE.ide_fields(new)
    assert fields is not None
    assert fields.key_set == 1
    for frame in (*old, new):
        assert far.open(frame)[1]
    with pytest.raises(StaleKey):
        far.open(old[0])
    assert far.secure
    assert far.open(near.seal(MRD, True)) == (MRD, True)


def test_the_two_modes_do_not_understand_each_other() -> None:
    near, _ = pair()
    frame = near.seal(memory_read(0x100, 0, 0x1000, 4))
    assert FlitMode().stream_of(bytes.fromhex("92000505") + frame) is None
    with pytest.raises(IdeCheckFailed):
        pair()[1].open(bytes.fromhex("92000505") + frame)
