"""ML-DSA with ML-KEM, mixtures with traditional algorithms, and Edwards curves: the reference emulator's OpenSSL build, both roles.

These are the grid's cells that the other build cannot run, one for each case.
"""

import os
from functools import cache
from pathlib import Path

import pytest

from teeio.interop.campaign import missing_features
from teeio.interop.cells import Cell, Feature, Role
from teeio.interop.peer import REQUESTER, Peer
from teeio.interop.runs import run
from teeio.interop.special import CASES

BIN = Path(os.environ.get("TEEIO_SPDM_EMU_OPENSSL", "/nonexistent"))
WHY_NOT = "TEEIO_SPDM_EMU_OPENSSL does not name the bin folder of an spdm-emu built with OpenSSL 3.5 or later"
NEEDS = (Feature.ML_DSA, Feature.ED25519, Feature.ED448)
CELLS = [cell for case in CASES for cell in list(case.cells())[-1:] if cell.needs in NEEDS]

pytestmark = [pytest.mark.interop, pytest.mark.skipif(not (BIN / REQUESTER).is_file(), reason=WHY_NOT)]


@cache
def _missing() -> frozenset[Feature]:
    return missing_features(Peer.at(BIN), CELLS)


@pytest.mark.parametrize("role", Role, ids=lambda role: f"our {role.value}")
@pytest.mark.parametrize("cell", CELLS, ids=lambda cell: cell.name)
def test_a_cell(cell: Cell, role: Role) -> None:
    if cell.needs in _missing():
        pytest.skip(f"the peer is built without {cell.needs and cell.needs.value}")
    outcome = run(cell, role, Peer.at(BIN))
    assert outcome.passed, outcome.text
