"""Evidence to judge: good as it stands, and spoiled by the tests one thing at a time."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

from teeio.attestation import (
    Evidence,
    Expectations,
    NonceRegistry,
    Outcome,
    PlacedRange,
    Policy,
    ReferenceValues,
    RegisterWindow,
    TsmStatement,
    Verdict,
    measurement_object,
)
from teeio.attestation.device_mode import DebugMode, DeviceMode, OperationalMode
from teeio.crypto.algorithms import (
    P384_SUITE,
    BaseAsym,
    BaseHash,
    MeasurementSpecification,
    Suite,
)
from teeio.crypto.certificates import (
    Authority,
    DeviceIdentity,
    DeviceInfo,
    Fwid,
    OperationalFlags,
    PciIdentity,
    TcbInfo,
    Validity,
    leaf_public_key,
)
from teeio.crypto.entropy import SeededEntropy
from teeio.crypto.kdf import digest
from teeio.crypto.keys import public_key_der
from teeio.spdm.constants import Capability
from teeio.spdm.messages import (
    Algorithms,
    AlgorithmTable,
    AlgType,
    Capabilities,
    Facts,
    GetCapabilities,
    GetMeasurements,
    GetVersion,
    MeasurementBlock,
    Measurements,
    MeasurementType,
    NegotiateAlgorithms,
    VersionResponse,
)
from teeio.spdm.transcript import MEASUREMENTS_CONTEXT, signing_message
from teeio.tdisp.messages import (
    DeviceInterfaceReport,
    InterfaceInfo,
    InterfaceState,
    LockFlags,
    MmioRange,
    RangeAttributes,
)

NOW = 1_750_000_000.0
VALIDITY = Validity(1_700_000_000, 2_000_000_000)
WINDOW = Validity(NOW - 1000, NOW + 1000)
DEVICE = DeviceInfo("ACME", "WIDGET", "0001")
PCI = PciIdentity(0x1B36, 0x0010, 0x010802, 2, 0x1AF4, 0x1100, serial=0x11)
ENTROPY = SeededEntropy(b"attestation")
FIRMWARE = b"firmware 7"
NO_FLAGS = OperationalFlags(0)
LOCK = 0x7700_0001
SHA_384 = BaseHash.SHA_384


@cache
def vendor(suite: Suite) -> tuple[Authority, Authority]:
    root = Authority.root("ACME root", suite.base_asym, suite.base_hash, ENTROPY, VALIDITY)
    return root, root.subordinate("ACME CA", ENTROPY, VALIDITY)


@cache
def revocation_lists(suite: Suite) -> tuple[bytes, ...]:
    return tuple(authority.revoke([], 1, WINDOW) for authority in vendor(suite))


@cache
def identity_of(
    suite: Suite, device: DeviceInfo = DEVICE, pci: PciIdentity | None = PCI, tcb: TcbInfo | None = None
) -> DeviceIdentity:
    return DeviceIdentity.issue(vendor(suite)[1], device, ENTROPY, VALIDITY, pci=pci, tcb=tcb)


def tcb_of(suite: Suite, firmware: bytes = FIRMWARE, flags: OperationalFlags = NO_FLAGS) -> TcbInfo:
    return TcbInfo(fwids=(Fwid.of(suite.base_hash, digest(suite.base_hash, firmware)),), flags=flags)


def good_blocks(suite: Suite) -> list[MeasurementBlock]:
    def digest_block(index: int, content: bytes) -> MeasurementBlock:
        value = digest(suite.measurement_hash.base_hash, content)
        return MeasurementBlock(index=index, type=MeasurementType(index - 1), value=value)

    mode = DeviceMode(
        operational_capabilities=OperationalMode.NORMAL | OperationalMode.RMA,
        operational_state=OperationalMode.NORMAL,
        debug_capabilities=DebugMode(0x1F),
        debug_state=DebugMode.INVASIVE_DEBUG_SINCE_MANUFACTURING,
    )
    return [
        digest_block(1, b"rom"),
        digest_block(2, FIRMWARE),
        digest_block(3, b"straps"),
        digest_block(4, b"settings"),
        raw_block(0x10, MeasurementType.SECURE_VERSION_NUMBER, (7).to_bytes(8, "little")),
        raw_block(0xFD, MeasurementType.MANIFEST, b"manifest"),
        raw_block(0xFE, MeasurementType.DEVICE_MODE, mode.encode()),
    ]


def raw_block(index: int, kind: MeasurementType, value: bytes) -> MeasurementBlock:
    return MeasurementBlock(index=index, type=kind, raw=1, value=value)


def mmio(bar: int, first_page: int, pages: int, attributes: RangeAttributes = RangeAttributes.NONE) -> MmioRange:
    return MmioRange(first_page=first_page, pages=pages, attributes=attributes, range_id=bar)


GOOD_TCB = tcb_of(P384_SUITE)
GOOD = identity_of(P384_SUITE, tcb=GOOD_TCB)
OBJECTS = ("certificate_chain", "vca", "measurements", "report")


@dataclass
class Scene:
    """Everything that good evidence is made of; a defect changes something before the evidence is built, or after."""

    suite: Suite = P384_SUITE
    version: int = 0x12
    versions: tuple[int, ...] = (0x1100, 0x1200, 0x1300)
    identity: DeviceIdentity | None = None
    signer: DeviceIdentity | None = None
    blocks: list[MeasurementBlock] = field(default_factory=list)
    reference: ReferenceValues = field(default_factory=ReferenceValues)
    selection: dict[str, Any] = field(default_factory=dict)
    request: dict[str, Any] = field(default_factory=dict)
    response: dict[str, Any] = field(default_factory=dict)
    report: dict[str, Any] = field(default_factory=dict)
    statement: dict[str, Any] = field(default_factory=dict)
    evidence: dict[str, Any] = field(default_factory=dict)
    expectations: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.identity = self.identity or identity_of(self.suite, tcb=tcb_of(self.suite))
        self.blocks = self.blocks or good_blocks(self.suite)
        if not self.reference.values:
            self.reference = ReferenceValues.of_blocks(self.blocks, self.suite.measurement_hash, minimum_svn=7)
        self.nonces = NonceRegistry(SeededEntropy(b"nonces"))
        self.nonce = self.nonces.issue(NOW - 10)

    def vca(self) -> bytes:
        first, facts = Facts(version=0x10), Facts(version=self.version)
        kinds = {AlgType.DHE: self.suite.dhe, AlgType.AEAD: self.suite.aead, AlgType.KEY_SCHEDULE: 1}
        tables = tuple(AlgorithmTable(alg_type=kind, supported=int(value)) for kind, value in kinds.items())
        offer = NegotiateAlgorithms(
            measurement_specification=MeasurementSpecification.DMTF,
            base_asym=BaseAsym.ECDSA_P256 | BaseAsym.ECDSA_P384 | BaseAsym.RSASSA_2048,
            base_hash=BaseHash.SHA_256 | BaseHash.SHA_384,
            tables=tables,
        )
        selection = {
            "measurement_specification": 1,
            "measurement_hash": self.suite.measurement_hash,
            "base_asym": self.suite.base_asym,
            "base_hash": self.suite.base_hash,
            "tables": tables,
            **self.selection,
        }
        messages = [
            GetVersion().encode(first),
            VersionResponse(entries=self.versions).encode(first),
            GetCapabilities(flags=Capability.CERT | Capability.MAC).encode(facts),
            Capabilities(flags=Capability.CERT | Capability.MEAS_SIG).encode(facts),
            offer.encode(facts),
            Algorithms(**selection).encode(facts),
        ]
        return b"".join(messages)

    def measurements(self, vca: bytes) -> bytes:
        size = self.suite.base_asym.signature_size
        facts = Facts(version=self.version, hash_size=self.suite.base_hash.size, signature_size=size)
        request = GetMeasurements(**{"signature_requested": 1, "operation": 0xFF, "nonce": self.nonce, **self.request})
        record = b"".join(block.encode() for block in self.blocks)
        response = Measurements(
            **{"block_count": len(self.blocks), "record": record, "nonce": bytes(32), **self.response}
        )
        transcript = request.encode(facts) + response.encode(facts._replace(signed=False))
        if self.version >= 0x12:
            transcript = vca + transcript
        signer = self.signer or self.identity
        assert signer is not None
        message = signing_message(self.version, MEASUREMENTS_CONTEXT, transcript, self.suite.base_hash)
        signature = signer.key.sign(message, self.suite.base_hash)
        return measurement_object(transcript, vca, signature, self.version)

    def interface_report(self) -> bytes:
        fields = {
            "info": InterfaceInfo.NO_FW_UPDATE_WHILE_LOCKED | InterfaceInfo.DMA_WITHOUT_PASID,
            "ranges": (
                mmio(0, 0xD0000, 4),
                mmio(0, 0xD0004, 2, RangeAttributes.IS_NON_TEE_MEM),
                mmio(0, 0xD0006, 2),
                mmio(2, 0xD0100, 16),
            ),
            "device_specific": b"vendor data",
            **self.report,
        }
        return DeviceInterfaceReport(**fields).encode()

    def build(self) -> tuple[Evidence, ReferenceValues, Expectations]:
        assert self.identity is not None
        vca = self.vca()
        objects: dict[str, Any] = {
            "certificate_chain": self.identity.chain,
            "vca": vca,
            "measurements": self.measurements(vca),
            "report": self.interface_report(),
        }
        stated = {
            "state": InterfaceState.CONFIG_LOCKED,
            "bind_session_id": LOCK,
            "lock_flags": LockFlags.NO_FW_UPDATE,
            "mmio_reporting_offset": 0xD000_0000,
            "public_key_hash": digest(SHA_384, public_key_der(leaf_public_key(self.identity.leaf))),
            **{f"{name}_digest": digest(SHA_384, data) for name, data in objects.items()},
            **self.statement,
        }
        evidence = Evidence(
            **{
                **objects,
                "slot": 0,
                "nonce": self.nonce,
                "bind_session_id": LOCK,
                "statement": TsmStatement(**stated),
                **self.evidence,
            }
        )
        return evidence, self.reference, Expectations(**{**self.expected(), **self.expectations})

    def expected(self) -> dict[str, Any]:
        return {
            "anchors": (vendor(self.suite)[0].path[0],),
            "at_time": NOW,
            "nonces": self.nonces,
            "bind_session_id": LOCK,
            "device": DEVICE,
            "pci": PCI,
            "revocation_lists": revocation_lists(self.suite),
            "mapped": (
                PlacedRange(0, 0x80000, 0xD0000, 1),
                PlacedRange(0, 0x80001, 0xD0001, 3),
                PlacedRange(0, 0x80006, 0xD0006, 2),
                PlacedRange(2, 0x90000, 0xD0100, 16),
            ),
            "registers": (RegisterWindow(0, 0, 4), RegisterWindow(2, 8, 8)),
        }

    def verdict(self, policy: Policy | None = None) -> Verdict:
        return (policy or Policy()).appraise(*self.build())

    def at(self, index: int) -> int:
        return next(at for at, block in enumerate(self.blocks) if block.index == index)

    def change(self, index: int, **fields: Any) -> None:
        self.blocks[self.at(index)] = replace(self.blocks[self.at(index)], **fields)


def outcomes(verdict: Verdict, outcome: Outcome) -> set[str]:
    return {result.rule.id for result in verdict.results if result.outcome is outcome}
