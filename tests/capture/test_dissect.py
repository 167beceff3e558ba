"""The dissector on recordings of our own engines: sessions, key updates, several connections, damage of every kind."""

import json
from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from capture_files import Recorder, recorded
from teeio.capture import render
from teeio.capture.chains import Chains
from teeio.capture.dissect import Dissection, Dissector, decode_capture
from teeio.capture.findings import Verdict
from teeio.capture.framing import Carried
from teeio.capture.keylog import parse_key_log
from teeio.capture.message import Protection
from teeio.capture.negotiated import Negotiated, Signer
from teeio.capture.pcap import Frame, LinkType, read_pcap, write_pcap
from teeio.capture.sessions import Direction
from teeio.crypto.algorithms import BaseAsym
from teeio.errors import DecodeError
from teeio.pcie.doe import DISCOVERY, DoeBinding, DoeProtocol, encode_object
from teeio.spdm import flows
from teeio.spdm import messages as m
from teeio.spdm.constants import Capability, Version
from teeio.spdm.state import REQUESTER_CAPABILITIES, RESPONDER_CAPABILITIES


def read_everything(dissection: Dissection) -> None:
    """Render in every way; nothing may raise."""
    list(render.text_lines(dissection))
    list(render.text_lines(dissection, with_fields=False))
    for line in render.json_lines(dissection):
        json.loads(line)
    render.summary(dissection)
    for message in dissection.messages:
        for part in message.nested():
            part.spans()


# -- what our engines exchange -----------------------------------------------------------------------------------------


def test_everything_is_opened_decoded_and_verified(recording: tuple[bytes, str]) -> None:
    dissection = decode_capture(*recording)
    assert dissection.problems == []
    assert {finding.verdict for _, finding in dissection.findings()} == {Verdict.OK}
    assert all(message.message is not None and not message.error for message in dissection.messages)
    assert all(not message.trailing for message in dissection.messages)
    assert len(dissection.sessions) == 4
    for session in dissection.sessions:
        assert session.proven
        assert session.opened >= 4
    directions = [message.direction for message in dissection.messages]
    assert directions == [Direction.REQUEST, Direction.RESPONSE] * (len(directions) // 2)


def test_the_derived_secrets_are_those_that_the_engines_told(recording: tuple[bytes, str]) -> None:
    entries = [session.log_entry() for session in decode_capture(*recording).sessions]
    assert sorted(entries, key=str) == sorted(parse_key_log(recording[1]).sessions, key=str)


def test_key_updates_of_both_kinds_are_followed(recording: tuple[bytes, str]) -> None:
    counts = [
        [len(session.updates.get(f"{side}_data_secret_update", [])) for side in ("request", "response")]
        for session in decode_capture(*recording).sessions
    ]
    assert counts == [[2, 1], [1, 0]] * 2


@pytest.mark.parametrize("version", [Version.V1_2, Version.V1_3])
@pytest.mark.parametrize("both", [False, True])
def test_a_key_update_may_be_the_first_message(version: Version, both: bool) -> None:
    pair = Recorder(LinkType.PCI_DOE, version=version)
    session = pair.open_session()
    pair.run(flows.key_update(pair.requester, session, both=both))
    pair.run(flows.heartbeat(session))
    assert decode_capture(*pair.files()).problems == []


@pytest.mark.parametrize("link_type", list(LinkType))
def test_the_handshake_may_be_in_the_clear(link_type: LinkType) -> None:
    clear = Capability.HANDSHAKE_IN_THE_CLEAR
    pair = Recorder(
        link_type,
        requester_changes={"capabilities": REQUESTER_CAPABILITIES | clear},
        responder_changes={"capabilities": RESPONDER_CAPABILITIES | clear},
    )
    pair.run(flows.heartbeat(pair.open_session()))
    dissection = decode_capture(*pair.files())
    assert [message.protection for message in dissection.messages if message.name.startswith("FINISH")] == [
        Protection.CLEAR,
        Protection.CLEAR,
    ]
    checks = {finding.check: finding.verdict for _, finding in dissection.findings()}
    assert checks["RequesterVerifyData"] is checks["ResponderVerifyData"] is Verdict.OK
    assert dissection.problems == []


def test_sessions_may_only_be_authenticated() -> None:
    plain = Capability.ENCRYPT
    pair = Recorder(
        LinkType.MCTP,
        requester_changes={"capabilities": REQUESTER_CAPABILITIES & ~plain},
        responder_changes={"capabilities": RESPONDER_CAPABILITIES & ~plain},
    )
    pair.run(flows.heartbeat(pair.open_session()))
    dissection = decode_capture(*pair.files())
    assert dissection.problems == []
    assert dissection.messages[-1].protection is Protection.AUTHENTICATED


def test_a_chain_read_on_an_earlier_connection_still_serves() -> None:
    pair = Recorder(LinkType.PCI_DOE)
    pair.authenticate()
    chains = dict(pair.requester.chains)
    pair.run(flows.connect(pair.requester))
    pair.run(flows.get_digests())
    pair.requester.chains.update(chains)
    pair.run(flows.key_exchange(pair.requester))
    dissection = decode_capture(*pair.files())
    assert {finding.verdict for _, finding in dissection.findings()} == {Verdict.OK}


def test_the_digest_of_an_unread_chain_is_enough_for_the_keys() -> None:
    pair = Recorder(LinkType.PCI_DOE)
    pair.run(flows.connect(pair.requester))
    pair.run(flows.get_digests())
    pair.requester.chains[0] = pair.responder.slot(0).chain(pair.responder.connection.base_hash)
    pair.run(flows.key_exchange(pair.requester))
    dissection = decode_capture(*pair.files())
    assert dissection.problems == []
    (finding,) = [found for _, found in dissection.findings() if found.verdict is not Verdict.OK]
    assert str(finding) == (
        "KEY_EXCHANGE_RSP signature: not checkable: the certificate chain of slot 0 is not in the capture"
    )


def test_an_unknown_chain_leaves_only_given_traffic_secrets() -> None:
    pair = Recorder(LinkType.PCI_DOE)
    pair.run(flows.connect(pair.requester))
    pair.requester.chains[0] = pair.responder.slot(0).chain(pair.responder.connection.base_hash)
    pair.run(flows.heartbeat(pair.run(flows.key_exchange(pair.requester))))
    pcap, keys = pair.files()
    shared_only = "".join(line for line in keys.splitlines(keepends=True) if line.startswith("dhe_secret"))
    dissection = decode_capture(pcap, shared_only)
    (error,) = {message.error for message in dissection.messages[-4:]}
    assert error == "neither chain nor digest of slot 0 is in the capture"
    assert decode_capture(pcap, keys).problems == []


def test_an_algorithm_without_implementation_is_not_checkable() -> None:
    pair = Recorder(LinkType.PCI_DOE)
    pair.authenticate()
    n = Negotiated(connection=pair.requester.connection)
    chains = Chains()
    chains.by_slot[0] = pair.requester.chains[0]
    finding = chains.check_signature("signature", 0, "context", b"", bytes(64), n, Signer(base_asym=BaseAsym.SM2))
    assert finding.verdict is Verdict.NOT_CHECKABLE
    assert "no implementation" in finding.reason
    assert "SM2" in finding.reason


# -- frames that carry something else ----------------------------------------------------------------------------------


def test_discovery_is_shown_as_such() -> None:
    dissector = Dissector(LinkType.PCI_DOE)
    request = dissector.feed(Frame(1, encode_object(DISCOVERY, b"\1\0\0\0")))
    response = dissector.feed(Frame(2, encode_object(DISCOVERY, b"\1\0\1\2")))
    assert request.carried is response.carried is Carried.DISCOVERY
    assert (request.direction, response.direction) == (Direction.REQUEST, Direction.RESPONSE)
    assert render.as_dict(response)["fields"] == {"vendor_id": 1, "type": 1, "next_index": 2}
    assert not request.is_spdm


@pytest.mark.parametrize(
    ("link_type", "frame", "carried"),
    [
        (LinkType.PCI_DOE, encode_object(DoeProtocol(0x8086, 9), b"1234"), Carried.OTHER),
        (LinkType.PCI_DOE, b"\1\0\1\0\5\0\0\0", Carried.BROKEN),
        (LinkType.MCTP, b"\0\0\0\xc0\1pldm", Carried.OTHER),
        (LinkType.MCTP, b"\0\0\0\xc0", Carried.BROKEN),
        (LinkType.MCTP, b"", Carried.BROKEN),
    ],
)
def test_other_frames_are_named(link_type: LinkType, frame: bytes, carried: Carried) -> None:
    message = Dissector(link_type).feed(Frame(1, frame))
    assert message.carried is carried
    assert render.headline(message)
    assert message.error if carried is Carried.BROKEN else message.name


@pytest.mark.parametrize(
    ("message", "error"),
    [
        (b"\x10\x84", "needs 4 bytes"),
        (b"\x99\x84\0\0", "SPDMVersion 0x99 is not known"),
        (b"\x12\x99\0\0", "not a declared RequestResponseCode"),
        (b"\x10\x04\0\0\0\0", "no request that it answers"),
    ],
)
def test_messages_that_cannot_be_understood_say_why(message: bytes, error: str) -> None:
    found = Dissector(LinkType.MCTP).feed(Frame(1, b"\0\0\0\xc0\5" + message))
    assert error in found.error


def test_an_answer_to_another_request_is_marked() -> None:
    dissector, binding = Dissector(LinkType.PCI_DOE), DoeBinding()
    dissector.feed(Frame(1, binding.wrap(m.GetVersion().encode(m.Facts()), secured=False)))
    answer = m.FinishRsp(verify_data=b"").encode(m.Facts(version=0x12))
    found = dissector.feed(Frame(2, binding.wrap(answer, secured=False)))
    assert found.error == "it does not answer GET_VERSION, which came before it"


def test_bytes_after_a_message_are_given() -> None:
    found = Dissector(LinkType.PCI_DOE).feed(Frame(1, DoeBinding().wrap(b"\x10\x84\0\0\1\2\3\4", secured=False)))
    assert found.trailing == b"\1\2\3\4"


# -- damage ------------------------------------------------------------------------------------------------------------


@cache
def frames_of(link_type: LinkType) -> tuple[bytes, ...]:
    return tuple(frame.data for frame in read_pcap(recorded(link_type)[0]).frames[:50])


@st.composite
def damaged(draw: st.DrawFn) -> tuple[bytes, str]:
    """Draw a recording with frames changed, cut, repeated, lost or swapped, and its key log."""
    link_type = draw(st.sampled_from(LinkType))
    frames = list(frames_of(link_type))
    for _ in range(draw(st.integers(1, 6))):
        at = draw(st.integers(0, len(frames) - 1))
        frame = bytearray(frames[at])
        kind = draw(st.sampled_from(["change", "change", "change", "cut", "grow", "repeat", "lose", "swap"]))
        if kind == "change" and frame:
            where = draw(st.integers(0, min(len(frame), 200) - 1))
            frame[where] = draw(st.integers(0, 255))
            frames[at] = bytes(frame)
        elif kind == "cut":
            frames[at] = bytes(frame[: draw(st.integers(0, len(frame)))])
        elif kind == "grow":
            frames[at] = bytes(frame) + draw(st.binary(max_size=8))
        elif kind == "repeat":
            frames.insert(at, bytes(frame))
        elif kind == "lose" and len(frames) > 1:
            del frames[at]
        elif kind == "swap":
            other = draw(st.integers(0, len(frames) - 1))
            frames[at], frames[other] = frames[other], frames[at]
    return write_pcap(link_type, [(frame, 0.0) for frame in frames]), recorded(link_type)[1]


@settings(max_examples=120, deadline=None)
@given(damaged())
def test_damage_never_raises(files: tuple[bytes, str]) -> None:
    read_everything(decode_capture(*files))


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(LinkType), st.data())
def test_a_damaged_file_gives_nothing_but_a_decode_error(link_type: LinkType, data: st.DataObject) -> None:
    pcap, keys = recorded(link_type)
    pcap = pcap[: data.draw(st.integers(0, len(pcap)))]
    if pcap:
        at = data.draw(st.integers(0, len(pcap) - 1))
        pcap = pcap[:at] + data.draw(st.binary(min_size=1, max_size=4)) + pcap[at + 1 :]
    try:
        dissection = decode_capture(pcap, keys)
    except DecodeError as error:
        assert error.offset < 24
    else:
        read_everything(dissection)


@given(st.sampled_from(LinkType), st.lists(st.binary(max_size=60), max_size=5))
def test_any_frames_are_dissected(link_type: LinkType, frames: list[bytes]) -> None:
    read_everything(decode_capture(write_pcap(link_type, [(frame, 0.0) for frame in frames])))


@pytest.mark.parametrize("name", list(m.declared()), ids=lambda cls: cls.NAME)
@pytest.mark.parametrize("version", list(Version))
def test_every_message_may_come_first(name: type[m.Message], version: Version) -> None:
    raw = bytes([version, name.CODE]) + bytes(200)
    for secured in (False, True):
        frame = DoeBinding().wrap(raw, secured=secured)
        message = Dissector(LinkType.PCI_DOE).feed(Frame(1, frame))
        assert render.headline(message)
        render.as_dict(message)


def test_a_lost_record_does_not_stop_the_rest(recording: tuple[bytes, str]) -> None:
    capture = read_pcap(recording[0])
    whole = decode_capture(*recording)
    lost = next(message.frame for message in whole.messages if message.name == "HEARTBEAT")
    frames = [(frame.data, 0.0) for frame in capture.frames if frame.number != lost]
    dissection = decode_capture(write_pcap(capture.link_type, frames), recording[1])
    first, *others = dissection.sessions
    assert first.unopened
    assert all(not session.unopened for session in others)
    assert len(dissection.problems) == 1
