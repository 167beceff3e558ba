"""Secured messages (DSP0277): seal and open the records of one direction of a session.

Layout: SessionID u32 | partial sequence number (size by the binding) | Length u16 | ApplicationDataLength u16, data, padding |
tag. The header is associated data. A MAC-only session leaves ApplicationDataLength and padding out and authenticates the data.
"""

from __future__ import annotations

from dataclasses import dataclass

from teeio.crypto.aead import TAG_SIZE, AeadKey
from teeio.crypto.entropy import Entropy
from teeio.errors import AuthenticationFailed, DecodeError, Misuse
from teeio.spdm.binding import Binding
from teeio.spdm.key_schedule import KeySchedule

MAX_SEQUENCE = (1 << 64) - 2

MAX_LENGTH = 0xFFFF
"""Largest Length of a record: data, padding and tag."""


def room(binding: Binding) -> int:
    """Give the largest message that a record holds on any occasion: with the longest padding and the binding's own header."""
    return MAX_LENGTH - TAG_SIZE - 2 - binding.max_random_padding - len(binding.wrap_application(b""))


@dataclass(frozen=True, slots=True)
class RecordHeader:
    """The clear part of a record."""

    session_id: int
    sequence: int
    length: int
    size: int


def record_header(record: bytes, binding: Binding) -> RecordHeader:
    """Read the header. Raises `DecodeError` unless the record is all there; transport padding may follow it."""
    size = 6 + binding.sequence_number_size
    if len(record) < size + TAG_SIZE:
        raise DecodeError("SecuredMessage", "header", 0, f"needs {size + TAG_SIZE} bytes, has {len(record)}")
    length = int.from_bytes(record[size - 2 : size], "little")
    after = len(record) - size - length
    if length < TAG_SIZE or not 0 <= after <= binding.max_transport_padding:
        raise DecodeError("SecuredMessage", "length", size - 2, f"says {length}, {len(record) - size} bytes follow")
    return RecordHeader(
        int.from_bytes(record[:4], "little"), int.from_bytes(record[4 : size - 2], "little"), length, size
    )


class RecordKey:
    """The key of one direction, with its sequence number (DSP0277: starts at 0 with every new key, is never reused)."""

    __slots__ = ("_aead", "_iv", "_schedule", "secret", "sequence")

    def __init__(self, schedule: KeySchedule, secret: bytes) -> None:
        traffic = schedule.traffic(secret)
        self._schedule = schedule
        self._aead = AeadKey(schedule.aead, traffic.key)
        self._iv = int.from_bytes(traffic.iv, "little")
        self.secret = secret
        self.sequence = 0

    def updated(self) -> RecordKey:
        """Give the key that KEY_UPDATE derives from this one."""
        return RecordKey(self._schedule, self._schedule.updated(self.secret))

    def _nonce(self) -> bytes:
        # The sequence number is little-endian (DSP0277 1.2) and so meets the first eight bytes of the IV.
        return (self._iv ^ self.sequence).to_bytes(12, "little")

    def seal(
        self,
        session_id: int,
        message: bytes,
        binding: Binding,
        entropy: Entropy,
        *,
        encrypted: bool = True,
        application: bool = False,
    ) -> bytes:
        """Protect an SPDM message, or with `application` application data as it is, and step the sequence number.

        Raises `Misuse` when the numbers are used up.
        """
        if self.sequence > MAX_SEQUENCE:
            raise Misuse("the session's sequence numbers are used up", remedy="update the keys or start a new session")
        data = message if application else binding.wrap_application(message)
        if len(message) > room(binding):
            raise Misuse(
                f"a record holds a message of {room(binding)} bytes at most", remedy="negotiate chunks, or send less"
            )
        if encrypted:
            data = len(data).to_bytes(2, "little") + data + self._padding(binding, entropy)
        size = binding.sequence_number_size
        head = session_id.to_bytes(4, "little") + self.sequence.to_bytes(8, "little")[:size]
        head += (len(data) + TAG_SIZE).to_bytes(2, "little")
        nonce = self._nonce()
        self.sequence += 1
        if encrypted:
            return head + self._aead.seal(nonce, data, head)
        return head + data + self._aead.seal(nonce, b"", head + data)

    @staticmethod
    def _padding(binding: Binding, entropy: Entropy) -> bytes:
        if not binding.max_random_padding:
            return b""
        return entropy(1 + entropy(1)[0] % binding.max_random_padding)

    def open(self, record: bytes, binding: Binding, *, encrypted: bool = True) -> bytes:
        """Give the SPDM message of a record and step the sequence number; on failure the number stays.

        Raises `DecodeError` for a malformed record and `AuthenticationFailed` for a wrong sequence number or tag.
        """
        header = record_header(record, binding)
        expected = int.from_bytes(self.sequence.to_bytes(8, "little")[: binding.sequence_number_size], "little")
        if header.sequence != expected:
            raise AuthenticationFailed(f"record carries sequence number {header.sequence}, expected {expected}")
        head, body = record[: header.size], record[header.size : header.size + header.length]
        data = self._open(head, body, encrypted)
        self.sequence += 1
        return binding.unwrap_application(data)

    def _open(self, head: bytes, body: bytes, encrypted: bool) -> bytes:
        if not encrypted:
            data, tag = body[:-TAG_SIZE], body[-TAG_SIZE:]
            self._aead.open(self._nonce(), tag, head + data)
            return data
        plain = self._aead.open(self._nonce(), body, head)
        size = int.from_bytes(plain[:2], "little")
        if len(plain) < 2 or size > len(plain) - 2:
            raise DecodeError("SecuredMessage", "application_data_length", 0, f"says {size} of {len(plain)} bytes")
        return plain[2 : 2 + size]

    def __repr__(self) -> str:
        return f"RecordKey(***, sequence={self.sequence})"
