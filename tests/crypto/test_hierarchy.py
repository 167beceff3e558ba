"""A manufacturer's hierarchy: the chains of every model have the shape that they claim, for every kind of key."""

import pytest

from teeio.crypto.algorithms import BaseAsym, BaseHash, PqcAsym
from teeio.crypto.certificates import (
    CertificateModel,
    DeviceInfo,
    PciIdentity,
    Validity,
    chain_structure,
    errors,
    validate_chain,
)
from teeio.crypto.certificates.describe import algorithm_of, certificates_of, describe
from teeio.crypto.certificates.hierarchy import Hierarchy, Names, usual_hash
from teeio.crypto.entropy import SeededEntropy
from teeio.crypto.keys import Asym
from teeio.errors import DecodeError

NAMES = Names(DeviceInfo("Acme", "NIC" * 30, "7"), PciIdentity(0x8086, 0x10D3))
VALIDITY = Validity(1.7e9, 2.5e9)
ALGORITHMS: tuple[Asym, ...] = (
    BaseAsym.ECDSA_P521,
    BaseAsym.ED25519,
    BaseAsym.ED448,
    PqcAsym.ML_DSA_44,
    PqcAsym.ML_DSA_87,
)


def found(algorithm: Asym, intermediates: int = 1) -> Hierarchy:
    return Hierarchy.found("Acme", algorithm, SeededEntropy(b"maker"), VALIDITY, intermediates=intermediates)


@pytest.mark.parametrize("algorithm", ALGORITHMS, ids=lambda one: str(one.name))
@pytest.mark.parametrize("model", ["responder", "requester", "alias"])
def test_chains_validate(algorithm: Asym, model: str) -> None:
    made = getattr(found(algorithm), model)(NAMES)
    findings = validate_chain(
        made.chain,
        [made.root],
        made.base_hash,
        algorithm,
        2e9,
        model=CertificateModel.ALIAS if model == "alias" else CertificateModel.DEVICE,
        version=0x14,
        requester=model == "requester",
    )
    assert findings == []
    assert len(made.path) == (4 if model == "alias" else 3)
    assert algorithm_of(made.leaf) == algorithm


@pytest.mark.parametrize("intermediates", [0, 1, 4])
def test_the_number_of_authorities(intermediates: int) -> None:
    made = found(BaseAsym.ED25519, intermediates).responder(NAMES)
    assert [describe(der).authority for der in made.path] == [True] * (intermediates + 1) + [False]
    assert not errors(validate_chain(made.chain, [made.root], made.base_hash, BaseAsym.ED25519, 2e9))


def test_the_wrong_kind_of_key_is_found_also_where_the_flags_are_equal() -> None:
    made = found(PqcAsym.ML_DSA_44).responder(NAMES)
    assert int(PqcAsym.ML_DSA_44) == int(BaseAsym.RSASSA_2048)
    findings = validate_chain(made.chain, [made.root], made.base_hash, BaseAsym.RSASSA_2048, 2e9)
    assert [finding.check for finding in findings] == ["key"]


def test_an_alias_certifies_the_firmware_and_not_the_hardware() -> None:
    made = found(BaseAsym.ED25519).alias(NAMES)
    device, leaf = describe(made.path[-2]), describe(made.leaf)
    assert (device.authority, device.identifiers) == (True, ("hardware identity",))
    assert (leaf.authority, leaf.identifiers) == (False, ("mutable certificate",))
    assert device.subject != leaf.subject
    wrong = validate_chain(made.chain, [made.root], made.base_hash, BaseAsym.ED25519, 2e9)
    assert "hardware-identity" in [finding.check for finding in wrong]


def test_one_key_in_two_hierarchies() -> None:
    first = found(BaseAsym.ED25519).responder(NAMES)
    second = found(BaseAsym.ED25519, 2).responder(NAMES, first.key)
    assert second.key is first.key
    assert not errors(validate_chain(second.chain, [second.root], second.base_hash, BaseAsym.ED25519, 2e9))


def test_files_in_every_form() -> None:
    made = found(BaseAsym.ED25519).responder(NAMES)
    assert certificates_of(b"".join(made.path), "x") == (list(made.path), None)
    structure = chain_structure(made.path[0], made.path[1:], BaseHash.SHA3_384)
    assert certificates_of(structure, "x") == (list(made.path), BaseHash.SHA3_384)
    with pytest.raises(DecodeError, match=r"CertificateChain\.x "):
        certificates_of(structure[:-1], "x")


def test_usual_hashes() -> None:
    assert usual_hash(BaseAsym.ECDSA_P256) is BaseHash.SHA_256
    assert usual_hash(BaseAsym.RSASSA_2048) is BaseHash.SHA_256
    assert usual_hash(PqcAsym.ML_DSA_44) is BaseHash.SHA_384
