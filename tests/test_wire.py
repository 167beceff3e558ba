from dataclasses import replace
from enum import IntFlag
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from strategies import mutated, records
from teeio.errors import DecodeError, Misuse
from teeio.wire import (
    MAX_REMEMBERED_FLAGS,
    REST,
    Record,
    bits,
    blob,
    const,
    count_of,
    edit,
    flags_of,
    frozen,
    i64,
    length_of,
    part,
    record,
    repeat,
    reserved,
    reserved_bits,
    table,
    total_length,
    u8,
    u16,
    u24,
    u32,
)


class Facts(NamedTuple):
    version: int = 2
    hash_size: int = 4


@record
class Item(Record):
    index: int = u8("Index")
    value_length: None = length_of("value", 2)
    value: bytes = blob("value_length", "Value")


@record
class Sample(Record):
    kind: None = const(1, 0x83, "Kind")
    low: int = bits(3, "Low bits", of=1)
    _spare: None = reserved_bits(4)
    flag: int = bits(1, "Flag", since=2, default=0)
    total: None = total_length(2)
    item_count: None = count_of("items", 1)
    offset: int = i64("Signed")
    odd: int = u24("Three bytes")
    network: int = u16("Big-endian", big=True)
    items: tuple[Item, ...] = repeat(Item, "Items", count="item_count")
    digest: bytes = blob("hash_size", "Digest")
    extra: int = u32("Only with the flag", when="flag", default=0)
    _gap: None = reserved(2)
    rest: bytes = blob(REST, "Rest", default=b"")


SAMPLE = Sample(
    low=5, flag=1, offset=-2, odd=0x030201, network=0x1234, items=(Item(index=7, value=b"ab"),), digest=b"dddd", extra=9
)


def test_encodes_every_kind_of_field_where_the_declaration_says() -> None:
    assert (
        SAMPLE.encode(Facts()).hex()
        == "8385210001feffffffffffffff0102031234" + "0702006162" + "64646464" + "09000000" + "0000"
    )
    assert Sample.decode(SAMPLE.encode(Facts()), Facts()) == SAMPLE


def test_a_field_of_a_later_version_is_reserved_before() -> None:
    old = Facts(version=1)
    encoded = Sample(low=5, flag=1, offset=0, odd=0, network=0, items=(), digest=b"dddd").encode(old)
    assert encoded[1] == 5
    assert Sample.decode(encoded, old).flag == 0


@given(records(Sample, Facts()))
def test_what_is_encoded_decodes_to_itself(sample: Sample) -> None:
    assert Sample.decode(sample.encode(Facts()), Facts()) == sample


@given(st.data())
def test_damaged_bytes_raise_nothing_but_decode_error(data: st.DataObject) -> None:
    damaged = data.draw(mutated(SAMPLE.encode(Facts())))
    try:
        Sample.decode(damaged, Facts())
    except DecodeError as error:
        assert 0 <= error.offset <= len(damaged)


def test_spans_cover_all_bytes_without_gap_or_overlap() -> None:
    encoded = SAMPLE.encode(Facts())
    at = 0
    for span in Sample.spans(encoded, Facts()):
        assert span.start == at
        at = span.end
    assert at == len(encoded)


def test_decode_error_names_field_and_offset() -> None:
    with pytest.raises(DecodeError, match=r"Sample\.digest at byte 23: needs 4 bytes") as caught:
        Sample.decode(edit(SAMPLE.encode(Facts()), Sample, "total", b"\x19\x00", Facts())[:25], Facts())
    assert (caught.value.field, caught.value.offset) == ("digest", 23)


def test_trailing_bytes_are_an_error_unless_the_caller_rules_on_them() -> None:
    encoded = Item(index=1, value=b"x").encode() + b"\0\0"
    with pytest.raises(DecodeError, match="2 trailing bytes"):
        Item.decode(encoded)
    assert Item.decode_prefix(encoded)[1] == 4


def test_a_wrong_constant_is_refused() -> None:
    with pytest.raises(DecodeError, match="is 0x84, must be 0x83"):
        Sample.decode(edit(SAMPLE.encode(Facts()), Sample, "kind", b"\x84", Facts()), Facts())


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"low": 8}, "low: 8 does not fit in 3 bits"), ({"network": 1 << 16}, "network"), ({"digest": b"x"}, "needs 4")],
)
def test_values_that_do_not_fit_are_the_callers_misuse(changes: dict[str, object], message: str) -> None:
    values = {name: getattr(SAMPLE, name) for name in SAMPLE.shown()} | changes
    with pytest.raises(Misuse, match=message):
        Sample(**values).encode(Facts())


def test_the_table_says_what_the_codec_does() -> None:
    rows = {row.name: row for row in table(Sample, 2)}
    assert (rows["offset"].offset, rows["network"].offset, rows["digest"].offset) == ("5", "16", "+")
    assert (rows["low"].size, rows["flag"].size) == ("bits 2:0", "bit 7")


def test_a_peer_cannot_make_us_remember_its_flags_for_ever() -> None:
    class Colour(IntFlag):
        RED = 1
        BLUE = 2

    colour = flags_of(Colour)
    for value in range(3 * MAX_REMEMBERED_FLAGS):
        assert colour(value) == value
    assert len(Colour._value2member_map_) <= MAX_REMEMBERED_FLAGS + 1
    assert colour(1) is Colour.RED


@record
class Pair(Record):
    left: Item = part(Item, "Left")
    tail: int = u8("Tail")


def test_a_frozen_record_refuses_every_change() -> None:
    one, like = (Pair(left=Item(index=7, value=b"ab"), tail=1) for _ in range(2))
    assert frozen(one) is one
    assert isinstance(one, Pair)
    for target, name in ((one, "tail"), (one, "left"), (one.left, "index"), (one.left, "value")):
        with pytest.raises(Misuse, match=f"{name} is not to be changed"):
            setattr(target, name, 9)
        with pytest.raises(Misuse):
            delattr(target, name)
    assert one == like
    assert like == one
    assert one.encode() == like.encode()
    assert frozen(one) == like
    assert one != replace(one, tail=2)


def test_a_copy_of_a_frozen_record_can_be_changed() -> None:
    one = frozen(Pair(left=Item(index=7, value=b"ab"), tail=1))
    copy = replace(one, left=replace(one.left, index=8))
    copy.tail = copy.left.index = 5
    assert (one.tail, one.left.index) == (1, 7)
