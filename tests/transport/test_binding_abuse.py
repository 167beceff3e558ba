"""Frames that no binding should take, each to a responder behind it: dropped or refused, never raised on, nothing changed.

What does not unwrap is dropped, since there is nobody to answer; what unwraps to too little is an SPDM message that is too short.
A record is damaged byte by byte: it is dropped, names no session, or ends its own.
"""

from collections.abc import Iterator

import pytest

from spdm.abuse.scene import Scene, Stage, scene_at
from spdm.abuse.snapshot import changed, snapshot
from teeio.crypto.entropy import SeededEntropy
from teeio.errors import DecodeError
from teeio.mctp import MctpBinding
from teeio.pcie.doe import DoeBinding
from teeio.raw_binding import RawBinding
from teeio.spdm import messages as m
from teeio.spdm.binding import Binding
from teeio.spdm.constants import ErrorCode, Version
from teeio.spdm.responder import Responder
from teeio.tcp_binding import TcpBinding

BINDINGS: list[Binding] = [MctpBinding(), DoeBinding(), TcpBinding(), RawBinding()]
WITH_SESSIONS = BINDINGS[:3]
HEADERS = {"mctp": 1, "pci_doe": 8, "tcp": 4, "none": 0}
"""Bytes of a frame before its message."""
IGNORED = {"pci_doe": {3, 7}}
"""Bytes of headers that are reserved; bits 7:2 of byte 6 are, too."""
TOLD = {
    ErrorCode.INVALID_REQUEST,
    ErrorCode.VERSION_MISMATCH,
    ErrorCode.UNSUPPORTED_REQUEST,
    ErrorCode.UNEXPECTED_REQUEST,
    ErrorCode.SESSION_REQUIRED,
    ErrorCode.REQUEST_TOO_LARGE,
}
REQUEST = m.GetMeasurements(operation=1)


def at(binding: Binding, stage: Stage) -> Scene:
    scene = scene_at(Version.V1_2, stage)
    scene.pair.requester.binding = scene.pair.responder.binding = binding
    return scene


def frames(binding: Binding, frame: bytes) -> Iterator[tuple[str, bytes]]:
    """Damage a frame: cut it everywhere, change each bit of its header, lengthen it, repeat it, blow it up."""
    yield from ((f"cut at byte {end}", frame[:end]) for end in range(len(frame)))
    for index in range(HEADERS[binding.name]):
        for bit in range(8):
            if index in IGNORED.get(binding.name, ()) or (binding.name == "pci_doe" and index == 6 and bit >= 2):
                continue
            yield f"bit {bit} of byte {index}", frame[:index] + bytes([frame[index] ^ 1 << bit]) + frame[index + 1 :]
    yield "one byte more", frame + b"\0"
    yield "four bytes more", frame + bytes(4)
    yield "twice", frame + frame
    yield "a megabyte", frame + bytes(1 << 20)


def answer_to(r: Responder, binding: Binding, frame: bytes) -> tuple[int, int] | None:
    """Give code and error code of what a plain frame is answered with; None for nothing."""
    answer = r.respond(frame)
    return None if answer is None else (binding.unwrap(answer)[0][1], binding.unwrap(answer)[0][2])


@pytest.mark.parametrize("binding", BINDINGS, ids=lambda binding: binding.name)
def test_a_damaged_frame_changes_nothing(binding: Binding) -> None:
    scene = at(binding, Stage.NEGOTIATED)
    r = scene.pair.responder
    good = binding.wrap(REQUEST.encode(scene.facts), secured=False)
    before = snapshot(r)
    for name, frame in frames(binding, good):
        found = answer_to(r, binding, frame)
        assert found is None or (found[0] == m.Error.CODE and found[1] in TOLD), name
        if found is None:
            with pytest.raises(DecodeError):
                _read(binding, frame)
        assert not changed(before, snapshot(r)), name
    assert answer_to(r, binding, good) == (m.Measurements.CODE, 0)


def _read(binding: Binding, frame: bytes) -> None:
    """Unwrap what was dropped: it is no frame, or no record."""
    message, secured = binding.unwrap(frame)
    if secured:
        raise DecodeError("SecuredMessage", "header", 0, f"{len(message)} bytes")


@pytest.mark.parametrize("binding", BINDINGS[1:2], ids=lambda binding: binding.name)
def test_reserved_bits_of_a_header_are_ignored(binding: Binding) -> None:
    scene = at(binding, Stage.NEGOTIATED)
    good = bytearray(binding.wrap(REQUEST.encode(scene.facts), secured=False))
    for index in IGNORED[binding.name]:
        good[index] = 0xFF
    good[6] |= 0xFC
    assert answer_to(scene.pair.responder, binding, bytes(good)) == (m.Measurements.CODE, 0)


@pytest.mark.parametrize("binding", WITH_SESSIONS, ids=lambda binding: binding.name)
def test_a_damaged_record_ends_its_own_session_at_most(binding: Binding) -> None:
    scene = at(binding, Stage.ESTABLISHED)
    good = _record(scene, binding, m.Heartbeat().encode(scene.facts))
    for index in sorted(set(range(len(good))) - IGNORED.get(binding.name, set())):
        scene = at(binding, Stage.ESTABLISHED)
        r = scene.pair.responder
        before = set(r.sessions)
        r.respond(good[:index] + bytes([good[index] ^ 1]) + good[index + 1 :])
        assert set(r.sessions) in (before, set()), index
        if set(r.sessions) == before:
            assert r.respond(good) is not None, index
            assert set(r.sessions) == before, "the good record still opens"


@pytest.mark.parametrize("binding", WITH_SESSIONS, ids=lambda binding: binding.name)
def test_a_record_that_comes_again_ends_the_session(binding: Binding) -> None:
    """With and without sequence numbers that travel."""
    scene = at(binding, Stage.ESTABLISHED)
    r = scene.pair.responder
    frame = _record(scene, binding, m.Heartbeat().encode(scene.facts))
    assert r.respond(frame) is not None
    assert r.sessions
    assert r.respond(frame) is not None
    assert not r.sessions
    assert r.respond(frame) == binding.wrap(bytes([0x12, m.Error.CODE, ErrorCode.INVALID_SESSION, 0]), secured=False)


@pytest.mark.parametrize("binding", WITH_SESSIONS, ids=lambda binding: binding.name)
def test_what_is_no_spdm_inside_a_good_record_gets_no_answer_but_an_error(binding: Binding) -> None:
    for data in (b"", b"\0", b"\xff", bytes(3), b"\x05", b"\x06" + bytes(8), b"\x7e" + bytes(8), b"\xff" * 40):
        scene = at(binding, Stage.ESTABLISHED)
        r, session = scene.pair.responder, scene.session
        assert session is not None
        record = session.request_key.seal(session.session_id, data, binding, SeededEntropy(b"record"), application=True)
        answer = r.respond(binding.wrap(record, secured=True))
        if answer is not None:
            plain = session.response_key.open(binding.unwrap(answer)[0], binding)
            assert plain[1] == m.Error.CODE
            assert plain[2] in TOLD | {ErrorCode.DECRYPT_ERROR}


def _record(scene: Scene, binding: Binding, message: bytes) -> bytes:
    session = scene.session
    assert session is not None
    record = session.request_key.seal(session.session_id, message, binding, SeededEntropy(b"record"))
    return binding.wrap(record, secured=True)
