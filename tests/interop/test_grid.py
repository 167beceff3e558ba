"""The grid covers what it claims to: counts, pairs and triples; and both ends of a cell are told the same."""

from collections import Counter
from itertools import product

import pytest

from teeio.crypto.algorithms import Aead, BaseAsym, Dhe, Kem, PqcAsym
from teeio.crypto.key_exchange import KEM_IMPLEMENTED
from teeio.crypto.keys import PQC_SCHEMES
from teeio.interop.cells import Cell, Feature, Grid, Role, Step
from teeio.interop.emulator_options import USUAL, options
from teeio.interop.grid import AEAD, ASYM, GROUPS, HASHES, PAIRS, TRANSPORTS, WITH_SESSIONS, full, main, mutual, quick
from teeio.interop.our_end import settings
from teeio.interop.special import CASES, special
from teeio.spdm.constants import Capability, MutualAuth, Version
from teeio.spdm.negotiation import REQUESTER_FLAG_RULES, RESPONDER_FLAG_RULES, known_flags
from teeio.transport.kinds import Transport

MAIN, MUTUAL, SPECIAL = tuple(main()), tuple(mutual()), tuple(special())
SESSIONS = [cell for cell in MAIN if cell.has_sessions]


def test_the_counts() -> None:
    assert (len(MAIN), len(MUTUAL)) == (381, 96)
    assert len(SPECIAL) >= 48
    assert full() == MAIN + MUTUAL + SPECIAL
    assert [name for name, number in Counter(cell.name for cell in full()).items() if number > 1] == []


def test_every_transport_version_and_signature_algorithm() -> None:
    found = {(cell.transport, cell.version, cell.asym) for cell in MAIN}
    assert found == set(product(TRANSPORTS, Version, ASYM))
    assert len(found) == 105
    assert len([cell for cell in MAIN if cell.version is Version.V1_0]) == 21


def test_every_group_with_every_cipher_for_each_transport_and_version() -> None:
    found = Counter((cell.transport, cell.version, cell.group, cell.aead) for cell in SESSIONS)
    wanted = product(TRANSPORTS, WITH_SESSIONS, PAIRS)
    assert set(found) == {(transport, version, *pair) for transport, version, pair in wanted}
    assert set(found.values()) == {2}


def test_every_signature_algorithm_with_every_group_and_cipher() -> None:
    assert {(cell.asym, cell.group, cell.aead) for cell in SESSIONS} == set(product(ASYM, GROUPS, AEAD))


@pytest.mark.parametrize("version", WITH_SESSIONS, ids=lambda version: version.text)
def test_the_hash_and_the_handshake_turn(version: Version) -> None:
    cells = [cell for cell in SESSIONS if cell.version is version]
    assert {(cell.base_hash, cell.clear) for cell in cells} == set(product(HASHES, (True, False)))
    assert {(cell.base_hash, cell.asym) for cell in cells} == set(product(HASHES, ASYM))


def test_every_mode_of_mutual_authentication_for_each_version_and_transport() -> None:
    found = {(cell.version, cell.transport, cell.mode, cell.basic) for cell in MUTUAL}
    assert found == set(product(WITH_SESSIONS, TRANSPORTS, MutualAuth, (False, True)))
    kinds = {cell.req_asym for cell in MUTUAL}
    assert kinds == {*ASYM, BaseAsym.RSASSA_4096, BaseAsym.RSAPSS_4096}


def test_the_handshake_is_encrypted_in_every_mode_and_transport() -> None:
    cells = [cell for cell in SPECIAL if cell.case.startswith("encrypted handshake")]
    assert {(cell.version, cell.transport, cell.mode, cell.clear) for cell in cells} == set(
        product(WITH_SESSIONS, TRANSPORTS, MutualAuth, (False,))
    )


def test_the_quick_grid_samples_everything() -> None:
    cells = quick()
    assert len(cells) >= 40
    assert {cell.version for cell in cells} == set(Version)
    assert {cell.transport for cell in cells} == set(Transport)
    assert {cell.mode for cell in cells if cell.grid is Grid.MUTUAL} == set(MutualAuth)
    sample = [cell for cell in cells if cell.grid is Grid.MAIN]
    assert {cell.asym for cell in sample} == set(ASYM)
    assert {cell.group for cell in sample} == set(GROUPS)
    assert {cell.aead for cell in sample} == set(AEAD)
    assert {cell.case for cell in cells if cell.grid is Grid.SPECIAL} == {case.title for case in CASES}


def _flags_told(cell: Cell, theirs: Role) -> Capability:
    words = options(cell, theirs)
    if "--cap" not in words:
        return USUAL[theirs]
    names = words[words.index("--cap") + 1].replace("HANDSHAKE_IN_CLEAR", "HANDSHAKE_IN_THE_CLEAR").split(",")
    flags = Capability(0)
    for name in names:
        flags |= Capability[name]
    return flags


@pytest.mark.parametrize("role", Role)
def test_no_side_offers_flags_that_contradict_each_other(role: Role) -> None:
    rules = REQUESTER_FLAG_RULES if role is Role.REQUESTER else RESPONDER_FLAG_RULES
    for cell in full():
        for flags in (settings(cell, role).capabilities, _flags_told(cell, role)):
            broken = [text for text, holds in rules if not holds(known_flags(flags, cell.version))]
            assert broken == [], cell.name


def test_the_emulators_options() -> None:
    cell = Cell(
        grid=Grid.SPECIAL,
        case="",
        version=Version.V1_2,
        transport=Transport.TCP,
        asym=BaseAsym.ED25519,
        group=Dhe.SECP521R1,
        aead=Aead.CHACHA20_POLY1305,
        clear=False,
        session=(),
    )
    words = options(cell, Role.REQUESTER)
    told = dict(zip(words[::2], words[1::2], strict=True))
    assert told["--asym"] == "EDDSA_25519"
    assert told["--dhe"] == "SECP_521_R1"
    assert told["--exe_session"] == Step.NO_END.value
    assert "HANDSHAKE_IN_CLEAR" not in told["--cap"].split(",")
    assert "--exe_conn" not in options(cell, Role.RESPONDER)


def test_post_quantum_cells_name_no_traditional_algorithm_of_the_same_kind() -> None:
    cells = [cell for cell in SPECIAL if cell.needs is Feature.ML_DSA]
    assert {(cell.asym, cell.group) for cell in cells} >= set(product(PQC_SCHEMES, KEM_IMPLEMENTED))
    for cell in cells:
        words = options(cell, Role.RESPONDER)
        told = dict(zip(words[::2], words[1::2], strict=True))
        assert told["--ver"] == "1.4"
        assert (told["--asym"] == "NONE") is isinstance(cell.asym, PqcAsym) is ("--pqc_asym" in told)
        assert (told["--dhe"] == "NONE") is isinstance(cell.group, Kem) is ("--kem" in told)
        assert ("--req_pqc_asym" in told) is isinstance(cell.req_asym, PqcAsym)
        ours = settings(cell, Role.RESPONDER)
        assert [*ours.base_asym, *ours.pqc_asym] == [cell.asym]
        assert [*ours.dhe, *ours.kem] == [cell.group]
        if cell.req_asym is not None:
            assert [*ours.req_base_asym, *ours.req_pqc_asym] == [cell.req_asym]


def test_edwards_curves_are_of_1_2_and_later() -> None:
    cells = [cell for cell in SPECIAL if cell.needs in (Feature.ED25519, Feature.ED448)]
    assert {cell.version for cell in cells} == {Version.V1_2, Version.V1_3, Version.V1_4}
