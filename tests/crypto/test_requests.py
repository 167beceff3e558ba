"""Certificate requests that a peer has damaged."""

import pytest

from spdm_pair import identity
from teeio.crypto.algorithms import BaseAsym, BaseHash
from teeio.crypto.certificates import certificate_request, check_request
from teeio.errors import AuthenticationFailed, DecodeError

VERSION = bytes.fromhex("020100")


def request() -> bytes:
    slot = identity(BaseAsym.ECDSA_P384).slots[0]
    return certificate_request(slot.key, slot.certificates[-1], BaseHash.SHA_384)


def test_a_request_as_it_is() -> None:
    assert check_request(request()) == identity(BaseAsym.ECDSA_P384).slots[0].key.public


def test_a_request_of_another_version_does_not_parse() -> None:
    """PKCS #10 knows version 0 only; the library has an error of its own for others."""
    with pytest.raises(DecodeError, match="not a valid CSR version"):
        check_request(request().replace(VERSION, bytes.fromhex("020102"), 1))


def test_a_request_under_another_signature_is_not_authentic() -> None:
    made = request()
    with pytest.raises(AuthenticationFailed, match="not signed by the key it names"):
        check_request(made[:-1] + bytes([made[-1] ^ 1]))
