"""The MCTP binding: message types, what is refused, and the capture header."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from teeio.errors import DecodeError
from teeio.mctp import LINK_TYPE, MctpBinding, MctpHeader
from teeio.spdm.binding import Binding

BINDING: Binding = MctpBinding()


def test_what_the_engines_read() -> None:
    assert (BINDING.name, BINDING.sequence_number_size, BINDING.max_random_padding) == ("mctp", 2, 32)


@pytest.mark.parametrize(("secured", "kind"), [(False, 0x05), (True, 0x06)])
def test_wrap(secured: bool, kind: int) -> None:
    assert BINDING.wrap(b"\x10\x84\0\0", secured) == bytes([kind]) + b"\x10\x84\0\0"


@given(st.binary(max_size=40), st.booleans())
def test_wrap_and_unwrap(message: bytes, secured: bool) -> None:
    assert BINDING.unwrap(BINDING.wrap(message, secured)) == (message, secured)
    assert BINDING.unwrap_application(BINDING.wrap_application(message)) == message


@pytest.mark.parametrize("frame", [b"", b"\x85\x10", b"\x01\x10", b"\x7e", b"\x00"])
def test_other_frames_are_refused(frame: bytes) -> None:
    with pytest.raises(DecodeError):
        BINDING.unwrap(frame)


@pytest.mark.parametrize("data", [b"", b"\x06\x10", b"\x01\x10", b"\x85"])
def test_other_application_data_is_refused(data: bytes) -> None:
    with pytest.raises(DecodeError):
        BINDING.unwrap_application(data)


def test_the_capture_header() -> None:
    assert LINK_TYPE == 291
    assert MctpHeader().encode() == bytes.fromhex("000000c0")
    header = MctpHeader(version=1, destination=8, source=9, tag=5, tag_owner=1, packet_sequence=2, end=0)
    assert header.encode() == bytes([0x01, 8, 9, 0b1_0_10_1_101])
    assert MctpHeader.decode(header.encode()) == header
