"""What a responder answers from: its identities and its measurements."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import IntFlag

from teeio.crypto.algorithms import BaseHash, MeasurementHash
from teeio.crypto.certificates import CertificateModel, DeviceIdentity, chain_structure
from teeio.crypto.kdf import digest
from teeio.crypto.keys import Asym, SigningKey
from teeio.spdm.constants import PUBLIC_KEY_SLOT, Capability, SummaryType
from teeio.spdm.messages import Log, LogEntry, MeasurementBlock, MeasurementType
from teeio.spdm.public_keys import key_hash


class KeyUsage(IntFlag):
    """KeyUsageMask: what a key may be used for (DSP0274 1.3 DIGESTS)."""

    KEY_EXCHANGE = 1 << 0
    CHALLENGE = 1 << 1
    MEASUREMENT = 1 << 2
    ENDPOINT_INFO = 1 << 3
    STANDARDS = 1 << 14
    VENDOR = 1 << 15


@dataclass(frozen=True, slots=True)
class Slot:
    """A certificate slot: DER certificates from the root to the leaf, and the leaf's private key.

    The slot of a provisioned public key (0xFF, PUB_KEY_ID) has no certificates.
    In the Alias model `device_key` signs the leaf: with it SET_CERTIFICATE can replace what stands above (see `alias`).
    `key_pair_id` and `model` are told on multi-key connections only; 0 where the key has no number (see `provisioning`).
    """

    certificates: tuple[bytes, ...]
    key: SigningKey
    key_pair_id: int = 0
    model: CertificateModel = CertificateModel.DEVICE
    device_key: SigningKey | None = None

    @classmethod
    def of(cls, made: DeviceIdentity) -> Slot:
        """Give the slot of a device's identity."""
        model = CertificateModel.DEVICE if made.device_key is None else CertificateModel.ALIAS
        return cls(made.path, made.key, model=model, device_key=made.device_key)

    def chain(self, base_hash: BaseHash) -> bytes:
        """Give the SPDM certificate chain structure."""
        return chain_structure(self.certificates[0], list(self.certificates[1:]), base_hash)

    def chain_hash(self, base_hash: BaseHash) -> bytes:
        """Give the hash that stands for the slot: of its certificate chain structure, or of its public key."""
        return digest(base_hash, self.chain(base_hash)) if self.certificates else key_hash(base_hash, self.key.public)


@dataclass(frozen=True, slots=True)
class Identity:
    """The slots that are there for one signature algorithm."""

    slots: Mapping[int, Slot]

    @classmethod
    def of_public_key(cls, key: SigningKey) -> Identity:
        """Give the identity of a side whose peer knows its public key beforehand (PUB_KEY_ID)."""
        return cls({PUBLIC_KEY_SLOT: Slot((), key)})

    def suits(self, flags: Capability) -> bool:
        """Tell whether this is what capability flags promise: the one public key with PUB_KEY_ID, else chains."""
        return (PUBLIC_KEY_SLOT in self.slots) is bool(flags & Capability.PUB_KEY_ID)

    @property
    def algorithm(self) -> Asym:
        """The signature algorithm of all slots."""
        return next(iter(self.slots.values())).key.algorithm

    @property
    def slot_mask(self) -> int:
        """ProvisionedSlotMask; a provisioned public key has no bit."""
        return sum(1 << slot for slot in self.slots if slot != PUBLIC_KEY_SLOT)


def identity_for(identities: Iterable[Identity], algorithm: Asym, flags: Capability) -> Identity | None:
    """Give the identity of a signature algorithm that suits the side's capability flags, or None."""
    # Flags of different kinds are equal as integers, so the kind is compared too.
    for identity in identities:
        same = type(identity.algorithm) is type(algorithm) and identity.algorithm == algorithm
        if same and identity.suits(flags):
            return identity
    return None


@dataclass(frozen=True, slots=True)
class Measured:
    """One thing that a device measures: its raw `content`, reported as a digest unless `always_raw` or raw is asked for."""

    index: int
    type: MeasurementType
    content: bytes
    always_raw: bool = False
    in_tcb: bool = True


@dataclass(slots=True)
class DeviceMeasurements:
    """The measurements of a device; change `measured` and the next answer shows it.

    `log` is the measurement extension log; what it extends is a measurement of type HASH_EXTEND with the same index. Before the
    time `ready_at` the device is still measuring: a responder says so with ResponseNotReady.
    """

    measured: list[Measured] = field(default_factory=list)
    log: list[LogEntry] = field(default_factory=list)
    ready_at: float = 0.0

    def blocks(self, algorithm: MeasurementHash, *, raw: bool = False) -> list[MeasurementBlock]:
        """Give all blocks in index order, digests by `algorithm`."""
        return [self._block(item, algorithm, raw) for item in sorted(self.measured, key=lambda item: item.index)]

    def _block(self, item: Measured, algorithm: MeasurementHash, raw: bool) -> MeasurementBlock:
        hashing = algorithm not in (MeasurementHash(0), MeasurementHash.RAW_ONLY)
        if item.type is MeasurementType.HASH_EXTEND and hashing:
            return MeasurementBlock(
                index=item.index, type=item.type, value=extended(self.log, item.index, algorithm.base_hash)
            )
        if raw or item.always_raw or algorithm in (MeasurementHash(0), MeasurementHash.RAW_ONLY):
            return MeasurementBlock(index=item.index, type=item.type, raw=1, value=item.content)
        return MeasurementBlock(index=item.index, type=item.type, value=digest(algorithm.base_hash, item.content))

    def extension_log(self) -> bytes:
        """Give the measurement extension log as GET_MEASUREMENT_EXTENSION_LOG reads it."""
        size = sum(len(entry.encode()) for entry in self.log)
        return Log(entries_length=size, entries=tuple(self.log)).encode()

    def summary(self, kind: int, algorithm: MeasurementHash, base_hash: BaseHash) -> bytes:
        """Give the measurement summary hash over the blocks of the TCB or over all."""
        tcb = {item.index for item in self.measured if item.in_tcb}
        blocks = self.blocks(algorithm)
        wanted: Iterable[MeasurementBlock] = blocks
        if kind == SummaryType.TCB:
            wanted = [block for block in blocks if block.index in tcb]
        return digest(base_hash, b"".join(block.encode() for block in wanted))


def extended(log: Iterable[LogEntry], index: int, base_hash: BaseHash) -> bytes:
    """Give the hash-extend measurement `index` of a log: from zero bytes, hash the value so far with each whole entry.

    As the DMTF reference's sample computes it (UNCONFIRMED in DSP0274's text).
    """
    value = bytes(base_hash.size)
    for entry in log:
        if entry.measurement_index == index:
            value = digest(base_hash, value + entry.encode())
    return value
