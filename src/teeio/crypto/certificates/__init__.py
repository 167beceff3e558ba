"""X.509 certificates as SPDM uses them: issuing for simulated devices, the chain structure, validation."""

from teeio.crypto.certificates.chain import (
    MAX_CERTIFICATES,
    CertificateChain,
    ChainFacts,
    chain_structure,
    leaf_public_key,
    load_certificate,
    parse_chain,
    split_certificates,
)
from teeio.crypto.certificates.extensions import (
    DeviceInfo,
    Fwid,
    OperationalFlags,
    PciIdentity,
    TcbInfo,
    device_info,
    pci_identity,
    spdm_identifiers,
    tcb_info,
)
from teeio.crypto.certificates.issue import Authority, DeviceIdentity, Validity, leaf_extensions
from teeio.crypto.certificates.leaf import LEAF_CHECKS, CertificateModel, Finding, Leaf, Severity, errors, leaf_findings
from teeio.crypto.certificates.request import (
    algorithm_identifier,
    certificate_request,
    check_integrity,
    check_issuer,
    check_request,
    is_sequence,
)
from teeio.crypto.certificates.revocation import Revocation, revocation_status
from teeio.crypto.certificates.validate import authenticate_chain, validate_chain

__all__ = [
    "LEAF_CHECKS",
    "MAX_CERTIFICATES",
    "Authority",
    "CertificateChain",
    "CertificateModel",
    "ChainFacts",
    "DeviceIdentity",
    "DeviceInfo",
    "Finding",
    "Fwid",
    "Leaf",
    "OperationalFlags",
    "PciIdentity",
    "Revocation",
    "Severity",
    "TcbInfo",
    "Validity",
    "algorithm_identifier",
    "authenticate_chain",
    "certificate_request",
    "chain_structure",
    "check_integrity",
    "check_issuer",
    "check_request",
    "device_info",
    "errors",
    "is_sequence",
    "leaf_extensions",
    "leaf_findings",
    "leaf_public_key",
    "load_certificate",
    "parse_chain",
    "pci_identity",
    "revocation_status",
    "spdm_identifiers",
    "split_certificates",
    "tcb_info",
    "validate_chain",
]
