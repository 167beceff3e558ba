"""IDE streams: regression vectors, key sets, counters, aggregation, and what breaks a stream."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from teeio.errors import Misuse
from teeio.pcie.ide import Direction, KeySet, Stream, StreamSettings
from teeio.pcie.ide_key import IdeCheckFailed, PcrcCheckFailed, SlotState, StaleKey
from teeio.pcie.ide_tlp import IdePrefix
from teeio.pcie.tlp import Routing, SubStream, Tlp, completion, config_read, memory_write, message

KEY = bytes.fromhex("df254152056e02e0ef8b7feb9739d4d96a4eb80103241df7cd5e24b49ccd2720")
MWR_HEADER = bytes.fromhex("60000004010000ff0000000123456780")
MRD_HEADER = bytes.fromhex("20000004010001ff0000000123456780")
PAYLOAD = bytes(range(16))
MWR = Tlp(MWR_HEADER, PAYLOAD)
MRD = Tlp(MRD_HEADER)
CPL = completion(0x100, 0x8, 1, bytes(16))


def load(stream: Stream, key_set: KeySet, key: Callable[[Direction, SubStream], bytes], flip: bool = False) -> None:
    for direction in Direction:
        for sub_stream in SubStream:
            mine = Direction(1 - direction) if flip else direction
            assert stream.program(key_set, mine, sub_stream, key(direction, sub_stream))


def go(stream: Stream, key_set: KeySet) -> None:
    for direction in Direction:
        for sub_stream in SubStream:
            assert stream.set_go(key_set, direction, sub_stream)


def distinct(key_set: KeySet) -> Callable[[Direction, SubStream], bytes]:
    return lambda direction, sub_stream: bytes([1 + key_set, direction, sub_stream]) + bytes(29)


def pair(key: Callable[[Direction, SubStream], bytes] | None = None, **settings: object) -> tuple[Stream, Stream]:
    """Make the two ends of a Secure stream 5."""
    ends = Stream(), Stream()
    for flip, stream in enumerate(ends):
        load(stream, KeySet.K0, key or distinct(KeySet.K0), bool(flip))
        go(stream, KeySet.K0)
        stream.enable(StreamSettings(stream_id=5, **settings))  # type: ignore[arg-type]
        assert stream.secure
    return ends


def vector_pair(**settings: object) -> tuple[Stream, Stream]:
    return pair(lambda direction, sub_stream: KEY, **settings)


# -- vectors: computed with OpenSSL by the rules of PCIe Base 6.33; they prove self-consistency, not conformance


def test_vector_1_mwr() -> None:
    near, far = vector_pair()
    frame = near.seal(MWR, True)
    assert (
        frame.hex() == "92000505" + MWR_HEADER.hex() + "4d92f890a4421e8e6ac2d565b7886648" + "163118a0e5624b213a02f748"
    )
    assert far.open(frame) == (MWR, True)


def test_vector_2_mwr_with_pcrc() -> None:
    near, far = vector_pair(pcrc=True)
    far.open(near.seal(MWR, True))
    frame = near.seal(MWR, True)
    expected = "9200050d" + MWR_HEADER.hex() + "425773017171099ccef7046f2cbbd8cef60d4fab" + "d465a5cb024d6578a025322c"
    assert frame.hex() == expected
    assert far.open(frame) == (MWR, True)


def test_vector_3_mrd_carries_the_posted_counter() -> None:
    near, far = vector_pair()
    for _ in range(2):
        far.open(near.seal(MWR, True))
    frame = near.seal(MRD, True)
    assert frame.hex() == "92020515" + MRD_HEADER.hex() + "5873ecb24f83fe9d5a0d0265"
    assert far.open(frame) == (MRD, True)


def test_vector_4_unit_of_two() -> None:
    near, far = vector_pair(aggregation=(2, 1, 1))
    for _ in range(2):
        far.open(near.seal(MWR, True))
    second = Tlp(MWR_HEADER, PAYLOAD[::-1])
    frames = near.seal_unit([MWR, second], True)
    sealed = "0a22ebb27a899bdc8238a60a5cda98c3a71ec0a6c2f9450f49bce53c0896c56c"
    assert frames[0].hex() == "92000501" + MWR_HEADER.hex() + sealed[:32]
    assert frames[1].hex() == "92000505" + MWR_HEADER.hex() + sealed[32:] + "0f3420b528f8d15fdc658d62"
    assert far.receive(frames[0]) == ()
    assert far.receive(frames[1]) == ((MWR, True), (second, True))


# -- sealing and opening


@given(
    size=st.integers(1, 1024).map(lambda n: 4 * n),
    t_bit=st.booleans(),
    pcrc=st.booleans(),
    prefixes=st.sampled_from([b"", bytes.fromhex("91000001")]),
)
def test_what_is_sealed_opens(size: int, t_bit: bool, pcrc: bool, prefixes: bytes) -> None:
    near, far = pair(pcrc=pcrc)
    write = memory_write(0x100, 0, 0x10000, bytes(size))._replace(prefixes=prefixes)
    for tlp in (write, MRD, CPL, write):
        assert far.open(near.seal(tlp, t_bit)) == (tlp, t_bit)


def test_the_prefix_declaration_reads_what_the_stream_writes() -> None:
    near, _ = pair(pcrc=True)
    near.seal(MWR)
    prefix = IdePrefix.decode(near.seal(MRD, True)[:4])
    assert prefix == IdePrefix(pr_sent_counter=1, stream_id=5, t=1, k=0, m=1, p=0, sub_stream=1)


@pytest.mark.parametrize("position", [*range(4, 48)])
@pytest.mark.parametrize("tlp", [MWR, MRD, CPL], ids=["MWr", "MRd", "CplD"])
def test_a_flipped_bit_makes_the_stream_insecure(tlp: Tlp, position: int) -> None:
    near, far = pair()
    frame = bytearray(near.seal(tlp, True))
    frame[position % len(frame)] ^= 0x10
    with pytest.raises(IdeCheckFailed):
        far.open(bytes(frame))
    assert not far.secure
    assert not far.keyed()
    with pytest.raises(Misuse):
        far.open(near.seal(tlp, True))


@given(st.data())
def test_mutated_frames_raise_only_ide_errors(data: st.DataObject) -> None:
    near, far = pair(aggregation=(8, 1, 1), pcrc=True)
    frame = bytearray(near.seal(data.draw(st.sampled_from([MWR, MRD, CPL])), True))
    for _ in range(data.draw(st.integers(1, 3))):
        frame[data.draw(st.integers(0, len(frame) - 1))] = data.draw(st.integers(0, 255))
    cut = bytes(frame[: data.draw(st.integers(0, len(frame)))])
    with contextlib.suppress(IdeCheckFailed, PcrcCheckFailed, StaleKey):
        far.receive(cut)


@pytest.mark.parametrize("t_bit", [False, True])
def test_the_t_bit_is_authenticated(t_bit: bool) -> None:
    near, far = pair()
    frame = bytearray(near.seal(MWR, t_bit))
    frame[3] ^= 1
    with pytest.raises(IdeCheckFailed):
        far.open(bytes(frame))


def test_replayed_and_lost_frames_are_noticed() -> None:
    near, far = pair()
    first = near.seal(MWR)
    far.open(first)
    with pytest.raises(IdeCheckFailed, match="MAC"):
        far.open(first)
    near, far = pair()
    near.seal(MWR)
    with pytest.raises(IdeCheckFailed, match="MAC"):
        far.open(near.seal(MWR))


@pytest.mark.parametrize("follower", [MRD, CPL], ids=["NPR", "CPL"])
def test_overtaking_a_posted_tlp_is_noticed(follower: Tlp) -> None:
    near, far = pair()
    near.seal(MWR)
    with pytest.raises(IdeCheckFailed, match="overtook"):
        far.open(near.seal(follower))


def test_selective_streams_refuse_some_types_and_link_streams_none() -> None:
    local = message(0x100, 0x7F, Routing.LOCAL)
    near, _ = pair()
    for tlp in (config_read(8, 0, 0x100, 0), local):
        with pytest.raises(Misuse, match="Selective"):
            near.seal(tlp)
    near, far = pair(selective=False)
    for tlp in (config_read(8, 0, 0x100, 0), local):
        assert far.open(near.seal(tlp)) == (tlp, False)


def test_a_receiver_refuses_a_type_that_a_selective_stream_may_not_carry() -> None:
    near, _ = pair(selective=False)
    _, far = pair()
    with pytest.raises(IdeCheckFailed, match="may not travel"):
        far.open(near.seal(config_read(8, 0, 0x100, 0)))


# -- PCRC


def test_a_missing_pcrc_leaves_the_stream_secure() -> None:
    near, _ = pair()
    _, far = pair(pcrc=True)
    with pytest.raises(PcrcCheckFailed):
        far.open(near.seal(MWR))
    assert far.secure
    assert far.open(near.seal(MRD)) == (MRD, False)


def test_a_wrong_pcrc_leaves_the_stream_secure(monkeypatch: pytest.MonkeyPatch) -> None:
    near, far = pair(pcrc=True)
    monkeypatch.setattr("teeio.pcie.ide.pcrc", lambda data: b"\xff" * 4)
    frame = near.seal(MWR)
    monkeypatch.undo()
    with pytest.raises(PcrcCheckFailed, match="wrong"):
        far.open(frame)
    assert far.secure
    assert far.open(near.seal(MWR)) == (MWR, False)


def test_a_pcrc_that_was_not_agreed_is_refused() -> None:
    near, _ = pair(pcrc=True)
    _, far = pair()
    with pytest.raises(IdeCheckFailed):
        far.open(near.seal(MWR))


# -- counters and IDE Sync


def test_sync_is_due_at_245_and_the_counters_cannot_wrap() -> None:
    near, far = pair()
    for number in range(1, 246):
        far.open(near.seal(MWR))
        assert near.sync_due == (number >= 245)
    far.open(near.seal_sync(0x100, 8))
    assert not near.sync_due
    far.open(near.seal(MRD))
    far.open(near.seal(CPL))
    near, _ = pair()
    for _ in range(255):
        near.seal(MWR)
    with pytest.raises(Misuse, match="PR_Sent"):
        near.seal(MWR)


def test_npr_and_cpl_counters_are_apart() -> None:
    near, far = pair()
    for tlp in (MWR, MWR, MRD, MWR, CPL, CPL, MRD):
        far.open(near.seal(tlp))
    assert [near.seal(tlp)[1] for tlp in (MWR, MRD, CPL, MRD)] == [0, 1, 1, 0]


def test_a_sync_that_counts_too_much_is_refused() -> None:
    near, far = pair()
    near._sent = [3, 0]
    with pytest.raises(IdeCheckFailed, match="Sync"):
        far.open(near.seal_sync(0x100, 8))


# -- aggregation


@pytest.mark.parametrize("limit", [2, 4, 8])
def test_units_up_to_the_limit(limit: int) -> None:
    near, far = pair(aggregation=(limit, limit, limit), pcrc=True)
    for tlp in (MWR, MRD, CPL):
        frames = near.seal_unit([tlp] * limit, True)
        assert sum(len(frame) for frame in frames) < sum(len(near.seal(tlp)) for _ in frames)
    near, far = pair(aggregation=(limit, limit, limit), pcrc=True)
    for tlp in (MWR, MRD, CPL):
        opened = [item for frame in near.seal_unit([tlp] * limit, True) for item in far.receive(frame)]
        assert opened == [(tlp, True)] * limit
    with pytest.raises(Misuse):
        near.seal_unit([MWR] * (limit + 1))
    with pytest.raises(Misuse):
        near.seal_unit([MWR, MRD])


def test_a_unit_carries_1024_bytes_at_most() -> None:
    near, _ = pair(aggregation=(2, 1, 1))
    with pytest.raises(Misuse, match="1024"):
        near.seal_unit([memory_write(0x100, 0, 0, bytes(520))] * 2)


def test_units_of_different_sub_streams_interleave() -> None:
    near, far = pair(aggregation=(2, 2, 1))
    writes, reads = near.seal_unit([MWR, MWR]), near.seal_unit([MRD, MRD])
    assert far.receive(writes[0]) == ()
    assert far.receive(writes[1]) == ((MWR, False),) * 2
    assert far.receive(reads[0]) == ()
    assert far.receive(near.seal(CPL)) == ((CPL, False),)
    assert far.receive(reads[1]) == ((MRD, False),) * 2


def test_a_ninth_tlp_without_a_mac_is_refused() -> None:
    near, far = pair(aggregation=(8, 1, 1))
    for frame in near.seal_unit([MWR] * 8)[:7]:
        assert far.receive(frame) == ()
    with pytest.raises(IdeCheckFailed, match="without a MAC"):
        far.receive(near.seal_unit([MWR] * 8)[0])


def test_a_tampered_middle_of_a_unit_is_noticed() -> None:
    near, far = pair(aggregation=(4, 1, 1))
    frames = near.seal_unit([MWR] * 4)
    far.receive(frames[0])
    far.receive(frames[2])
    far.receive(frames[1])
    with pytest.raises(IdeCheckFailed):
        far.receive(bytes([*frames[3][:-1], frames[3][-1] ^ 1]))


# -- key sets


def refresh(near: Stream, far: Stream, key_set: KeySet) -> None:
    load(near, key_set, distinct(key_set))
    load(far, key_set, distinct(key_set), flip=True)
    for direction in Direction:
        for sub_stream in SubStream:
            near.set_go(key_set, direction, sub_stream)
            far.set_go(key_set, direction, sub_stream)


def test_refresh_toggles_k_and_old_frames_in_flight_still_open() -> None:
    near, far = pair()
    in_flight = near.seal(MWR)
    refresh(near, far, KeySet.K1)
    after = near.seal(MWR)
    assert (in_flight[3] & 2, after[3] & 2) == (0, 2)
    assert far.open(in_flight) == (MWR, False)
    assert far.open(after) == (MWR, False)
    assert far.open(near.seal(MRD)) == (MRD, False)
    assert far.secure


def test_the_transmitter_waits_for_go_on_all_sub_streams() -> None:
    near, _ = pair()
    load(near, KeySet.K1, distinct(KeySet.K1))
    near.set_go(KeySet.K1, Direction.TX, SubStream.PR)
    near.set_go(KeySet.K1, Direction.TX, SubStream.NPR)
    assert near.seal(MWR)[3] & 2 == 0
    near.set_go(KeySet.K1, Direction.TX, SubStream.CPL)
    assert near.seal(MWR)[3] & 2 == 2
    assert near.slot(KeySet.K0, Direction.TX, SubStream.PR).state is SlotState.RETIRED


def test_an_old_key_after_the_toggle_is_dropped_without_harm() -> None:
    near, far = pair()
    old = near.seal(MWR)
    far.open(old)
    refresh(near, far, KeySet.K1)
    far.open(near.seal(MWR))
    with pytest.raises(StaleKey):
        far.open(old)
    assert far.secure
    assert far.open(near.seal(MWR)) == (MWR, False)


def test_k_to_a_set_without_keys_is_refused() -> None:
    near, far = pair()
    frame = bytearray(near.seal(MWR))
    frame[3] ^= 2
    with pytest.raises(IdeCheckFailed, match="K names"):
        far.open(bytes(frame))


def test_k_may_not_change_inside_a_unit() -> None:
    near, far = pair(aggregation=(2, 1, 1))
    frames = near.seal_unit([MWR, MWR])
    refresh(near, far, KeySet.K1)
    far.receive(frames[0])
    with pytest.raises(IdeCheckFailed, match="inside a unit"):
        far.receive(near.seal(MWR))


def test_many_refreshes_back_and_forth() -> None:
    near, far = pair()
    for key_set in (KeySet.K1, KeySet.K0, KeySet.K1):
        refresh(near, far, key_set)
        for tlp in (MWR, MRD, CPL):
            assert far.open(near.seal(tlp, True)) == (tlp, True)
        for direction in Direction:
            for sub_stream in SubStream:
                near.set_stop(KeySet(1 - key_set), direction, sub_stream)
                far.set_stop(KeySet(1 - key_set), direction, sub_stream)
    assert near.secure
    assert far.secure


def test_keys_in_use_cannot_be_replaced() -> None:
    near, _ = pair()
    assert not near.program(KeySet.K0, Direction.TX, SubStream.PR, bytes(32))
    assert near.program(KeySet.K1, Direction.TX, SubStream.PR, bytes(32))


def test_a_stopped_key_is_gone_and_its_use_fails() -> None:
    near, far = pair()
    frame = near.seal(MWR)
    far.set_stop(KeySet.K0, Direction.RX, SubStream.PR)
    assert far.secure
    with pytest.raises(IdeCheckFailed, match="stopped"):
        far.open(frame)
    near.set_stop(KeySet.K0, Direction.TX, SubStream.PR)
    with pytest.raises(IdeCheckFailed, match="stopped"):
        near.seal(MWR)


@pytest.mark.parametrize("missing", [(d, s) for d in Direction for s in SubStream])
def test_a_stream_is_secure_only_with_all_six_keys(missing: tuple[Direction, SubStream]) -> None:
    stream = Stream()
    stream.enable(StreamSettings(stream_id=1))
    for direction in Direction:
        for sub_stream in SubStream:
            if (direction, sub_stream) != missing:
                stream.program(KeySet.K0, direction, sub_stream, bytes(32))
                assert stream.set_go(KeySet.K0, direction, sub_stream)
    assert not stream.secure
    assert not stream.keyed()
    assert not stream.set_go(KeySet.K0, *missing)
    with pytest.raises(Misuse, match="Insecure"):
        stream.seal(MWR)
    stream.program(KeySet.K0, *missing, bytes(32))
    assert stream.keyed()
    assert not stream.secure
    assert stream.set_go(KeySet.K0, *missing)
    assert stream.secure


def test_a_failed_stream_needs_disable_and_new_keys() -> None:
    near, _ = pair()
    near.fail()
    load(near, KeySet.K0, distinct(KeySet.K1))
    go(near, KeySet.K0)
    assert not near.secure
    near.disable()
    assert not near.keyed()
    load(near, KeySet.K0, distinct(KeySet.K1))
    go(near, KeySet.K0)
    near.enable(StreamSettings(stream_id=5))
    assert near.secure
