"""Secured messages (DSP0277): seal and open the records of one direction of a session.

Layout: SessionID u32 | partial sequence number (size by the binding) | Length u16 | ApplicationDataLength u16, data, padding |
tag. The header is associated data. A MAC-only session leaves ApplicationDataLength and padding out and authenticates the data.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from teeio.crypto.aead import TAG_SIZE, AeadKey
from teeio.crypto.entropy import Entropy
from teeio.errors import AuthenticationFailed, DecodeError, Misuse
from teeio.spdm.binding import Binding
from teeio.spdm.byte_order import ByteOrder
from teeio.spdm.key_schedule import KeySchedule

MAX_RECORDS = (1 << 64) - 1
"""Records that one key may protect unless a side wants fewer: the last sequence number is never used (DSP0277)."""

MIN_RECORDS = 4
"""Fewest records per key that leave room to update it."""

MAX_LENGTH = 0xFFFF
"""Largest Length of a record: data, padding and tag."""


def room(binding: Binding) -> int:
    """Give the largest message that a record and its frame hold on any occasion: with the longest padding and all headers."""
    length = min(MAX_LENGTH, binding.max_message - 6 - binding.sequence_number_size)
    return length - TAG_SIZE - 2 - binding.max_random_padding - len(binding.wrap_application(b""))


class RecordHeader(NamedTuple):
    """The clear part of a record."""

    session_id: int
    sequence: int
    length: int
    size: int


def session_id_of(record: bytes) -> int:
    """Read the session id alone. Raises `DecodeError` if it is cut short."""
    if len(record) < 4:
        raise DecodeError("SecuredMessage", "session_id", 0, f"needs 4 bytes, has {len(record)}")
    return int.from_bytes(record[:4], "little")


def record_header(record: bytes, binding: Binding) -> RecordHeader:
    """Read the header. Raises `DecodeError` unless the record is all there; transport padding may follow it."""
    size = 6 + binding.sequence_number_size
    if len(record) < size + TAG_SIZE:
        raise DecodeError("SecuredMessage", "header", 0, f"needs {size + TAG_SIZE} bytes, has {len(record)}")
    length = int.from_bytes(record[size - 2 : size], "little")
    after = len(record) - size - length
    if length < TAG_SIZE or not 0 <= after <= binding.max_transport_padding:
        raise DecodeError("SecuredMessage", "length", size - 2, f"says {length}, {len(record) - size} bytes follow")
    sequence = int.from_bytes(record[4 : size - 2], "little") if size > 6 else 0
    return RecordHeader(int.from_bytes(record[:4], "little"), sequence, length, size)


@dataclass(slots=True)
class RecordTerms:
    """What all keys of a session have in common: how sequence numbers enter nonces, and how many records a key may protect.

    `order` EITHER becomes the peer's with the first record that can tell: one with another sequence number than 0.
    """

    order: ByteOrder = ByteOrder.LITTLE
    limit: int = MAX_RECORDS


class RecordKey:
    """The key of one direction, with its sequence number (DSP0277: starts at 0 with every new key, is never reused)."""

    __slots__ = ("_aead", "_iv", "_schedule", "_terms", "secret", "sequence")

    def __init__(self, schedule: KeySchedule, secret: bytes, terms: RecordTerms | None = None) -> None:
        traffic = schedule.traffic(secret)
        self._terms = terms or RecordTerms()
        self._schedule = schedule
        self._aead = AeadKey(schedule.aead, traffic.key)
        self._iv = int.from_bytes(traffic.iv, "little")
        self.secret = secret
        self.sequence = 0

    def updated(self) -> RecordKey:
        """Give the key that KEY_UPDATE derives from this one."""
        return RecordKey(self._schedule, self._schedule.updated(self.secret), self._terms)

    @property
    def remaining(self) -> int:
        """How many records this key may still protect."""
        return max(0, self._terms.limit - self.sequence)

    def _nonce(self, *, big: bool = False) -> bytes:
        # Little-endian (DSP0277 1.2) the sequence number meets the first eight bytes of the IV, big-endian the last ones.
        number = int.from_bytes(self.sequence.to_bytes(12, "big"), "little") if big else self.sequence
        return (self._iv ^ number).to_bytes(12, "little")

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

        Raises `Misuse` when the key has protected as many records as it may.
        """
        if not self.remaining:
            raise Misuse(
                f"the key has protected {self.sequence} records and may protect no more (DSP0277)",
                remedy="update the keys or start a new session",
            )
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
        nonce = self._nonce(big=self._terms.order is ByteOrder.BIG)
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

        Raises `DecodeError` for a malformed record and `AuthenticationFailed` for a wrong sequence number or tag, or when the
        key has protected as many records as it may.
        """
        header = record_header(record, binding)
        if self.sequence >= self._terms.limit:
            raise AuthenticationFailed(
                f"the key has protected {self.sequence} records and may protect no more (DSP0277)"
            )
        expected = self.sequence % (1 << 8 * binding.sequence_number_size)
        if header.sequence != expected:
            raise AuthenticationFailed(f"record carries sequence number {header.sequence}, expected {expected}")
        head, body = record[: header.size], record[header.size : header.size + header.length]
        data = self._open(head, body, encrypted)
        self.sequence += 1
        return binding.unwrap_application(data)

    def _open(self, head: bytes, body: bytes, encrypted: bool) -> bytes:
        if not encrypted:
            data, tag = body[:-TAG_SIZE], body[-TAG_SIZE:]
            self._unseal(tag, head + data)
            return data
        plain = self._unseal(body, head)
        size = int.from_bytes(plain[:2], "little")
        if len(plain) < 2 or size > len(plain) - 2:
            raise DecodeError("SecuredMessage", "application_data_length", 0, f"says {size} of {len(plain)} bytes")
        return plain[2 : 2 + size]

    def _unseal(self, sealed: bytes, associated: bytes) -> bytes:
        order = self._terms.order
        if order is not ByteOrder.EITHER:
            return self._aead.open(self._nonce(big=order is ByteOrder.BIG), sealed, associated)
        # A side that takes up the other order repeats no nonce: below 2^32 records the two meet different bytes of the IV.
        try:
            plain, seen = self._aead.open(self._nonce(), sealed, associated), ByteOrder.LITTLE
        except AuthenticationFailed:
            plain, seen = self._aead.open(self._nonce(big=True), sealed, associated), ByteOrder.BIG
        if self.sequence:
            self._terms.order = seen
        return plain

    def __repr__(self) -> str:
        return f"RecordKey(***, sequence={self.sequence})"
