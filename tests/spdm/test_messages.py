import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from strategies import mutated, records
from teeio.errors import DecodeError
from teeio.spdm import messages as m
from teeio.spdm.constants import Version
from teeio.spdm.rules import BY_REQUEST

FACTS = [
    m.Facts(
        version=version,
        hash_size=48,
        signature_size=96,
        req_signature_size=96,
        request_exchange_size=96,
        response_exchange_size=96,
        summary_size=48,
    )
    for version in Version
]
CASES = [
    pytest.param(cls, facts, id=f"{cls.NAME}-{Version(facts.version).text}")
    for cls in m.declared()
    for facts in FACTS
    if (cls.CODE | 0x80) not in BY_REQUEST or BY_REQUEST[cls.CODE | 0x80].since <= facts.version
]


@pytest.mark.parametrize(("cls", "facts"), CASES)
@given(data=st.data())
@settings(max_examples=15)
def test_round_trip_and_damage(cls: type[m.Message], facts: m.Facts, data: st.DataObject) -> None:
    message = data.draw(records(cls, facts))
    encoded = message.encode(facts)
    assert cls.decode(encoded, facts) == message
    assert m.decode(encoded, facts) == (message, len(encoded))
    damaged = data.draw(mutated(encoded))
    try:
        m.decode(damaged, facts)
    except DecodeError as error:
        assert error.reason


def test_every_request_has_a_response_and_a_rule() -> None:
    requests = [cls for cls in m.declared() if issubclass(cls, m.Request)]
    assert len(requests) == 30
    for cls in requests:
        assert cls.CODE in BY_REQUEST
        assert issubclass(cls.response_class(), m.Response)


@pytest.mark.parametrize(
    ("message", "facts", "expected"),
    [
        (m.GetVersion(), FACTS[0], "10840000"),
        (m.VersionResponse(entries=(0x1200,)), FACTS[2], "1004000000010012"),
        (
            m.GetCertificate(slot=0, large=1, large_offset=0, large_length=0x27FF0),
            FACTS[4],
            "1482800000000000" + "00000000" + "f07f0200",
        ),
        (m.GetMeasurements(operation=0xFF), FACTS[2], "12e000ff"),
        (m.GetMeasurements(operation=1, context=b"12345678"), FACTS[3], "13e00001" + "3132333435363738"),
        (
            m.MeasurementBlock(index=0x10, type=m.MeasurementType.SECURE_VERSION_NUMBER, raw=1, value=bytes(8)),
            FACTS[2],
            "10010b00870800" + "00" * 8,
        ),
    ],
)
def test_layouts_seen_on_the_wire(message: m.Message, facts: m.Facts, expected: str) -> None:
    assert message.encode(facts).hex() == expected


def test_a_measurement_record_must_hold_exactly_its_blocks() -> None:
    block = m.MeasurementBlock(index=1, type=m.MeasurementType.MUTABLE_FIRMWARE, value=b"x" * 48).encode()
    assert len(m.decode_blocks(block * 2, 2)) == 2
    for record, count in ((block * 2, 1), (block, 2), (block + b"\0", 1), (block[:-1], 1)):
        with pytest.raises(DecodeError):
            m.decode_blocks(record, count)
    with pytest.raises(DecodeError, match="must be"):
        m.decode_blocks(block[:2] + b"\x40\x00" + block[4:], 1)
