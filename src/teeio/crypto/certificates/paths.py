"""Certification paths for the path validator, and what of its work need not be done twice.

The same device certificates and the same signatures come again with every interface of a device that is attested. What depends on
nothing but their bytes is kept: how they parse, and that a signature is good. Dates, revocation and names are judged anew each time.
"""

from __future__ import annotations

from collections.abc import Coroutine, Sequence
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Any, TypeVar

from teeio.crypto.certificates.chain import KEPT
from teeio.errors import AuthenticationFailed

if TYPE_CHECKING:
    from asn1crypto.crl import CertificateList
    from asn1crypto.x509 import Certificate
    from pyhanko_certvalidator.path import ValidationPath
    from pyhanko_certvalidator.sig_validate import SignatureValidator

# The validator is imported where it is used, because it takes about 0.1 s to load and most programs never validate a chain.

T = TypeVar("T")

PARSER_ERRORS = (
    ValueError,
    TypeError,
    LookupError,
    ArithmeticError,
    AttributeError,
    NotImplementedError,
    RecursionError,
)
"""What the path validator's lazy ASN.1 parser may raise on certificates that it cannot read; each is a refusal."""


def path_of(anchor: bytes, below: Sequence[bytes]) -> ValidationPath:
    """Give the validator's path from a DER anchor down. Raises `PARSER_ERRORS`."""
    from pyhanko_certvalidator.authority import AuthorityWithCert, TrustAnchor, TrustQualifiers
    from pyhanko_certvalidator.path import ValidationPath

    root, *rest = (_certificate(der) for der in (anchor, *below))
    window = TrustQualifiers(valid_from=root.not_valid_before, valid_until=root.not_valid_after)
    return ValidationPath(TrustAnchor(AuthorityWithCert(root), window), interm=rest[:-1], leaf=rest[-1])


@lru_cache(maxsize=KEPT)
def _certificate(der: bytes) -> Certificate:
    from asn1crypto import x509 as asn1_x509

    return asn1_x509.Certificate.load(der, strict=True)


@lru_cache(maxsize=KEPT)
def parsed_list(der: bytes) -> CertificateList:
    """Give a DER revocation list as the validator wants it. Raises `PARSER_ERRORS`."""
    from asn1crypto.crl import CertificateList

    return CertificateList.load(der)


@cache
def signature_validator() -> SignatureValidator:
    """Give the validator's signature check, which remembers what it found good; a bad signature it checks each time."""
    from asn1crypto.algos import SignedDigestAlgorithm
    from asn1crypto.keys import PublicKeyInfo
    from pyhanko_certvalidator import sig_validate

    default = sig_validate.DEFAULT_SIGNATURE_VALIDATOR

    @lru_cache(maxsize=KEPT)
    def check(signature: bytes, data: bytes, key: bytes, algorithm: bytes) -> None:
        default.validate_signature(signature, data, PublicKeyInfo.load(key), SignedDigestAlgorithm.load(algorithm))

    class Remembering(sig_validate.SignatureValidator):
        def validate_signature(
            self,
            signature: bytes,
            signed_data: bytes,
            public_key_info: PublicKeyInfo,
            signature_algorithm: SignedDigestAlgorithm,
            context: sig_validate.SignatureValidationContext = sig_validate.DEFAULT_VALIDATION_CONTEXT,
        ) -> None:
            if context != sig_validate.DEFAULT_VALIDATION_CONTEXT:
                default.validate_signature(signature, signed_data, public_key_info, signature_algorithm, context)
            else:
                check(signature, signed_data, public_key_info.dump(), signature_algorithm.dump())

    return Remembering()


def finish(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine that has nothing to wait for, without an event loop.

    The validator is written as coroutines because it can fetch revocation data. Here it is given all data and forbidden
    to fetch, so it runs to its end at the first step; should it ever wait, that is an error, not a reason for a loop.
    """
    try:
        coroutine.send(None)
    except StopIteration as done:
        result: T = done.value
        return result
    coroutine.close()
    raise AuthenticationFailed("certificate path validation tried to wait, though nothing may be fetched")
