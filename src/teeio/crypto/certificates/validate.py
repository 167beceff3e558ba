"""Validating a peer's certificate chain: the path to an anchor (RFC 5280) and the leaf profile; `revocation` is apart.

The path is built from the chain in the order in which SPDM prescribes it and never begins anywhere but at one of the
caller's anchors: the root that the peer sends along proves nothing. Nothing is fetched.
"""

from __future__ import annotations

from collections.abc import Sequence

from teeio.crypto.algorithms import BaseHash
from teeio.crypto.certificates.chain import leaf_public_key, load_certificate, parse_chain
from teeio.crypto.certificates.issue import moment
from teeio.crypto.certificates.leaf import CertificateModel, Finding, Leaf, Severity, errors, leaf_findings
from teeio.crypto.certificates.paths import PARSER_ERRORS, finish, path_of, signature_validator
from teeio.crypto.kdf import digest, equal
from teeio.crypto.keys import Asym, PublicKey
from teeio.errors import AuthenticationFailed, DecodeError


def validate_chain(
    chain: bytes,
    anchors: Sequence[bytes],
    base_hash: BaseHash,
    base_asym: Asym,
    at_time: float,
    *,
    model: CertificateModel = CertificateModel.DEVICE,
    version: int = 0x12,
    requester: bool = False,
) -> list[Finding]:
    """Validate an SPDM certificate chain structure; no finding of severity ERROR means that the leaf is authentic.

    `anchors` are DER root certificates, `at_time` is seconds since 1970 UTC, `version` the negotiated SPDM version,
    `requester` says that the chain is that of a requester (mutual authentication). Never raises on what the peer sends.
    """
    try:
        root_hash, certificates = parse_chain(chain, base_hash)
        leaf = load_certificate(certificates[-1])
    except DecodeError as error:
        return [Finding("structure", Severity.ERROR, str(error), "DSP0274, certificate chain format")]
    path = path_findings(root_hash, certificates, anchors, base_hash, at_time)
    return path + leaf_findings(Leaf(leaf, base_asym, model, version, requester))


def authenticate_chain(
    chain: bytes,
    anchors: Sequence[bytes],
    base_hash: BaseHash,
    base_asym: Asym,
    at_time: float,
    *,
    model: CertificateModel = CertificateModel.DEVICE,
    version: int = 0x12,
    requester: bool = False,
) -> PublicKey:
    """Validate as `validate_chain` does; give the leaf's key. Raises `AuthenticationFailed` naming every error."""
    findings = validate_chain(
        chain, anchors, base_hash, base_asym, at_time, model=model, version=version, requester=requester
    )
    found = errors(findings)
    if found:
        raise AuthenticationFailed(
            "certificate chain refused: " + "; ".join(f"{finding.message} ({finding.clause})" for finding in found),
            remedy="configure the device vendor's root certificate as an anchor, or do not trust this device",
        )
    return leaf_public_key(parse_chain(chain, base_hash)[1][-1])


# -- the path ----------------------------------------------------------------------------------------------------------


def path_findings(
    root_hash: bytes, certificates: Sequence[bytes], anchors: Sequence[bytes], base_hash: BaseHash, at_time: float
) -> list[Finding]:
    """Say what is wrong with the path from the anchor that `root_hash` names down to the leaf."""
    anchor = anchor_of(root_hash, anchors, base_hash)
    if anchor is None:
        message = f"root hash {root_hash.hex()} is that of none of the {len(anchors)} trust anchors"
        return [Finding("anchor", Severity.ERROR, message, "DSP0274, certificate chain format: RootHash")]
    below = list(certificates[1:] if certificates[0] == anchor else certificates)
    if not below:
        message = "the chain holds the root and nothing below it"
        return [Finding("path", Severity.ERROR, message, "DSP0274, certificate chain format")]
    problem = _validate_path(anchor, below, at_time)
    return [Finding("path", Severity.ERROR, problem, "RFC 5280 section 6.1")] if problem else []


def anchor_of(root_hash: bytes, anchors: Sequence[bytes], base_hash: BaseHash) -> bytes | None:
    """Give the anchor whose digest is `root_hash`, or None."""
    return next((anchor for anchor in anchors if equal(digest(base_hash, anchor), root_hash)), None)


def _validate_path(anchor: bytes, below: Sequence[bytes], at_time: float) -> str | None:
    from pyhanko_certvalidator.context import ValidationContext
    from pyhanko_certvalidator.errors import ValidationError
    from pyhanko_certvalidator.validate import async_validate_path

    try:
        path = path_of(anchor, below)
        context = ValidationContext(
            trust_roots=[path.first],
            moment=moment(at_time),
            allow_fetching=False,
            signature_validator=signature_validator(),
        )
        finish(async_validate_path(context, path))
    except (ValidationError, *PARSER_ERRORS) as error:
        return str(error) or type(error).__name__
    return None
