"""A manufacturer's whole hierarchy for one signature algorithm: root, intermediate authorities, and the identities below them.

Identities are a responder's in the Device certificate model, a responder's in the Alias model (the device certificate is
itself an authority, and certifies a key that belongs to the firmware: DSP0274, certificate chain models) and a requester's.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from cryptography import x509

from teeio.crypto.algorithms import BaseAsym, BaseHash, PqcAsym
from teeio.crypto.certificates.extensions import (
    CMA_NAME,
    DEVICE_INFO,
    HARDWARE_IDENTITY,
    DeviceInfo,
    PciIdentity,
    TcbInfo,
    other_name,
    spdm_extension,
)
from teeio.crypto.certificates.issue import Authority, DeviceIdentity, Extension, Validity, key_usage, leaf_extensions
from teeio.crypto.entropy import Entropy
from teeio.crypto.keys import Asym, SigningKey

_LARGER: dict[BaseAsym, BaseHash] = {
    BaseAsym.RSASSA_2048: BaseHash.SHA_256,
    BaseAsym.RSAPSS_2048: BaseHash.SHA_256,
    BaseAsym.ECDSA_P256: BaseHash.SHA_256,
    BaseAsym.RSASSA_4096: BaseHash.SHA_512,
    BaseAsym.RSAPSS_4096: BaseHash.SHA_512,
    BaseAsym.ECDSA_P521: BaseHash.SHA_512,
}


def usual_hash(algorithm: Asym) -> BaseHash:
    """Give the hash whose strength suits a signature algorithm; certificates are signed with it."""
    return BaseHash.SHA_384 if isinstance(algorithm, PqcAsym) else _LARGER.get(algorithm, BaseHash.SHA_384)


@dataclass(frozen=True, slots=True)
class Names:
    """Who an identity is of: the device's name, its PCI identifiers, its firmware as DICE names it."""

    device: DeviceInfo
    pci: PciIdentity | None = None
    tcb: TcbInfo | None = None

    @property
    def subject(self) -> str:
        """The commonName: at most 64 characters (RFC 5280 appendix A.1); the whole name stands in subjectAltName."""
        return str(self.device)[:64]


@dataclass(frozen=True, slots=True)
class Hierarchy:
    """The authorities of a manufacturer, root first; the last one issues."""

    authorities: tuple[Authority, ...]
    validity: Validity
    entropy: Entropy = field(repr=False)

    @classmethod
    def found(
        cls,
        maker: str,
        algorithm: Asym,
        entropy: Entropy,
        validity: Validity,
        *,
        intermediates: int = 1,
        base_hash: BaseHash | None = None,
    ) -> Hierarchy:
        """Make the root and `intermediates` authorities, each signed by the one before."""
        root = Authority.root(f"{maker} root CA", algorithm, base_hash or usual_hash(algorithm), entropy, validity)
        authorities = [root]
        for number in range(1, intermediates + 1):
            authorities.append(authorities[-1].subordinate(f"{maker} intermediate CA {number}", entropy, validity))
        return cls(tuple(authorities), validity, entropy)

    @property
    def issuer(self) -> Authority:
        """The authority that signs leaves."""
        return self.authorities[-1]

    def responder(self, names: Names, key: SigningKey | None = None) -> DeviceIdentity:
        """Certify a responder in the Device model; `key` certifies a key that there is already."""
        return self._leaf(names, leaf_extensions(names.device, names.pci, names.tcb), key)

    def requester(self, names: Names) -> DeviceIdentity:
        """Certify a requester, for mutual authentication."""
        return self._leaf(names, leaf_extensions(names.device, names.pci, names.tcb, requester=True), None)

    def alias(self, names: Names) -> DeviceIdentity:
        """Certify a responder in the Alias model: below the device certificate stands one for the firmware's key."""
        key = SigningKey.generate(self.issuer.key.algorithm, self.entropy)
        certificate = self.issuer.certify(
            names.subject, key.public, device_authority(names), self.entropy, self.validity
        )
        device = Authority(names.subject, key, self.issuer.base_hash, (*self.issuer.path, certificate))
        extensions = leaf_extensions(names.device, names.pci, names.tcb, alias=True)
        below = Hierarchy((device,), self.validity, self.entropy)
        leaf = below._leaf(names, extensions, None, subject=f"{str(names.device)[:55]} firmware")
        return replace(leaf, device_key=key)

    def _leaf(
        self, names: Names, extensions: list[Extension], key: SigningKey | None, subject: str = ""
    ) -> DeviceIdentity:
        key = key or SigningKey.generate(self.issuer.key.algorithm, self.entropy)
        leaf = self.issuer.certify(subject or names.subject, key.public, extensions, self.entropy, self.validity)
        return DeviceIdentity(key, self.issuer.base_hash, (*self.issuer.path, leaf))


def device_authority(names: Names) -> list[Extension]:
    """List the extensions of the device certificate of an alias chain: the hardware's name, and only leaves below."""
    found = [other_name(DEVICE_INFO, str(names.device))]
    if names.pci is not None:
        found.append(other_name(CMA_NAME, str(names.pci)))
    return [
        (x509.BasicConstraints(ca=True, path_length=0), True),
        (key_usage(key_cert_sign=True), True),
        (x509.SubjectAlternativeName(found), False),
        (spdm_extension([HARDWARE_IDENTITY]), False),
    ]
