"""The profile of leaf certificates: each row finds its defect and nothing else; the reference emulator's samples."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography import x509

from crypto.issued import (
    DEVICE,
    ENTROPY,
    ISSUER,
    LEAF_KEY,
    NOW,
    PCI,
    PROFILE,
    ROOT,
    TCB,
    VALIDITY,
    chain_of,
    findings_of,
    issue,
)
from teeio.crypto.algorithms import BaseAsym, BaseHash
from teeio.crypto.certificates import (
    LEAF_CHECKS,
    CertificateModel,
    Severity,
    TcbInfo,
    chain_structure,
    errors,
    leaf_extensions,
    split_certificates,
    validate_chain,
)
from teeio.crypto.certificates.extensions import (
    CMA_NAME,
    DEVICE_INFO,
    EKU_REQUESTER,
    SPDM_EXTENSION,
    TCB_INFO,
    der_header,
    other_name,
    spdm_extension,
)
from teeio.crypto.certificates.issue import Extension, key_usage
from teeio.crypto.certificates.leaf import Check
from teeio.crypto.keys import SigningKey

# -- the leaf profile --------------------------------------------------------------------------------------------------


def with_extension(extension: Extension) -> list[Extension]:
    return [e for e in leaf_extensions(DEVICE, PCI, TCB) if oid_of(e[0]) != oid_of(extension[0])] + [extension]


def oid_of(extension: x509.ExtensionType) -> str:
    return extension.oid.dotted_string


def without(kind: type[x509.ExtensionType]) -> list[Extension]:
    return [e for e in leaf_extensions(DEVICE, PCI, TCB) if not isinstance(e[0], kind)]


def version_1() -> bytes:
    """Take the version, whose default is v1, out of a leaf; its signature then no longer fits, which is another row."""
    leaf = issue(leaf_extensions(DEVICE, PCI, TCB))
    outer, inner = der_header(leaf, 0), der_header(leaf, 4)
    signature = leaf[4 + inner.size + inner.length :]
    body = leaf[4 + inner.size : 4 + inner.size + inner.length].removeprefix(b"\xa0\x03\x02\x01\x02")
    assert (outer.size, inner.size, len(body)) == (4, 4, inner.length - 5)
    content = b"\x30\x82" + len(body).to_bytes(2, "big") + body + signature
    return b"\x30\x82" + len(content).to_bytes(2, "big") + content


P256_KEY = SigningKey.generate(BaseAsym.ECDSA_P256, ENTROPY)
DEFECTS: dict[str, tuple[Callable[[], bytes], dict[str, object]]] = {
    "version": (version_1, {}),
    "names": (lambda: ISSUER.certify("", LEAF_KEY.public, PROFILE, ENTROPY, VALIDITY), {}),
    "key": (lambda: ISSUER.certify("leaf", P256_KEY.public, PROFILE, ENTROPY, VALIDITY), {}),
    "key-usage": (lambda: issue(without(x509.KeyUsage)), {}),
    "key-usage-authority": (
        lambda: issue(with_extension((key_usage(digital_signature=True, key_cert_sign=True), True))),
        {},
    ),
    "basic-constraints": (lambda: issue(with_extension((x509.BasicConstraints(ca=True, path_length=None), True))), {}),
    "opposite-role": (lambda: issue(with_extension((x509.ExtendedKeyUsage([EKU_REQUESTER]), False))), {}),
    "own-role": (lambda: issue(without(x509.ExtendedKeyUsage)), {}),
    "alias-identity": (lambda: issue(PROFILE), {"model": CertificateModel.ALIAS}),
    "hardware-identity": (lambda: issue(with_extension((spdm_extension([EKU_REQUESTER]), False))), {}),
    "device-info": (lambda: issue(with_names(other_name(CMA_NAME, str(PCI)))), {}),
    "cma-name": (lambda: issue(with_names(other_name(DEVICE_INFO, str(DEVICE)))), {}),
    "tcb-info": (lambda: issue(leaf_extensions(DEVICE, PCI, TcbInfo(svn=1))), {}),
}
"""For each row of the leaf profile, a leaf with just that defect, and what the verifier expects of it."""

ALSO_FOUND = {"version": {"path"}, "opposite-role": {"own-role"}}
"""What a defect brings with it."""


def with_names(*names: x509.GeneralName) -> list[Extension]:
    return with_extension((x509.SubjectAlternativeName(names), False))


def test_the_profile_without_defect_passes() -> None:
    assert findings_of(chain_of(issue(PROFILE)), ROOT.path[0]) == set()


@pytest.mark.parametrize("check", LEAF_CHECKS, ids=lambda check: check.name)
def test_each_row_of_the_leaf_profile_finds_its_defect(check: Check) -> None:
    make, expected = DEFECTS[check.name]
    found = validate_chain(chain_of(make()), [ROOT.path[0]], BaseHash.SHA_384, BaseAsym.ECDSA_P384, NOW, **expected)  # type: ignore[arg-type]
    assert {finding.check for finding in found} == {check.name} | ALSO_FOUND.get(check.name, set())
    own = next(finding for finding in found if finding.check == check.name)
    assert own.severity is check.severity
    assert check.clause in str(own)


@pytest.mark.parametrize(("version", "expected"), [(0x12, set()), (0x13, {"basic-constraints"})])
def test_absent_basic_constraints_are_refused_from_1_3_on(version: int, expected: set[str]) -> None:
    leaf = issue(without(x509.BasicConstraints))
    assert findings_of(chain_of(leaf), ROOT.path[0], version=version) == expected


def test_key_usage_without_digital_signature_is_refused() -> None:
    leaf = issue(with_extension((key_usage(crl_sign=True), True)))
    assert findings_of(chain_of(leaf), ROOT.path[0]) == {"key-usage"}


def test_a_requester_needs_the_requester_role() -> None:
    leaf = issue(with_extension((x509.ExtendedKeyUsage([EKU_REQUESTER]), False)))
    assert findings_of(chain_of(leaf), ROOT.path[0], requester=True) == set()
    assert "opposite-role" in findings_of(chain_of(issue(PROFILE)), ROOT.path[0], requester=True)


@pytest.mark.parametrize(
    ("extensions", "check"),
    [
        (lambda: with_extension((x509.UnrecognizedExtension(TCB_INFO, b"\x30\x01"), False)), "tcb-info"),
        (lambda: with_extension((x509.UnrecognizedExtension(SPDM_EXTENSION, b"\x04\x00"), False)), "hardware-identity"),
        (lambda: with_names(other_name(DEVICE_INFO, "nonsense"), other_name(CMA_NAME, str(PCI))), "device-info"),
        (lambda: with_names(other_name(DEVICE_INFO, str(DEVICE)), other_name(CMA_NAME, "nonsense")), "cma-name"),
        (lambda: with_names(other_name(DEVICE_INFO, "a:b:1"), other_name(DEVICE_INFO, "a:b:2")), "device-info"),
        (lambda: with_extension((x509.UnrecognizedExtension(x509.KeyUsage.oid, b"\x04\x00"), True)), "extensions"),
    ],
    ids=["TcbInfo", "SPDM extension", "device name", "CMA name", "two device names", "keyUsage"],
)
def test_extensions_that_do_not_parse_are_errors(extensions: Callable[[], list[Extension]], check: str) -> None:
    found = validate_chain(chain_of(issue(extensions())), [ROOT.path[0]], BaseHash.SHA_384, BaseAsym.ECDSA_P384, NOW)
    assert check in {finding.check for finding in errors(found)}


def test_an_unknown_critical_extension_is_refused() -> None:
    unknown = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\x05\x00")
    assert findings_of(chain_of(issue([*PROFILE, (unknown, True)])), ROOT.path[0]) == {"path"}


# -- chains of the reference emulator ----------------------------------------------------------------------------------

EMULATOR = os.environ.get("TEEIO_SPDM_EMU", "")


@pytest.mark.interop
@pytest.mark.skipif(not EMULATOR, reason="TEEIO_SPDM_EMU does not name the bin folder of spdm-emu")
@pytest.mark.parametrize(
    "bundle", ["responder.certchain", "responder.certchain1", "requester.certchain", "responder.certchain_alias"]
)
@pytest.mark.parametrize(
    ("directory", "asym", "base_hash"),
    [
        ("ecp256", BaseAsym.ECDSA_P256, BaseHash.SHA_256),
        ("ecp384", BaseAsym.ECDSA_P384, BaseHash.SHA_384),
        ("ecp521", BaseAsym.ECDSA_P521, BaseHash.SHA_512),
        ("rsa3072", BaseAsym.RSAPSS_3072, BaseHash.SHA_384),
    ],
)
def test_sample_chains_of_the_reference_emulator_validate(
    directory: str, asym: BaseAsym, base_hash: BaseHash, bundle: str
) -> None:
    samples = Path(EMULATOR) / directory
    certificates = split_certificates((samples / f"bundle_{bundle}.der").read_bytes())
    anchor = (samples / ("ca1.cert.der" if bundle.endswith("1") else "ca.cert.der")).read_bytes()
    chain = chain_structure(certificates[0], certificates[1:], base_hash)
    model = CertificateModel.ALIAS if bundle.endswith("alias") else CertificateModel.DEVICE
    found = validate_chain(
        chain, [anchor], base_hash, asym, NOW, version=0x13, model=model, requester=bundle.startswith("requester")
    )
    assert {finding.check for finding in found} == {"own-role", "cma-name"}
    assert {finding.severity for finding in found} == {Severity.WARNING}
