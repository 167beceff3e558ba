"""Captures with several connections and sessions, and one key log for all: everything is opened, checked and attributed."""

import json
from collections import Counter
from functools import cache

import pytest
from hypothesis import given
from hypothesis import strategies as st

from many_captures import Packet, Story, block, enhanced, interface, interleaved, key_log, pcapng, section
from teeio.capture import render
from teeio.capture.dissect import Dissection, decode_capture
from teeio.capture.findings import Verdict
from teeio.capture.keyring import MAX_CANDIDATES
from teeio.capture.message import Protection
from teeio.capture.pcap import LinkType, write_pcap
from teeio.capture.pcapng import read_capture
from teeio.capture.sessions import NO_FIT
from teeio.errors import DecodeError
from teeio.spdm.constants import Version

MCTP, DOE = LinkType.MCTP, LinkType.PCI_DOE


def classic(link_type: LinkType, packets: list[Packet]) -> bytes:
    return write_pcap(link_type, [(frame, 0.0) for _, frame in packets])


def all_is_well(found: Dissection) -> None:
    assert found.problems == found.notes == []
    assert {finding.verdict for _, finding in found.findings()} == {Verdict.OK}
    for message in found.messages:
        assert message.message is not None, message.error
        assert not message.error
        assert message.connection is not None
        assert (message.session is None) == (message.session_number is None)


def spread(found: Dissection) -> list[tuple[int, int]]:
    """Give (connection, session id) of each session."""
    return [(one.connection, one.session_id) for one in found.sessions]


@cache
def two_devices(link_type: LinkType) -> tuple[Story, Story]:
    """Give two devices, each with two connections of three sessions; session ids are the same on both."""
    first = Story(link_type, 8, 9, seed=b"one").whole(2)
    return first, Story(link_type, 8, 10, interface=1, version=Version.V1_3, seed=b"two").whole(2)


@pytest.mark.parametrize("frames", [False, True], ids=["by step", "by frame"])
@pytest.mark.parametrize("link_type", list(LinkType), ids=lambda link: link.name)
def test_two_devices_at_once(link_type: LinkType, frames: bool) -> None:
    stories = two_devices(link_type)
    packets = list(interleaved(stories, frames=frames))
    names = [(link_type, "0000:01:00.0"), (link_type, "0000:02:00.0")]
    data = classic(MCTP, packets) if link_type is MCTP else pcapng(names, packets)
    found = decode_capture(data, key_log(stories))
    all_is_well(found)
    assert len(found.connections) == 4
    assert len(found.sessions) == 12
    assert sorted(Counter(one.connection for one in found.sessions).values()) == [3, 3, 3, 3]
    assert max(Counter(one.session_id for one in found.sessions).values()) == 4
    ends = [connection.ends for connection in found.connections]
    there = ["endpoint 8 to 9", "endpoint 8 to 10"] if link_type is MCTP else [name for _, name in names]
    assert Counter(ends) == Counter(there * 2)
    for message in found.messages:  # every frame is of the device that sent it
        mine = stories[0] if found.connections[(message.connection or 0) - 1].ends == there[0] else stories[1]
        of_the_frame = packets[message.frame - 1][0]
        assert mine.interface == of_the_frame


def test_text_and_json_say_whose_a_message_is() -> None:
    stories = two_devices(MCTP)
    found = decode_capture(classic(MCTP, list(interleaved(stories, frames=True))), key_log(stories))
    shown = [json.loads(line) for line in render.json_lines(found)]
    text = list(render.text_lines(found, with_fields=False))
    for one, line, message in zip(shown, text, found.messages, strict=True):
        assert (one["connection"], one["session_number"]) == (message.connection, message.session_number)
        assert line.split()[1] == f"c{message.connection}"
        if message.session_number is not None:
            assert line.split()[3:5] == [f"s{message.session_number}", one["session"]]
            session = found.sessions[message.session_number - 1]
            assert (session.connection, session.session_id) == (message.connection, message.session)
    summary = "\n".join(render.summary(found))
    assert "connection 1 (endpoint 8 to 9): frames 1 to " in summary
    assert "connection 2 (endpoint 8 to 10): frames 2 to " in summary
    assert summary.count(", PSK, ") == 4


@pytest.mark.parametrize("link_type", list(LinkType), ids=lambda link: link.name)
def test_connections_one_after_another_on_the_same_ends(link_type: LinkType) -> None:
    story = Story(link_type, seed=b"again").whole(3)
    found = decode_capture(classic(link_type, list(interleaved([story], frames=False))), key_log([story]))
    all_is_well(found)
    numbers = [message.connection for message in found.messages]
    assert numbers == sorted(numbers)  # type: ignore[type-var]
    assert Counter(connection for connection, _ in spread(found)) == {1: 3, 2: 3, 3: 3}


def test_a_link_that_names_nobody_may_mix_the_records_of_two_devices() -> None:
    stories = [Story(DOE, seed=b"one"), Story(DOE, version=Version.V1_3, seed=b"two")]
    opened = []
    for story in stories:
        story.connect()
        opened.append(story.sessions())
    plain = [packet for story in stories for step in story.steps for packet in step]
    for story, sessions in zip(stories, opened, strict=True):
        story.steps.clear()
        story.work(sessions)
    packets = plain + list(interleaved(stories, frames=False))
    found = decode_capture(classic(DOE, packets), key_log(stories))
    all_is_well(found)
    assert len(found.connections) == 2
    late = Counter(message.connection for message in found.messages[len(plain) :])
    assert late[1] == late[2] > 0


def test_more_sessions_than_are_tried_for_one() -> None:
    story = Story(DOE, seed=b"one").whole()
    strange = "".join(f"dhe_secret ffffffff {at:096x}\n" for at in range(1, MAX_CANDIDATES))
    data = classic(DOE, list(interleaved([story], frames=False)))
    found = decode_capture(data, strange + key_log([story]))
    assert all(session.proven and not session.unopened for session in found.sessions)
    (note,) = found.notes
    assert note.startswith(f"{MAX_CANDIDATES - 1} sessions of the key log match none of the capture: 0xffffffff")


# -- what is missing ---------------------------------------------------------------------------------------------------


def test_sessions_without_secrets_are_said_and_others_open() -> None:
    stories = two_devices(MCTP)
    packets = list(interleaved(stories, frames=True))
    found = decode_capture(classic(MCTP, packets), key_log(stories[:1]))
    assert found.problems == []
    assert found.wrong() == []
    without = [session for session in found.sessions if session.unopened and not session.psk]
    assert len(without) == 4
    assert {found.connections[session.connection - 1].ends for session in without} == {"endpoint 8 to 10"}
    for session in without:
        assert any(note.startswith(f"session {session.number} (") for note in found.notes)
    assert all(message.session_number for message in found.messages if message.session)


def test_secrets_that_match_no_session_are_said() -> None:
    stories = two_devices(MCTP)
    packets = list(interleaved(stories[:1], frames=True))
    found = decode_capture(classic(MCTP, packets), key_log(stories))
    assert found.problems == []
    assert {finding.verdict for _, finding in found.findings()} == {Verdict.OK}
    assert any("match none of the capture" in note for note in found.notes)


def test_a_capture_may_begin_in_the_middle() -> None:
    story = Story(DOE, seed=b"one").whole(2)
    packets = list(interleaved([story], frames=False))
    second = [at for at, (_, frame) in enumerate(packets) if frame[8:10] == b"\x10\x84"][1]
    for begin in range(1, second):
        found = decode_capture(classic(DOE, packets[begin:]), key_log([story]))
        assert found.problems == []
        assert found.wrong() == []
        assert found.notes
        whole = [connection for connection in found.connections if connection.whole]
        assert len(whole) == 1
        sessions = [session for session in found.sessions if session.connection == whole[0].number]
        assert all(session.proven and not session.unopened for session in sessions)
        for message in found.messages:
            assert message.message is not None or message.error
            if message.protection is Protection.UNOPENED and message.connection is None:
                assert message.error == "the beginning of the session is not in the capture"


def test_changed_verify_data_is_wrong_once_a_record_opens() -> None:
    story = Story(DOE, seed=b"one")
    story.connect()
    story.sessions()
    packets = list(interleaved([story], frames=False))
    whole = decode_capture(classic(DOE, packets), key_log([story]))
    answer = next(message for message in whole.messages if message.name == "KEY_EXCHANGE_RSP")
    frame = bytearray(packets[answer.frame - 1][1])
    frame[8 + len(answer.raw) - 1] ^= 1
    packets[answer.frame - 1] = (0, bytes(frame))
    found = decode_capture(classic(DOE, packets), key_log([story]))
    (at_first,) = [one for at, one in found.findings() if (at, one.check) == (answer.frame, "ResponderVerifyData")]
    assert (at_first.verdict, at_first.reason) == (Verdict.NOT_CHECKABLE, NO_FIT)
    wrong = {(at, one.check) for at, one in found.wrong()}
    assert wrong == {(answer.frame + 1, "ResponderVerifyData"), (answer.frame + 1, "RequesterVerifyData")}


# -- pcapng ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", ["<", ">"])
def test_pcapng_of_both_byte_orders(order: str) -> None:
    data = section(order) + interface(292, "mailbox", order, resolution=9) + enhanced(0, b"frame", order, 7 << 33)
    capture = read_capture(data)
    assert [(one.link_type, one.name) for one in capture.interfaces] == [(DOE, "mailbox")]
    assert [(one.number, one.data, one.time) for one in capture.frames] == [(1, b"frame", 7 << 33)]


def test_other_blocks_and_other_link_types_are_passed_over() -> None:
    simple = block("<", 3, (3).to_bytes(4, "little") + b"abc")
    old = block("<", 2, bytes(12) + (2).to_bytes(4, "little") * 2 + b"xy")
    body = interface(291, "first") + interface(1, "ethernet") + block("<", 5, bytes(12))
    data = section() + body + enhanced(1, b"ip") + enhanced(0, b"mctp") + simple + old
    capture = read_capture(data + section(">") + interface(292, "next", ">") + enhanced(0, b"doe", ">"))
    assert capture.problem is None
    assert capture.left_out == 1
    shown = [(one.number, one.data, one.interface) for one in capture.frames]
    assert shown == [(2, b"mctp", 0), (3, b"abc", 0), (4, b"xy", 0), (5, b"doe", 1)]


def test_a_pcapng_file_may_end_anywhere() -> None:
    names, packets = [(292, "a")], [(0, b"first"), (0, b"second")]
    data = pcapng(names, packets)
    described = len(section() + interface(292, "a"))
    ends = [described, described + len(enhanced(0, b"first")), len(data)]
    for size in range(4, len(data)):
        if size < described:
            with pytest.raises(DecodeError, match="Pcapng"):
                read_capture(data[:size])
            continue
        capture = read_capture(data[:size])
        assert len(capture.frames) == sum(size >= end for end in ends) - 1
        assert (capture.problem is None) == (size in ends)


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (enhanced(7, b"frame"), "is of interface 7, not declared"),
        (block("<", 6, bytes(12) + (99).to_bytes(4, "little") * 2), "claims 99 bytes"),
        (block("<", 6, bytes(4)), "needs 20 bytes"),
        (b"\6\0\0\0\7\0\0\0" + bytes(8), "which no block has"),
        (b"\6\0\0\0\x10\0\0\0" + bytes(8), "differs from that before"),
        (block("<", 0x0A0D0D0A, bytes(16)), "byte_order_magic"),
    ],
)
def test_damage_ends_the_reading(damage: bytes, said: str) -> None:
    data = pcapng([(292, "a")], [(0, b"first")])
    capture = read_capture(data + damage + enhanced(0, b"lost"))
    assert [frame.data for frame in capture.frames] == [b"first"]
    assert said in str(capture.problem)


def test_a_file_without_a_known_link_type_is_refused() -> None:
    with pytest.raises(DecodeError, match="none has link type 291 or 292"):
        read_capture(pcapng([(1, "ethernet")], [(0, b"ip")]))


@given(st.binary(max_size=80), st.integers(0, 200))
def test_any_bytes_in_a_pcapng_file_give_a_capture_or_a_decode_error(noise: bytes, at: int) -> None:
    data = pcapng([(292, "a")], [(0, b"first"), (0, b"second")])
    changed = data[:at] + noise + data[at + len(noise) :]
    try:
        capture = read_capture(changed)
    except DecodeError:
        return
    assert all(frame.data in changed for frame in capture.frames)


def test_both_ends_may_ask() -> None:
    there, back = Story(MCTP, 8, 9, seed=b"one").whole(), Story(MCTP, 9, 8, version=Version.V1_3, seed=b"two").whole()
    found = decode_capture(classic(MCTP, list(interleaved([there, back], frames=True))), key_log([there, back]))
    all_is_well(found)
    assert [one.ends for one in found.connections] == ["endpoint 8 to 9", "endpoint 9 to 8"]
    assert Counter(connection for connection, _ in spread(found)) == {1: 3, 2: 3}
