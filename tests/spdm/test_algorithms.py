"""Every implemented algorithm in a whole conversation, in every version that has it."""

from typing import Any

import pytest

from spdm_pair import Pair, identity
from teeio.crypto.algorithms import P384_SUITE, Aead, BaseAsym, BaseHash, Dhe, Kem, MeasurementHash, PqcAsym
from teeio.crypto.key_exchange import DHE_IMPLEMENTED, KEM_IMPLEMENTED
from teeio.crypto.keys import Asym
from teeio.errors import ErrorResponse, Incompatible
from teeio.spdm import flows
from teeio.spdm.algorithm_rules import SINCE_1_2
from teeio.spdm.constants import SummaryType, Version
from teeio.spdm.mutual import MutualAuthentication
from teeio.spdm.state import MUTUAL_CAPABILITIES, REQUESTER_CAPABILITIES, RESPONDER_CAPABILITIES

ROOM = {"data_transfer_size": 1 << 16, "max_message_size": 1 << 16}
SIGNING = [
    BaseAsym.RSASSA_2048,
    BaseAsym.RSAPSS_3072,
    BaseAsym.ECDSA_P256,
    BaseAsym.ECDSA_P384,
    BaseAsym.ECDSA_P521,
    BaseAsym.ED25519,
    BaseAsym.ED448,
    PqcAsym.ML_DSA_44,
    PqcAsym.ML_DSA_65,
    PqcAsym.ML_DSA_87,
]
GROUPS: list[Dhe | Kem] = [*DHE_IMPLEMENTED, *KEM_IMPLEMENTED]
AEADS = [Aead.AES_128_GCM, Aead.AES_256_GCM, Aead.CHACHA20_POLY1305]
HASHES = [BaseHash.SHA_256, BaseHash.SHA_384, BaseHash.SHA_512, BaseHash.SHA3_256, BaseHash.SHA3_384, BaseHash.SHA3_512]


def conversation(version: int, asym: Asym, group: Dhe | Kem, aead: Aead, base_hash: BaseHash) -> Pair:
    """A pair that has gone through everything with exactly these algorithms."""
    changes: dict[str, Any] = {
        "versions": (version,),
        "base_hash": (base_hash,),
        "base_asym": (asym,) if isinstance(asym, BaseAsym) else (),
        "pqc_asym": (asym,) if isinstance(asym, PqcAsym) else (),
        "dhe": (group,) if isinstance(group, Dhe) else (),
        "kem": (group,) if isinstance(group, Kem) else (),
        "aead": (aead,),
        "measurement_hash": (MeasurementHash[str(base_hash.name)],),
        **ROOM,
    }
    responding = {**changes, "capabilities": RESPONDER_CAPABILITIES}
    pair = Pair(version, P384_SUITE, responding, changes, identities=(asym,))
    requester = pair.requester
    pair.authenticate()
    assert (requester.connection.asym, requester.connection.group) == (asym, group if version > Version.V1_0 else 0)
    pair.run(flows.challenge(requester, 0, SummaryType.ALL))
    pair.run(flows.get_measurements(requester))
    if version > Version.V1_0:
        session = pair.run(flows.key_exchange(requester))
        pair.run(flows.get_measurements(requester, session=session.session_id))
        pair.run(flows.key_update(requester, session))
        pair.run(flows.end_session(requester, session))
    return pair


@pytest.mark.parametrize("asym", SIGNING, ids=lambda a: a.name)
@pytest.mark.parametrize("version", list(Version), ids=lambda v: v.text)
def test_signature_algorithms(version: Version, asym: Asym) -> None:
    since = Version.V1_4 if isinstance(asym, PqcAsym) else Version.V1_2 if asym & SINCE_1_2 else Version.V1_0
    if version < since:
        with pytest.raises((Incompatible, ErrorResponse)):
            conversation(version, asym, Dhe.SECP384R1, Aead.AES_256_GCM, BaseHash.SHA_384)
        return
    conversation(version, asym, Dhe.SECP384R1, Aead.AES_256_GCM, BaseHash.SHA_384)


@pytest.mark.parametrize("asym", SIGNING, ids=lambda a: a.name)
def test_signature_algorithms_of_a_requester(asym: Asym) -> None:
    """The requester signs CHALLENGE_AUTH and FINISH, in the version that has them all."""
    trusted: list[bytes] = []
    changes: dict[str, Any] = {
        "req_base_asym": (asym,) if isinstance(asym, BaseAsym) else (),
        "req_pqc_asym": (asym,) if isinstance(asym, PqcAsym) else (),
        **ROOM,
    }
    serving = {"versions": (Version.V1_4,), "capabilities": RESPONDER_CAPABILITIES | MUTUAL_CAPABILITIES}
    pair = Pair(
        Version.V1_4,
        P384_SUITE,
        {**changes, **serving},
        {**changes, "capabilities": REQUESTER_CAPABILITIES | MUTUAL_CAPABILITIES},
        requester_identities=(asym,),
        mutual=MutualAuthentication(lambda chain, now: trusted.append(chain), basic=True),
    )
    pair.authenticate()
    pair.run(flows.challenge(pair.requester))
    session = pair.run(flows.key_exchange(pair.requester))
    assert trusted == [identity(asym).slots[0].chain(P384_SUITE.base_hash)] * 2
    pair.run(flows.end_session(pair.requester, session))


@pytest.mark.parametrize("group", GROUPS, ids=lambda g: g.name)
def test_key_exchange_groups(group: Dhe | Kem) -> None:
    version = Version.V1_4 if isinstance(group, Kem) else Version.V1_2
    conversation(version, BaseAsym.ECDSA_P256, group, AEADS[int(group) % 3], BaseHash.SHA_256)


@pytest.mark.parametrize("base_hash", HASHES, ids=lambda h: h.name)
@pytest.mark.parametrize("aead", AEADS, ids=lambda a: a.name)
def test_hashes_and_ciphers(base_hash: BaseHash, aead: Aead) -> None:
    conversation(Version.V1_3, BaseAsym.ECDSA_P384, Dhe.SECP256R1, aead, base_hash)


def test_a_responder_with_both_kinds_selects_one_of_each() -> None:
    both: dict[str, Any] = {
        "versions": (Version.V1_4,),
        "pqc_asym": (PqcAsym.ML_DSA_65,),
        "kem": (Kem.ML_KEM_768,),
        **ROOM,
    }
    asked = {key: value for key, value in both.items() if key != "versions"}
    pair = Pair(
        Version.V1_4,
        P384_SUITE,
        {**both, "capabilities": RESPONDER_CAPABILITIES},
        asked,
        identities=(BaseAsym.ECDSA_P384, PqcAsym.ML_DSA_65),
    )
    connection = pair.run(flows.connect(pair.requester))
    assert (connection.base_asym, connection.pqc_asym) == (BaseAsym.ECDSA_P384, PqcAsym(0))
    assert (connection.dhe, connection.kem) == (Dhe.SECP384R1, Kem(0))
