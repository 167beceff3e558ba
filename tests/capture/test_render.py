"""The JSON form and the text form."""

import json

import pytest

from capture_files import recorded
from teeio.capture import render
from teeio.capture.dissect import Dissection, Dissector, decode_capture
from teeio.capture.pcap import Frame, LinkType
from teeio.mctp import MctpBinding
from teeio.spdm import messages as m
from teeio.tdisp.messages import MessageType


@pytest.fixture(scope="module")
def dissection() -> Dissection:
    return decode_capture(*recorded(LinkType.PCI_DOE))


def fed(*messages: m.Message, version: int = 0x12) -> list[dict[str, object]]:
    dissector = Dissector(LinkType.MCTP)
    facts = m.Facts(version=version)
    frames = [b"\0\0\0\xc0" + MctpBinding().wrap(message.encode(facts), secured=False) for message in messages]
    return [render.as_dict(dissector.feed(Frame(number, frame))) for number, frame in enumerate(frames, 1)]


def test_the_forms_of_the_json_keys(dissection: Dissection) -> None:
    found = [json.loads(line) for line in render.json_lines(dissection)]
    first = found[0]
    assert first["frame"] == 1
    assert (first["direction"], first["session"], first["version"]) == ("REQ->RSP", None, "10")
    assert (first["code"], first["name"], first["fields"]) == ("0x84", "SPDM_GET_VERSION", {})
    assert first["protection"] == "clear"
    finish = next(one for one in found if one["name"] == "SPDM_FINISH")
    assert finish["session"] == "0xffffffff"
    assert finish["protection"] == "encrypted"
    assert finish["verification"] == [{"check": "RequesterVerifyData", "verdict": "ok", "reason": ""}]
    assert len(found) == len(dissection.messages)


def test_enums_bytes_and_details(dissection: Dissection) -> None:
    found = {one["name"]: one for one in map(json.loads, render.json_lines(dissection))}
    algorithms = found["SPDM_ALGORITHMS"]
    assert algorithms["fields"]["base_asym"] == {"name": "ECDSA_P384", "value": 0x80}
    assert algorithms["details"]["algorithms"]["AEAD"] == {"name": "AES_256_GCM", "value": 2}
    assert found["SPDM_VERSION"]["details"] == {"versions": ["1.2", "1.3"]}
    assert found["SPDM_KEY_EXCHANGE_RSP"]["details"] == {"secured_version": "1.2"}
    assert len(found["SPDM_CHALLENGE"]["fields"]["nonce"]) == 64
    blocks = found["SPDM_MEASUREMENTS"]["details"]["blocks"]
    assert [block["index"] for block in blocks] == [1, 2, 0x10]
    assert blocks[2]["type"] == {"name": "SECURE_VERSION_NUMBER", "value": 7}


def test_an_unknown_enum_value_has_no_name() -> None:
    (shown,) = fed(m.KeyUpdate(operation=9, tag=1))
    assert shown["fields"] == {"operation": {"name": None, "value": 9}, "tag": 1}


def test_vendor_messages_lie_under_vendor() -> None:
    tdisp = bytes([0x10, MessageType.GET_DEVICE_INTERFACE_STATE]) + bytes(2) + b"\xef\xbe" + bytes(10)
    shown, broken, unknown = fed(
        m.VendorDefinedRequest(standard_id=3, vendor_id=b"\1\0", payload=b"\1" + tdisp),
        m.VendorDefinedRequest(standard_id=3, vendor_id=b"\1\0", payload=b"\1" + tdisp[:-1]),
        m.VendorDefinedRequest(standard_id=4, vendor_id=b"\1\0", payload=b"\1"),
    )
    assert shown["vendor"] == {
        "protocol": "TDISP",
        "name": "GET_DEVICE_INTERFACE_STATE",
        "fields": {"function_id": 0xBEEF},
    }
    assert broken["vendor"]["name"] == "GET_DEVICE_INTERFACE_STATE"  # type: ignore[index]
    assert "needs 8 bytes" in broken["vendor"]["error"]  # type: ignore[index]
    assert "registry 0x4" in unknown["vendor"]["error"]  # type: ignore[index]


def test_what_was_not_opened_has_no_name() -> None:
    dissection = decode_capture(recorded(LinkType.PCI_DOE)[0])
    hidden = [one for one in map(json.loads, render.json_lines(dissection)) if one["name"] is None]
    assert hidden
    assert all(one["code"] is None and one["session"] and one["raw"] and one["error"] for one in hidden)
    assert all(one["protection"] == "not opened" for one in hidden)
    text = "\n".join(render.text_lines(dissection))
    assert "not opened: no key log is given" in text


def test_the_text_form(dissection: Dissection) -> None:
    lines = list(render.text_lines(dissection))
    assert lines[0] == "     1  c1  REQ->RSP  -              1.0  GET_VERSION (4 bytes)"
    assert "        base_hash: SHA_384 (0x2)" in lines
    assert "        KEY_EXCHANGE_RSP signature: ok" in lines
    assert any(line.startswith("        portion: ") and line.endswith("bytes)") for line in lines)
    short = list(render.text_lines(dissection, with_fields=False))
    assert len(short) == len(dissection.messages)


def test_the_summary_counts(dissection: Dissection) -> None:
    first, second, third, *listed = render.summary(dissection)
    assert first == f"{len(dissection.messages)} frames, {len(dissection.messages)} SPDM messages, 4 sessions"
    assert second == "0 records not opened, 0 messages not decoded"
    assert third.endswith("0 wrong, 0 not checkable")
    assert [line.split(":")[0].strip() for line in listed] == [
        *("connection 1", "session 1", "session 2"),
        *("connection 2", "session 3", "session 4"),
    ]
    shown = render.summary_dict(dissection)
    assert [(one["number"], one["connection"], one["proven"]) for one in shown["sessions"]] == [
        (1, 1, True),
        (2, 1, True),
        (3, 2, True),
        (4, 2, True),
    ]
    assert shown["problems"] == shown["notes"] == []
