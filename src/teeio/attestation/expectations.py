"""What the verifier expects besides reference values: anchors, a floor of algorithms, identity, mappings.

Whatever is None is not known to the verifier: the rules that need it answer "unchecked", never "pass".
"""

from __future__ import annotations

from dataclasses import dataclass, field

from teeio.attestation.freshness import NonceRegistry
from teeio.crypto.algorithms import Aead, BaseAsym, BaseHash, Dhe, MeasurementHash
from teeio.crypto.certificates import CertificateModel, DeviceInfo, PciIdentity
from teeio.spdm.constants import Version
from teeio.tdisp.messages import LockFlags

_HASHES = (
    BaseHash.SHA_256 | BaseHash.SHA_384 | BaseHash.SHA_512 | BaseHash.SHA3_256 | BaseHash.SHA3_384 | BaseHash.SHA3_512
)
_MEASUREMENT_HASHES = (
    MeasurementHash.SHA_256
    | MeasurementHash.SHA_384
    | MeasurementHash.SHA_512
    | MeasurementHash.SHA3_256
    | MeasurementHash.SHA3_384
    | MeasurementHash.SHA3_512
)
_SIGNATURES = (
    BaseAsym.ECDSA_P256
    | BaseAsym.ECDSA_P384
    | BaseAsym.ECDSA_P521
    | BaseAsym.RSASSA_3072
    | BaseAsym.RSAPSS_3072
    | BaseAsym.RSASSA_4096
    | BaseAsym.RSAPSS_4096
    | BaseAsym.ED25519
    | BaseAsym.ED448
)


@dataclass(frozen=True, slots=True)
class AlgorithmFloor:
    """The algorithms that are good enough, of each kind: about 128 bits of security and more."""

    base_hash: BaseHash = _HASHES
    base_asym: BaseAsym = _SIGNATURES
    measurement_hash: MeasurementHash = _MEASUREMENT_HASHES
    dhe: Dhe = Dhe.FFDHE_3072 | Dhe.FFDHE_4096 | Dhe.SECP256R1 | Dhe.SECP384R1 | Dhe.SECP521R1
    aead: Aead = Aead.AES_128_GCM | Aead.AES_256_GCM | Aead.CHACHA20_POLY1305


@dataclass(frozen=True, slots=True)
class PlacedRange:
    """Private MMIO that the TVM will accept: pages of one BAR, contiguous on both sides.

    `gpa_page` is the guest's page number, `report_page` the page in the numbering of the report that must be behind it;
    `pages` counts 4 KiB pages. Whether it is behind it only the TSM knows, which compares in TDG.MMIO.ACCEPT.
    """

    bar: int
    gpa_page: int
    report_page: int
    pages: int


@dataclass(frozen=True, slots=True)
class RegisterWindow:
    """Registers that the driver trusts: `pages` pages of a BAR.

    UNCONFIRMED: `first_page` counts from the first page that the report gives for the BAR, which is taken as its start.
    """

    bar: int
    first_page: int
    pages: int


@dataclass(frozen=True, slots=True)
class Expectations:
    """What one appraisal expects.

    `anchors` are DER root certificates, `revocation_lists` DER CRLs, `at_time` is seconds since 1970 UTC,
    `bind_session_id` the lock that will be started if the verdict is accept, `registers` what the driver trusts (empty
    if nothing).
    """

    anchors: tuple[bytes, ...]
    at_time: float
    nonces: NonceRegistry
    bind_session_id: int
    slot: int = 0
    model: CertificateModel = CertificateModel.DEVICE
    device: DeviceInfo | None = None
    pci: PciIdentity | None = None
    revocation_lists: tuple[bytes, ...] | None = None
    minimum_version: int = Version.V1_2
    floor: AlgorithmFloor = field(default_factory=AlgorithmFloor)
    required_lock_flags: LockFlags = LockFlags.NO_FW_UPDATE
    mapped: tuple[PlacedRange, ...] | None = None
    registers: tuple[RegisterWindow, ...] | None = None
