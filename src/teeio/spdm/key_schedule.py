"""The SPDM key schedule (DSP0274, "Key schedule"): from the shared secret to the keys of each direction."""

from __future__ import annotations

from dataclasses import dataclass, field

from teeio.crypto.algorithms import Aead, BaseHash
from teeio.crypto.kdf import digest, expand, extract, mac
from teeio.spdm.constants import Version

IV_SIZE = 12


def bin_concat(version: int, length: int, label: str, context: bytes = b"") -> bytes:
    """Give BinConcat(length, version, label, context)."""
    return length.to_bytes(2, "little") + f"spdm{version >> 4}.{version & 0xF} {label}".encode() + context


@dataclass(frozen=True, slots=True)
class HandshakeSecrets:
    """Secrets of the handshake phase."""

    handshake: bytes = field(repr=False)
    request: bytes = field(repr=False)
    response: bytes = field(repr=False)
    request_finished: bytes = field(repr=False)
    response_finished: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class DataSecrets:
    """Secrets of the application phase."""

    master: bytes = field(repr=False)
    request: bytes = field(repr=False)
    response: bytes = field(repr=False)
    export_master: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class TrafficKey:
    """AEAD key and IV of one direction."""

    key: bytes = field(repr=False)
    iv: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class KeySchedule:
    """The schedule of one version, base hash and AEAD."""

    version: int
    base_hash: BaseHash
    aead: Aead

    def _expand(self, secret: bytes, label: str, context: bytes = b"", size: int = 0) -> bytes:
        size = size or self.base_hash.size
        return expand(self.base_hash, secret, bin_concat(self.version, size, label, context), size)

    def handshake(self, shared: bytes, th1: bytes, *, psk: bool = False) -> HandshakeSecrets:
        """Derive from the DHE, KEM or pre-shared secret and the transcript bytes of TH1."""
        size = self.base_hash.size
        # PSK sessions salt with ones from 1.3 on, so that a PSK never acts as a DHE secret.
        salt = b"\xff" * size if psk and self.version >= Version.V1_3 else bytes(size)
        secret = extract(self.base_hash, salt, shared)
        th1_hash = digest(self.base_hash, th1)
        request = self._expand(secret, "req hs data", th1_hash)
        response = self._expand(secret, "rsp hs data", th1_hash)
        return HandshakeSecrets(
            secret, request, response, self._expand(request, "finished"), self._expand(response, "finished")
        )

    def data(self, handshake: bytes, th2: bytes) -> DataSecrets:
        """Derive from the handshake secret and the transcript bytes of TH2."""
        salt = self._expand(handshake, "derived")
        master = extract(self.base_hash, salt, bytes(self.base_hash.size))
        th2_hash = digest(self.base_hash, th2)
        return DataSecrets(
            master,
            self._expand(master, "req app data", th2_hash),
            self._expand(master, "rsp app data", th2_hash),
            self._expand(master, "exp master", th2_hash),
        )

    def traffic(self, secret: bytes) -> TrafficKey:
        """Derive key and IV of a direction's secret."""
        return TrafficKey(
            self._expand(secret, "key", size=self.aead.key_size), self._expand(secret, "iv", size=IV_SIZE)
        )

    def updated(self, secret: bytes) -> bytes:
        """Derive the next data secret of a direction (KEY_UPDATE)."""
        return self._expand(secret, "traffic upd")

    def verify_data(self, finished_key: bytes, transcript: bytes) -> bytes:
        """Give ResponderVerifyData or RequesterVerifyData over `transcript`."""
        return mac(self.base_hash, finished_key, digest(self.base_hash, transcript))
