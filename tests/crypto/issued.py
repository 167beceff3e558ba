"""An authority, what it issues, and what validation finds in it."""

from __future__ import annotations

from teeio.crypto.algorithms import BaseAsym, BaseHash
from teeio.crypto.certificates import (
    Authority,
    DeviceIdentity,
    DeviceInfo,
    Fwid,
    OperationalFlags,
    PciIdentity,
    TcbInfo,
    Validity,
    chain_structure,
    leaf_extensions,
    validate_chain,
)
from teeio.crypto.certificates.issue import Extension
from teeio.crypto.entropy import SeededEntropy
from teeio.crypto.keys import SigningKey

NOW = 1_750_000_000.0
VALIDITY = Validity(1_700_000_000, 2_000_000_000)
DEVICE = DeviceInfo("ACME", "WIDGET", "0001")
PCI = PciIdentity(0x1B36, 0x0010, 0x010802, 2, 0x1AF4, 0x1100)
TCB = TcbInfo(fwids=(Fwid.of(BaseHash.SHA_384, bytes(48)),), svn=7, layer=1, flags=OperationalFlags.NOT_TCB)
SUITES = [(BaseAsym.ECDSA_P256, BaseHash.SHA_256), (BaseAsym.ECDSA_P384, BaseHash.SHA_384)]


def make_identity(
    seed: bytes = b"device", asym: BaseAsym = BaseAsym.ECDSA_P384, base_hash: BaseHash = BaseHash.SHA_384
) -> DeviceIdentity:
    return DeviceIdentity.generate(
        DEVICE, SeededEntropy(seed), VALIDITY, base_asym=asym, base_hash=base_hash, pci=PCI, tcb=TCB
    )


IDENTITY = make_identity()
ENTROPY = SeededEntropy(b"tests")
ROOT = Authority.root("ACME root", BaseAsym.ECDSA_P384, BaseHash.SHA_384, ENTROPY, VALIDITY)
ISSUER = ROOT.subordinate("ACME CA", ENTROPY, VALIDITY)


def findings_of(chain: bytes, anchor: bytes, at_time: float = NOW, **expected: object) -> set[str]:
    found = validate_chain(chain, [anchor], BaseHash.SHA_384, BaseAsym.ECDSA_P384, at_time, **expected)  # type: ignore[arg-type]
    return {finding.check for finding in found}


LEAF_KEY = SigningKey.generate(BaseAsym.ECDSA_P384, ENTROPY)
PROFILE = leaf_extensions(DEVICE, PCI, TCB)


def chain_of(leaf: bytes) -> bytes:
    return chain_structure(ROOT.path[0], [ISSUER.path[1], leaf], BaseHash.SHA_384)


def issue(extensions: list[Extension], issuer: Authority = ISSUER) -> bytes:
    return issuer.certify("leaf", LEAF_KEY.public, extensions, ENTROPY, VALIDITY)
