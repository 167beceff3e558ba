"""The crypto of IDE: the IV rule, the associated data, the PCRC, and a key with its counter (PCIe Base 6.33.5).

Key and IV can never be used twice: an IV exists only inside `KeySlot`, whose counter goes one way and is born with
its key; that no key is installed twice is seen to by the port (`ide_port`).
"""

from __future__ import annotations

import struct
import zlib
from enum import Enum
from hmac import compare_digest

from teeio.crypto.aead import TAG_SIZE, AeadKey, Seal
from teeio.crypto.algorithms import Aead
from teeio.errors import Misuse, PeerViolation
from teeio.pcie.tlp import Tlp

KEY_SIZE = 32
MAC_SIZE = 12
PCRC_SIZE = 4
FIRST_INVOCATION = 1
INVOCATIONS = 1 << 64
_SUITE = Aead.AES_256_GCM
_TEXT, _MAC = slice(-TAG_SIZE), slice(-TAG_SIZE, MAC_SIZE - TAG_SIZE)
_TEXT_AND_MAC = slice(MAC_SIZE - TAG_SIZE)
"""Parts of a cipher's output, whose tag is longer than the MAC."""


class IdeCheckFailed(PeerViolation):
    """A rule whose breach makes the stream Insecure."""


class PcrcCheckFailed(PeerViolation):
    """The PCRC of a TLP is missing or wrong; the stream stays Secure."""


class StaleKey(PeerViolation):
    """A TLP under a key set that its sub-stream has left: dropped, the stream stays Secure."""


initialization_vector = struct.Struct(">4xQ").pack
"""Give the 96-bit IV for an invocation: fixed field 95:64 zero for every sub-stream, invocation field 63:0 (PCIe Base 6.33.5).

Raises `struct.error` past the last one. It serves every TLP, and no function of Python's own is as fast.
"""


def associated_data(prefix: bytes, tlp: Tlp) -> bytes:
    """Give a TLP's part of A: IDE prefix, other End-End prefixes, header, in wire order (PCIe Base 6.33.5)."""
    return prefix + tlp.prefixes + tlp.header


def pcrc(plaintext: bytes) -> bytes:
    """Give the PCRC over all of P as it is appended to P (PCIe Base 6.33.5)."""
    return zlib.crc32(plaintext).to_bytes(PCRC_SIZE, "little")


class SlotState(Enum):
    """Life of a key slot; only READY seals and opens."""

    EMPTY = "empty"
    PROGRAMMED = "programmed"
    READY = "ready"
    STOPPED = "stopped"
    RETIRED = "retired"


class KeySlot:
    """A key and its invocation counter: one sub-stream, one direction, one key set."""

    __slots__ = ("_cipher", "_invocation", "_key", "state")

    def __init__(self) -> None:
        self.state = SlotState.EMPTY
        self._key: AeadKey | None = None
        self._cipher: Seal | None = None  # the key's, while it may be used
        self._invocation = FIRST_INVOCATION

    def install(self, key: bytes) -> None:
        """Take a fresh key of 32 bytes; its first invocation uses IV 1."""
        if len(key) != KEY_SIZE:
            raise Misuse(f"an IDE key has {KEY_SIZE} bytes, not {len(key)}")
        self.erase(SlotState.PROGRAMMED)
        self._key = AeadKey(_SUITE, key)
        self._invocation = FIRST_INVOCATION

    def go(self) -> bool:
        """Let the key be used; False if there is none."""
        if self._key is None:
            return False
        self._cipher = self._key.seal
        self.state = SlotState.READY
        return True

    def erase(self, state: SlotState = SlotState.EMPTY) -> None:
        """Forget the key."""
        self._key = self._cipher = None
        self.state = state

    def seal(self, plaintext: bytes, associated: bytes) -> bytes:
        """Encrypt one unit; give ciphertext and the 96-bit MAC, the tag's first bytes. Raises `IdeCheckFailed`."""
        cipher, invocation = self._cipher, self._invocation
        if cipher is None:
            raise self._unusable()
        # The counter moves before the key is used, so no failure on the way can bring an IV back.
        self._invocation = invocation + 1
        try:
            return cipher(initialization_vector(invocation), plaintext, associated)[_TEXT_AND_MAC]
        except struct.error:
            raise _used_up() from None

    def open(self, ciphertext: bytes, mac: bytes, associated: bytes) -> bytes:
        """Decrypt one unit. Raises `IdeCheckFailed`."""
        cipher, invocation = self._cipher, self._invocation
        if cipher is None:
            raise self._unusable()
        self._invocation = invocation + 1
        try:
            iv = initialization_vector(invocation)
        except struct.error:
            raise _used_up() from None
        # An AEAD interface wants all 128 bits of a tag. In counter mode sealing the ciphertext gives the plaintext
        # back, and sealing that gives the tag whose first 96 bits to compare. Nothing in Python is faster: a GCM context
        # that takes a short tag costs four such calls, and GMAC beside CTR saves less than it takes to fit the lengths.
        plaintext = cipher(iv, ciphertext, None)[_TEXT] if ciphertext else b""
        if not compare_digest(cipher(iv, plaintext, associated)[_MAC], mac):
            raise IdeCheckFailed("the MAC does not verify", "PCIe Base 6.33.5")
        return plaintext

    def _unusable(self) -> IdeCheckFailed:
        return IdeCheckFailed(f"the key slot is {self.state.value}", "PCIe Base 6.33.3")


def _used_up() -> IdeCheckFailed:
    return IdeCheckFailed("all IVs of the key are used", "PCIe Base 6.33.5", remedy="refresh the keys earlier")
