"""Reference values: the JSON form, and what it refuses."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from teeio.attestation import ReferenceValue, ReferenceValues
from teeio.crypto.algorithms import MeasurementHash
from teeio.errors import Misuse
from teeio.spdm.messages import MeasurementBlock, MeasurementType

GOOD: dict[str, Any] = {
    "format": "teeio-reference-values/1",
    "minimum_svn": 7,
    "values": [
        {"index": 1, "type": "MUTABLE_FIRMWARE", "algorithm": "SHA_384", "allowed": ["00" * 48, "11" * 48]},
        {"index": 253, "type": "MANIFEST", "any_value": True, "optional": True},
    ],
}

VALUES = st.builds(
    ReferenceValue,
    st.integers(0, 0xFE),
    st.sampled_from(MeasurementType),
    st.one_of(st.none(), st.sampled_from(list(MeasurementHash))),
    st.lists(st.binary(max_size=64), min_size=1, max_size=3).map(tuple),
    optional=st.booleans(),
)


@given(st.lists(VALUES, max_size=4), st.one_of(st.none(), st.integers(0, 2**64 - 1)))
def test_json_round_trip(values: list[ReferenceValue], minimum_svn: int | None) -> None:
    reference = ReferenceValues(tuple(values), minimum_svn)
    assert ReferenceValues.from_json(reference.to_json()) == reference


def test_the_documented_form_is_read() -> None:
    reference = ReferenceValues.from_json(json.dumps(GOOD))
    assert reference.minimum_svn == 7
    assert reference.at(1)[0].allowed == (bytes(48), bytes([0x11]) * 48)
    assert reference.at(253) == (
        ReferenceValue(253, MeasurementType.MANIFEST, None, (), any_value=True, optional=True),
    )
    assert reference.at(2) == ()


def test_a_set_without_values_compares_nothing() -> None:
    assert not ReferenceValues()
    assert not ReferenceValues((ReferenceValue(1, MeasurementType.MANIFEST, None, (), any_value=True),), 7)
    assert ReferenceValues.from_json(json.dumps(GOOD))


def with_value(**fields: Any) -> str:
    return json.dumps({**GOOD, "values": [{**GOOD["values"][0], **fields}]})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is not JSON"),
        ("[" * 100_000, "is not JSON"),
        ("[]", "document is not an object"),
        ("{}", "lacks format, values"),
        (json.dumps({**GOOD, "format": "other"}), "format is 'other'"),
        (json.dumps({**GOOD, "values": {}}), "values is not a list"),
        (json.dumps({**GOOD, "minimum_svn": "7"}), "minimum_svn is '7'"),
        (json.dumps({**GOOD, "minimum_svn": -1}), "minimum_svn is -1"),
        (json.dumps({**GOOD, "minimum_svn": True}), "minimum_svn is True"),
        (json.dumps({**GOOD, "mininum_svn": 9}), "unknown key mininum_svn"),
        ('{"format": "a", "format": "b", "values": []}', "given twice"),
        (with_value(index=255), r"values\[0\].index is 255"),
        (with_value(type="FIRMWARE"), r"values\[0\].type is 'FIRMWARE', must be one of"),
        (with_value(algorithm="sha384"), r"values\[0\].algorithm is 'sha384'"),
        (with_value(allowed=["xyz"]), r"values\[0\].allowed holds 'xyz'"),
        (with_value(allowed=[7]), r"values\[0\].allowed holds 7"),
        (with_value(allowed=[]), "needs either allowed values or any_value"),
        (with_value(any_value=True), "needs either allowed values or any_value"),
        (with_value(optional=1), r"values\[0\].optional is 1"),
        (with_value(note="x"), "unknown key note"),
    ],
)
def test_bad_documents_are_refused_with_the_place(text: str, message: str) -> None:
    with pytest.raises(Misuse, match=message):
        ReferenceValues.from_json(text)


@settings(max_examples=40)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(), lambda x: st.lists(x) | st.dictionaries(st.text(), x)
    )
)
def test_any_json_is_read_or_refused(document: Any) -> None:
    with suppress(Misuse):
        ReferenceValues.from_json(json.dumps({**GOOD, "values": [document]}))


def test_blocks_of_a_known_device_become_the_reference() -> None:
    blocks = [
        MeasurementBlock(index=1, type=MeasurementType.IMMUTABLE_ROM, value=b"d" * 32),
        MeasurementBlock(index=2, type=MeasurementType.MANIFEST, raw=1, value=b"m"),
        MeasurementBlock(index=3, type=MeasurementType.SECURE_VERSION_NUMBER, raw=1, value=bytes(8)),
        MeasurementBlock(index=4, type=MeasurementType.DEVICE_MODE, raw=1, value=bytes(16)),
    ]
    reference = ReferenceValues.of_blocks(blocks, MeasurementHash.SHA_256, minimum_svn=3)
    assert reference.minimum_svn == 3
    assert reference.values == (
        ReferenceValue(1, MeasurementType.IMMUTABLE_ROM, MeasurementHash.SHA_256, (b"d" * 32,)),
        ReferenceValue(2, MeasurementType.MANIFEST, None, (b"m",)),
    )
