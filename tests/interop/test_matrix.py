"""The quick grid against the reference emulator, in both roles: a sample of every dimension and each special case once."""

from functools import cache

import pytest

from interop.reference_emulator import BIN, INSTALLED, WHY_NOT
from teeio.interop.campaign import missing_features
from teeio.interop.cells import Cell, Feature, Role
from teeio.interop.grid import quick
from teeio.interop.peer import Peer
from teeio.interop.runs import run

pytestmark = [pytest.mark.interop, pytest.mark.skipif(not INSTALLED, reason=WHY_NOT)]


@cache
def _missing() -> frozenset[Feature]:
    return missing_features(Peer.at(BIN), quick())


@pytest.mark.parametrize("role", Role, ids=lambda role: f"our {role.value}")
@pytest.mark.parametrize("cell", quick(), ids=lambda cell: cell.name)
def test_a_cell(cell: Cell, role: Role) -> None:
    if cell.needs is not None and cell.needs in _missing():
        pytest.skip(f"the peer is built without {cell.needs.value}")
    outcome = run(cell, role, Peer.at(BIN))
    assert outcome.passed, outcome.text
