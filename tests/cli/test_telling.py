"""What a device tells and asks besides: events, endpoint information, the log, keys it wants renewed, time it needs."""

from dataclasses import replace

import pytest

from cli.served import connect, device, done, run
from teeio.cli.choices import Choices
from teeio.cli.device_options import EndpointInfo, TellingOptions, Wanted
from teeio.crypto.algorithms import BaseHash
from teeio.crypto.kdf import digest
from teeio.spdm.messages import LogEntry
from teeio.transport.kinds import Transport


@pytest.mark.parametrize("info", list(EndpointInfo), ids=lambda info: info.value)
def test_endpoint_information(info: EndpointInfo) -> None:
    with device(telling=TellingOptions(endpoint_info=info)) as peer:
        outside, *_, inside = done(peer, "certificate,endpoint-info,session,endpoint-info")[1:]
    assert outside["endpoint_info"] == inside["endpoint_info"]
    [device_class] = outside["endpoint_info"]
    assert (device_class["registry"], device_class["vendor"]) == (3, "e07e")
    assert device_class["subordinates"][0] == "a010"


def test_the_measurement_extension_log_is_what_is_measured() -> None:
    with device(telling=TellingOptions(mel=True)) as peer:
        read, _, measured = done(peer, "mel,certificate,measurements:6")
    value = bytes(48)
    for each in read["measurement_log"]:
        entry = LogEntry(**{**each, "value": bytes.fromhex(each["value"])})
        value = digest(BaseHash.SHA_384, value + entry.encode())
    assert measured["measurements"][0]["type"] == "HASH_EXTEND"
    assert measured["measurements"][0]["value"] == value.hex()
    assert read["measurement_log_extends_to"] == {"6": value.hex()}


@pytest.mark.parametrize("telling", [TellingOptions(mel=True), TellingOptions()], ids=["log", "no log"])
def test_a_block_extends_the_log_only_where_there_is_one(telling: TellingOptions) -> None:
    with device(telling=telling) as peer:
        count, _, each = done(peer, "measurements:count,certificate,measurements:each")
    indices = [block["index"] for block in each["measurements"]]
    assert count["measurement_count"] == len(indices)
    assert (6 in indices) is telling.mel


def test_a_firmware_update_is_an_event() -> None:
    """The device measures until well after the update, so that the session has heard of it before it asks what happened."""
    with device(telling=TellingOptions(events=True, update_firmware=0.8, delay=1.5)) as peer:
        found = done(peer, "certificate,session,subscribe:measurement-changed,serve,respond-if-ready,serve")
    before, _, after = found[3:]
    assert before["served"]["events"] == []
    # The changed blocks: firmware image, version, security version number.
    detail = (1 << 2 | 1 << 5 | 1 << 0x10).to_bytes(32, "little").hex()
    assert after["served"]["events"] == [{"instance_id": 0, "type": "MEASUREMENT_CHANGED", "detail": detail}]


def test_all_events_by_the_session_policy() -> None:
    with device(telling=TellingOptions(events=True)) as peer:
        found = done(peer, "certificate,session,supported-event-types,subscribe:none,serve", "--session-policy", "2")
    assert found[2]["event_types"][0]["types"] == [
        "EVENT_LOST", "MEASUREMENT_CHANGED", "MEASUREMENT_PRE_UPDATE", "CERTIFICATE_CHANGED",
    ]  # fmt: skip
    assert found[3]["subscribed"] == []


def test_a_device_asks_once_for_new_keys_in_each_session() -> None:
    with device(telling=TellingOptions(ask=[Wanted.KEY_UPDATE])) as peer:
        operations = "certificate,session,serve,heartbeat,serve,end,session,key-update,serve,heartbeat,end"
        found = done(peer, operations)
    renewed = [one["served"]["response_key_renewed"] for one in found if "served" in one]
    assert renewed == [True, False, True]


def test_the_whole_life_answers_what_the_device_asks() -> None:
    with device(Transport.PCI_DOE, telling=TellingOptions(ask=[Wanted.KEY_UPDATE])) as peer:
        found = connect(peer, "--capabilities", "+ENCAP", transport=Transport.PCI_DOE)
    assert found["served"]["response_key_renewed"] is True


def test_a_device_that_asks_what_its_requester_is() -> None:
    said: list[str] = []
    telling = TellingOptions(ask=[Wanted.ENDPOINT_INFO])
    with device(telling=telling, said=said) as peer:
        found = done(peer, "certificate,session,serve,serve", "--device-class", "3:8680:570d", "--device-class", "0:")
    assert [one["served"]["flows"] for one in found[2:]] == [1, 0]
    assert "the requester is of 2 device classes: registry 3, vendor 8680, registry 0, vendor -" in said


def test_a_device_class_of_ones_own() -> None:
    telling = TellingOptions(endpoint_info=EndpointInfo.SIGNED, device_class=["4:01020304:aa:bb"])
    with device(telling=telling) as peer:
        found = done(peer, "certificate,endpoint-info")[1]
    assert found["endpoint_info"] == [{"registry": 4, "vendor": "01020304", "subordinates": ["aa", "bb"]}]


def test_a_device_that_is_not_ready() -> None:
    with device(telling=TellingOptions(delay=0.4)) as peer:
        _, slow, _, quick = done(peer, "certificate,respond-if-ready,digests,respond-if-ready")
    assert slow["respond_if_ready"] >= 1
    assert len(slow["measurements"]) == 8
    assert quick["respond_if_ready"] == 0


def test_what_is_not_offered() -> None:
    for operation in ("mel", "endpoint-info", "certificate,session,supported-event-types"):
        with device() as peer:
            result = run(peer, "--operations", operation)
        assert result.exit_code == 2
        assert "the capability for it is not negotiated" in result.stderr


def test_any_vendors_message() -> None:
    """TDISP's GET_TDISP_VERSION, written out byte by byte."""
    request = "01" + "1081" + "0000" + "efbe0000" + "00" * 8
    with device(Transport.PCI_DOE) as peer:
        operations = f"certificate,session,vendor-defined:3:0100:{request}"
        found = connect(peer, "--operations", operations, transport=Transport.PCI_DOE)
    assert found["vendor_defined"].startswith("011001")


def test_capabilities_alone_say_what_is_offered() -> None:
    choices = replace(Choices(), capabilities="+MEL,+EP_INFO_NO_SIG")
    with device(choices=choices) as peer:
        log, info = done(peer, "mel,endpoint-info")
    assert len(log["measurement_log"]) == 4
    assert len(info["endpoint_info"]) == 1


def test_events_of_ours() -> None:
    with device(telling=TellingOptions(events=True)) as peer:
        found = done(peer, "certificate,session,send-event:certificate-changed:01,end")
    assert found[2]["event_sent"] == "CERTIFICATE_CHANGED"
    with device(telling=TellingOptions(events=True)) as peer:
        result = run(peer, "--operations", "certificate,session,send-event:certificate-changed:0102")
    assert result.exit_code == 2
    assert "has 1 bytes of detail" in result.stderr


def test_all_that_the_device_supports() -> None:
    with device(choices=Choices(base_hash="SHA_256,SHA_384")) as peer:
        found = connect(peer, "--operations", "negotiate:list")
    assert found["supported_algorithms"]["base_hash"] == ["SHA_256", "SHA_384"]
