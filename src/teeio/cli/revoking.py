"""Revoking a certificate that `teeio identity make` wrote: its authority, found beside it, signs a new revocation list."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from teeio.crypto.certificates import Authority, Validity
from teeio.crypto.certificates.chain import load_anchor
from teeio.crypto.certificates.describe import algorithm_of, describe
from teeio.crypto.certificates.hierarchy import usual_hash
from teeio.crypto.certificates.issue import Reason
from teeio.crypto.certificates.revocation import list_number, load_list, signs_lists
from teeio.crypto.keys import signing_key_from_pem
from teeio.errors import Misuse
from teeio.identity_files import CERTIFICATE, KEY, LIST


@dataclass(frozen=True, slots=True)
class Revoked:
    """What was done: the certificate's subject and serial number, and the list that now names it."""

    subject: str
    serial: str
    list: Path
    number: int


def revoke(certificate: Path, reason: Reason, validity: Validity) -> Revoked:
    """Put a certificate on the list of its authority, whose certificate and key lie in the same folder. Raises `Misuse`."""
    der = load_anchor(certificate.read_bytes(), certificate.name)
    what = describe(der)
    authority, name = _authority(certificate.parent, what.issuer)
    path = certificate.with_name(f"{name}{LIST}")
    earlier = load_list(path.read_bytes(), path.name) if path.is_file() else None
    number = list_number(earlier) + 1 if earlier else 1
    path.write_bytes(authority.revoke([der], number, validity, reason, earlier=earlier))
    return Revoked(what.subject, what.serial, path, number)


def _authority(folder: Path, issuer: str) -> tuple[Authority, str]:
    for path in sorted(folder.glob(f"*{CERTIFICATE}")):
        name = path.name.removesuffix(CERTIFICATE)
        key = folder / f"{name}{KEY}"
        der = load_anchor(path.read_bytes(), path.name)
        found = describe(der)
        if found.subject == issuer and found.authority and signs_lists(der) and key.is_file():
            algorithm = algorithm_of(der)
            signing = signing_key_from_pem(key.read_bytes(), algorithm)
            return Authority(issuer, signing, usual_hash(algorithm), (der,)), name
    raise Misuse(
        f"{folder} has no authority {issuer} that signs revocation lists, with its key",
        remedy="give a certificate in the folder where teeio identity make wrote it",
    )
