"""What a device is made with: its names, its firmware, and from them its certificates and measurements.

Measurement blocks follow DSP0274 ("DMTF measurement specification"), the leaf certificate CMA and DICE. Left out: an
alias certificate that the firmware issues itself, so an update at run time leaves the certified firmware identity as it
was.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from teeio.attestation.device_mode import DebugMode, DeviceMode, OperationalMode
from teeio.crypto.algorithms import BaseAsym, BaseHash
from teeio.crypto.certificates import Authority, DeviceIdentity, DeviceInfo, Fwid, PciIdentity, TcbInfo, Validity
from teeio.crypto.entropy import Entropy
from teeio.crypto.kdf import digest
from teeio.spdm.device_state import Identity, Measured, Slot
from teeio.spdm.messages import DeviceClass, LogEntry, MeasurementType, StandardsBody, SubordinateId

IDENTITIES = {BaseAsym.ECDSA_P384: BaseHash.SHA_384, BaseAsym.ECDSA_P256: BaseHash.SHA_256}
"""The signature algorithms that a device has an identity for, each with the hash of its certificates."""

LOG_INDEX = 0x06
"""Index of the block that the measurement extension log extends."""
RAW = 0x80
"""The raw bit of a log entry's type."""
SVN_INDEX = 0x10
MANIFEST_INDEX = 0xFD
DEVICE_MODE_INDEX = 0xFE
"""Indices that DSP0274 and common practice give to these blocks."""

NO_DEBUG = DebugMode(0)

DAY = 86_400
LIFETIME = 3650 * DAY


@dataclass(frozen=True, slots=True)
class Firmware:
    """The contents that are measured; `svn` is the security version number."""

    rom: bytes = b"accelerator boot ROM, mask revision A1"
    image: bytes = b"accelerator firmware 2.4.1"
    hardware_configuration: bytes = b"fuses: production, secure boot on, 1 PF, debug port locked"
    firmware_configuration: bytes = b"settings: measured boot, telemetry on, peer-to-peer off"
    version: str = "2.4.1"
    svn: int = 7


@dataclass(frozen=True, slots=True)
class Manufacture:
    """What the manufacturer gives a device: names, PCI identifiers and firmware."""

    info: DeviceInfo = field(default_factory=lambda: DeviceInfo("teeio", "accelerator", "000001"))
    pci: PciIdentity = field(
        default_factory=lambda: PciIdentity(
            vendor=0x7EE0, device=0x10A0, class_code=0x120000, revision=1, subsystem_vendor=0x7EE0, subsystem_device=1
        )
    )
    firmware: Firmware = field(default_factory=Firmware)

    def tcb(self, base_hash: BaseHash) -> TcbInfo:
        """Give what DICE's TcbInfo says of the firmware."""
        return TcbInfo(
            fwids=(Fwid.of(base_hash, digest(base_hash, self.firmware.image)),),
            svn=self.firmware.svn,
            layer=0,
            vendor=self.info.manufacturer,
            model=self.info.product,
        )


@dataclass(frozen=True, slots=True)
class Manufacturer:
    """A manufacturer's certification authorities, root and issuing, for each signature algorithm.

    It certifies devices and publishes what verifiers need: roots and revocation lists.
    """

    chains: Mapping[BaseAsym, tuple[Authority, Authority]]
    entropy: Entropy = field(repr=False)
    since: float
    _published: dict[tuple[int, tuple[bytes, ...]], tuple[bytes, ...]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    @classmethod
    def found(cls, info: DeviceInfo, entropy: Entropy, now: float) -> Manufacturer:
        """Make the authorities for a product; they are valid from a day before `now` (seconds since 1970 UTC)."""
        since = int(now) - DAY
        validity = Validity(since, since + LIFETIME)
        chains = {}
        for algorithm, base_hash in IDENTITIES.items():
            root = Authority.root(f"{info.manufacturer} root CA", algorithm, base_hash, entropy, validity)
            chains[algorithm] = (root, root.subordinate(f"{info.manufacturer} {info.product} CA", entropy, validity))
        return cls(chains, entropy, since)

    @property
    def roots(self) -> tuple[bytes, ...]:
        """The root certificates, DER."""
        return tuple(root.path[0] for root, _ in self.chains.values())

    def revocation_lists(self, now: float, revoked: Sequence[bytes] = ()) -> tuple[bytes, ...]:
        """Publish the revocation lists of the day that is `now`, good for a week more; `revoked` are DER certificates.

        They are valid from the day before, for clocks that are slow, and signed anew when the day or what is revoked is another,
        with a higher CRLNumber (RFC 5280 section 5.2.3).
        """
        day = int(now) // DAY * DAY
        published = self._published.get((day, tuple(revoked)))
        if published is None:
            validity = Validity(day - DAY, day + 8 * DAY)
            authorities = [authority for chain in self.chains.values() for authority in chain]
            published = tuple(authority.revoke(list(revoked), int(now), validity) for authority in authorities)
            self._published.clear()
            self._published[day, tuple(revoked)] = published
        return published

    def certify(self, manufacture: Manufacture) -> dict[BaseAsym, Identity]:
        """Give a device its identities, each in slot 0."""
        return {algorithm: self._certify(manufacture, algorithm) for algorithm in self.chains}

    def _certify(self, manufacture: Manufacture, algorithm: BaseAsym) -> Identity:
        issuer = self.chains[algorithm][1]
        made = DeviceIdentity.issue(
            issuer,
            manufacture.info,
            self.entropy,
            Validity(self.since, self.since + LIFETIME),
            pci=manufacture.pci,
            tcb=manufacture.tcb(issuer.base_hash),
        )
        return Identity({0: Slot(made.path, made.key)})


def measured(manufacture: Manufacture, debug: DebugMode = NO_DEBUG, log: Sequence[LogEntry] = ()) -> list[Measured]:
    """List what a device measures; `debug` is its debug state, `log` its measurement extension log, if it keeps one."""
    firmware = manufacture.firmware
    kind = MeasurementType
    return [
        Measured(1, kind.IMMUTABLE_ROM, firmware.rom),
        Measured(2, kind.MUTABLE_FIRMWARE, firmware.image),
        Measured(3, kind.HARDWARE_CONFIGURATION, firmware.hardware_configuration, in_tcb=False),
        Measured(4, kind.FIRMWARE_CONFIGURATION, firmware.firmware_configuration),
        Measured(5, kind.VERSION, firmware.version.encode(), always_raw=True),
        Measured(SVN_INDEX, kind.SECURE_VERSION_NUMBER, firmware.svn.to_bytes(8, "little"), always_raw=True),
        Measured(MANIFEST_INDEX, kind.MANIFEST, _manifest(manufacture), always_raw=True, in_tcb=False),
        Measured(DEVICE_MODE_INDEX, kind.DEVICE_MODE, device_mode(debug).encode(), always_raw=True),
        *([Measured(LOG_INDEX, kind.HASH_EXTEND, b"".join(entry.encode() for entry in log))] if log else []),
    ]


def measurement_log(manufacture: Manufacture) -> list[LogEntry]:
    """List what the boot code extended measurement `LOG_INDEX` with, in order: the stages that it ran, with their versions."""
    firmware = manufacture.firmware
    informational = MeasurementType.INFORMATIONAL | RAW
    stages = [
        (informational, b"boot ROM"),
        (informational, b"firmware " + firmware.version.encode()),
        (MeasurementType.VERSION | RAW, firmware.version.encode()),
        (MeasurementType.SECURE_VERSION_NUMBER | RAW, firmware.svn.to_bytes(8, "little")),
    ]
    return [
        LogEntry(mel_index=at, measurement_index=LOG_INDEX, type=kind, value=value)
        for at, (kind, value) in enumerate(stages, 1)
    ]


def changes(before: Sequence[Measured], now: Sequence[Measured]) -> bytes:
    """Give the detail of the event MeasurementChanged: 256 bits, of which those of changed blocks are set.

    UNCONFIRMED: that bit n stands for the block with index n; no reference says it.
    """
    old, new = ({item.index: item.content for item in items} for items in (before, now))
    changed = [index for index in old.keys() | new.keys() if old.get(index) != new.get(index)]
    return sum(1 << index for index in changed).to_bytes(32, "little")


def device_class(manufacture: Manufacture) -> DeviceClass:
    """Give the device class identifier: PCI-SIG's vendor id, and below it device id, class code and revision.

    UNCONFIRMED: which subordinate identifiers PCI-SIG wants; these are the ones that its configuration header has.
    """
    pci = manufacture.pci
    parts = ((pci.device, 2), (pci.class_code, 3), (pci.revision, 1))
    return DeviceClass(
        registry=StandardsBody.PCI_SIG,
        vendor=pci.vendor.to_bytes(2, "little"),
        subordinates=tuple(SubordinateId(identifier=value.to_bytes(size, "little")) for value, size in parts),
    )


def _manifest(manufacture: Manufacture) -> bytes:
    components = {"1": "boot ROM", "2": "firmware", "3": "fuses and straps", "4": "firmware settings"}
    return json.dumps({"device": str(manufacture.info), "components": components}, separators=(",", ":")).encode()


def device_mode(debug: DebugMode) -> DeviceMode:
    """Give the device mode: normal operation, all debug states reported."""
    every = DebugMode(sum(DebugMode))
    return DeviceMode(
        operational_capabilities=OperationalMode.NORMAL | OperationalMode.RECOVERY,
        operational_state=OperationalMode.NORMAL,
        debug_capabilities=every,
        debug_state=debug,
    )
