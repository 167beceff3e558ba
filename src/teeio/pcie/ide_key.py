"""The crypto of IDE: the IV rule, the associated data, the PCRC, and a key with its counter (PCIe Base 6.33.5).

Key and IV can never be used twice: an IV exists only inside `KeySlot`, whose counter goes one way and is born with
its key; that no key is installed twice is seen to by the port (`ide_port`).
"""

from __future__ import annotations

import zlib
from enum import Enum
from hmac import compare_digest

from teeio.crypto.aead import TAG_SIZE, AeadKey
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


def initialization_vector(invocation: int) -> bytes:
    """Give the 96-bit IV: fixed field 95:64 zero for every sub-stream, invocation field 63:0 (PCIe Base 6.33.5)."""
    return invocation.to_bytes(12, "big")


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


_READY = SlotState.READY  # asked for with every TLP, where the look into an enumeration would be slow


class KeySlot:
    """A key and its invocation counter: one sub-stream, one direction, one key set."""

    __slots__ = ("_invocation", "_key", "state")

    def __init__(self) -> None:
        self.state = SlotState.EMPTY
        self._key: AeadKey | None = None
        self._invocation = FIRST_INVOCATION

    def install(self, key: bytes) -> None:
        """Take a fresh key of 32 bytes; its first invocation uses IV 1."""
        if len(key) != KEY_SIZE:
            raise Misuse(f"an IDE key has {KEY_SIZE} bytes, not {len(key)}")
        self._key = AeadKey(_SUITE, key)
        self._invocation = FIRST_INVOCATION
        self.state = SlotState.PROGRAMMED

    def erase(self, state: SlotState = SlotState.EMPTY) -> None:
        """Forget the key."""
        self._key = None
        self.state = state

    def _next(self) -> tuple[AeadKey, bytes]:
        # The counter moves before the key is used, so no failure on the way can bring an IV back.
        if self.state is not _READY or self._key is None:
            raise IdeCheckFailed(f"the key slot is {self.state.value}", "PCIe Base 6.33.3")
        invocation = self._invocation
        if invocation >= INVOCATIONS:
            raise IdeCheckFailed("all IVs of the key are used", "PCIe Base 6.33.5", remedy="refresh the keys earlier")
        self._invocation = invocation + 1
        return self._key, initialization_vector(invocation)

    def seal(self, plaintext: bytes, associated: bytes) -> bytes:
        """Encrypt one unit; give ciphertext and the 96-bit MAC, the tag's first bytes."""
        key, iv = self._next()
        return key.seal(iv, plaintext, associated)[_TEXT_AND_MAC]

    def open(self, ciphertext: bytes, mac: bytes, associated: bytes) -> bytes:
        """Decrypt one unit. Raises `IdeCheckFailed`."""
        key, iv = self._next()
        seal = key.seal
        # An AEAD interface wants all 128 bits of a tag. In counter mode sealing the ciphertext gives the plaintext
        # back, and sealing that gives the tag whose first 96 bits to compare. Nothing in Python is faster: a GCM context
        # that takes a short tag costs four such calls, and GMAC beside CTR saves less than it takes to fit the lengths.
        plaintext = seal(iv, ciphertext, None)[_TEXT] if ciphertext else b""
        if not compare_digest(seal(iv, plaintext, associated)[_MAC], mac):
            raise IdeCheckFailed("the MAC does not verify", "PCIe Base 6.33.5")
        return plaintext
