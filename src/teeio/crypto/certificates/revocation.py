"""Whether a certificate of a chain is revoked, by revocation lists at hand (RFC 5280 section 6.3). Nothing is fetched.

A certificate is good only if a current list of its issuer says so by leaving it out; no list means unknown, not good. What a device
signs itself in the Alias model has no list: it stands and falls with the device's certificate.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from typing import TYPE_CHECKING

from cryptography import x509

from teeio.crypto.algorithms import BaseHash
from teeio.crypto.certificates.chain import load_certificate, parse_chain
from teeio.crypto.certificates.extensions import HARDWARE_IDENTITY, extension, spdm_identifiers
from teeio.crypto.certificates.issue import moment
from teeio.crypto.certificates.leaf import Finding, Severity
from teeio.crypto.certificates.paths import PARSER_ERRORS, finish, parsed_list, path_of, signature_validator
from teeio.crypto.certificates.validate import anchor_of
from teeio.errors import DecodeError

if TYPE_CHECKING:
    from asn1crypto.crl import CertificateList
    from pyhanko_certvalidator.errors import RevokedError
    from pyhanko_certvalidator.path import ValidationPath


class Revocation(Enum):
    """What is known of the revocation of a chain's certificates."""

    GOOD = "good"
    REVOKED = "revoked"
    UNKNOWN = "unknown"


Status = tuple[Revocation, str]
"""What is known, and why."""


def revocation_status(
    chain: bytes, anchors: Sequence[bytes], base_hash: BaseHash, at_time: float, lists: Sequence[bytes]
) -> Status:
    """Look up every certificate below the anchor in the DER revocation `lists`; give the status and why.

    A certificate that no current list of its issuer covers is UNKNOWN, and so is a chain that does not validate. A
    certificate on hold is REVOKED.
    """
    try:
        root_hash, certificates = parse_chain(chain, base_hash)
        anchor = anchor_of(root_hash, anchors, base_hash)
        below = _listed(certificates[1:] if certificates[0] == anchor else certificates)
    except DecodeError as error:
        return Revocation.UNKNOWN, str(error)
    if anchor is None or not below:
        return Revocation.UNKNOWN, "the chain reaches no trust anchor"
    if _last_of(anchor, below, at_time, lists)[0] is not Revocation.GOOD:
        # Which certificate is it? The first that is not the good end of a path.
        for size in range(1, len(below) + 1):
            status, reason = _last_of(anchor, below[:size], at_time, lists)
            if status is not Revocation.GOOD:
                return status, reason
    return Revocation.GOOD, "no certificate of the chain is on a current revocation list of its issuer"


def revocation_findings(
    chain: bytes, anchors: Sequence[bytes], base_hash: BaseHash, at_time: float, lists: Sequence[bytes]
) -> list[Finding]:
    """Give what `revocation_status` says as a finding, if the chain is not good."""
    status, reason = revocation_status(chain, anchors, base_hash, at_time, lists)
    if status is Revocation.GOOD:
        return []
    message = reason if status is Revocation.REVOKED else f"revocation could not be checked: {reason}"
    return [Finding("revocation", Severity.ERROR, message, "RFC 5280 section 6.3")]


def _last_of(anchor: bytes, below: Sequence[bytes], at_time: float, lists: Sequence[bytes]) -> Status:
    """Give the status of the last certificate of a path whose other ones are good."""
    from pyhanko_certvalidator.context import ValidationContext
    from pyhanko_certvalidator.errors import RevokedError, ValidationError
    from pyhanko_certvalidator.validate import async_validate_path

    name = load_certificate(below[-1]).subject.rfc4514_string()
    try:
        path = path_of(anchor, below)
        context = ValidationContext(
            trust_roots=[path.first],
            other_certs=list(path),
            moment=moment(at_time),
            allow_fetching=False,
            crls=_of_path(path, lists),
            revocation_mode="require",
            signature_validator=signature_validator(),
        )
        finish(async_validate_path(context, path))
    except RevokedError as error:
        return Revocation.REVOKED, _revoked(name, error)
    except (ValidationError, *PARSER_ERRORS) as error:
        return Revocation.UNKNOWN, f"no current revocation list covers {name}: {str(error) or type(error).__name__}"
    return Revocation.GOOD, ""


def _of_path(path: ValidationPath, lists: Sequence[bytes]) -> list[CertificateList]:
    """Choose the lists whose issuer is in the path: only from there does the validator take an issuer's key.

    An authority may have namesakes, as with another algorithm; the key identifiers tell them apart (RFC 5280 section 5.2.1).
    """
    keys: dict[str, set[bytes | None]] = {}
    for certificate in path:
        keys.setdefault(certificate.subject.hashable, set()).add(certificate.key_identifier)
    found = []
    for one in map(parsed_list, lists):
        known, meant = keys.get(one.issuer.hashable, set()), one.authority_key_identifier
        if meant in known or (known and (meant is None or None in known)):
            found.append(one)
    return found


def _revoked(name: str, error: RevokedError) -> str:
    """Say "revoked REASON: NAME since DAY", the reason as RFC 5280 section 5.3.1 names it."""
    reason = x509.ReasonFlags[error.reason.native].value
    return f"revoked {reason}: {name} since {error.revocation_dt:%Y-%m-%d %H:%M} UTC"


def signs_lists(der: bytes) -> bool:
    """Tell whether a certificate's key may sign revocation lists (RFC 5280 section 4.2.1.3). Raises `DecodeError`."""
    usage = extension(load_certificate(der), x509.KeyUsage)
    return usage is None or usage.crl_sign


def _listed(below: Sequence[bytes]) -> list[bytes]:
    """Leave out what stands below a device certificate that is an authority (Alias model) and signs no lists."""
    for number, der in enumerate(below, 1):
        if not signs_lists(der) and HARDWARE_IDENTITY in (spdm_identifiers(load_certificate(der)) or []):
            return list(below[:number])
    return list(below)


def list_number(der: bytes) -> int:
    """Give the CRLNumber of a DER list, 0 if it has none (RFC 5280 section 5.2.3)."""
    try:
        return x509.load_der_x509_crl(der).extensions.get_extension_for_class(x509.CRLNumber).value.crl_number
    except (ValueError, x509.ExtensionNotFound):
        return 0


def load_list(data: bytes, where: str) -> bytes:
    """Give the one revocation list of a file, DER or PEM, as DER. Raises `DecodeError` naming `where`."""
    from cryptography.hazmat.primitives.serialization import Encoding

    try:
        pem = b"-----BEGIN" in data
        found = x509.load_pem_x509_crl(data) if pem else x509.load_der_x509_crl(data)
        return found.public_bytes(Encoding.DER)
    except ValueError as error:
        raise DecodeError(
            "CertificateList", where, 0, str(error), remedy="give one revocation list in DER or PEM"
        ) from None
