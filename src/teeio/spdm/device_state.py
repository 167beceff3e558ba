"""What a responder answers from: its identities and its measurements."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from teeio.crypto.algorithms import BaseHash, MeasurementHash
from teeio.crypto.certificates import chain_structure
from teeio.crypto.kdf import digest
from teeio.crypto.keys import Asym, SigningKey
from teeio.spdm.constants import SummaryType
from teeio.spdm.messages import MeasurementBlock, MeasurementType


@dataclass(frozen=True, slots=True)
class Slot:
    """A certificate slot: DER certificates from the root to the leaf, and the leaf's private key."""

    certificates: tuple[bytes, ...]
    key: SigningKey

    def chain(self, base_hash: BaseHash) -> bytes:
        """Give the SPDM certificate chain structure."""
        return chain_structure(self.certificates[0], list(self.certificates[1:]), base_hash)


@dataclass(frozen=True, slots=True)
class Identity:
    """The slots that are there for one signature algorithm."""

    slots: Mapping[int, Slot]

    @property
    def algorithm(self) -> Asym:
        """The signature algorithm of all slots."""
        return next(iter(self.slots.values())).key.algorithm

    @property
    def slot_mask(self) -> int:
        """ProvisionedSlotMask."""
        return sum(1 << slot for slot in self.slots)


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
    """The measurements of a device; change `measured` and the next answer shows it."""

    measured: list[Measured] = field(default_factory=list)

    def blocks(self, algorithm: MeasurementHash, *, raw: bool = False) -> list[MeasurementBlock]:
        """Give all blocks in index order, digests by `algorithm`."""
        return [self._block(item, algorithm, raw) for item in sorted(self.measured, key=lambda item: item.index)]

    @staticmethod
    def _block(item: Measured, algorithm: MeasurementHash, raw: bool) -> MeasurementBlock:
        if raw or item.always_raw or algorithm in (MeasurementHash(0), MeasurementHash.RAW_ONLY):
            return MeasurementBlock(index=item.index, type=item.type, raw=1, value=item.content)
        return MeasurementBlock(index=item.index, type=item.type, value=digest(algorithm.base_hash, item.content))

    def summary(self, kind: int, algorithm: MeasurementHash, base_hash: BaseHash) -> bytes:
        """Give the measurement summary hash over the blocks of the TCB or over all."""
        tcb = {item.index for item in self.measured if item.in_tcb}
        blocks = self.blocks(algorithm)
        wanted: Iterable[MeasurementBlock] = blocks
        if kind == SummaryType.TCB:
            wanted = [block for block in blocks if block.index in tcb]
        return digest(base_hash, b"".join(block.encode() for block in wanted))
