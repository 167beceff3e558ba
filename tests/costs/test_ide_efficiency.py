"""IDE's efficiency: what is counted on frames is what the formula says."""

import pytest

from teeio.costs.ide_efficiency import PAYLOADS, UNITS, Efficiency, efficiencies
from teeio.crypto.entropy import SeededEntropy
from teeio.pcie.ide import MAX_UNIT_PAYLOAD

TABLE = {(row.payload, row.unit): row for row in efficiencies(SeededEntropy(b"efficiency"))}


@pytest.mark.parametrize("row", TABLE.values(), ids=lambda row: f"{row.payload}x{row.unit}")
def test_counted_and_formula_agree_to_three_digits(row: Efficiency) -> None:
    assert round(row.plain_counted, 3) == round(row.plain_formula, 3)
    if row.ide_counted is None:
        assert row.unit > 1
        assert row.unit * row.payload > MAX_UNIT_PAYLOAD
    else:
        assert round(row.ide_counted, 3) == round(row.ide_formula, 3)
        assert round(row.ratio_counted or 0, 3) == round(row.ratio_formula, 3)


@pytest.mark.parametrize(
    ("payload", "unit", "ratio"),
    [(256, 1, 0.946), (64, 1, 0.846), (64, 8, 0.941), (128, 8, 0.965), (4096, 1, 0.996), (4, 1, 0.636)],
)
def test_known_ratios_are_counted(payload: int, unit: int, ratio: float) -> None:
    assert round(TABLE[payload, unit].ratio_counted or 0, 3) == ratio


def test_eight_times_256_bytes_is_too_large_a_unit_but_the_formula_knows_it() -> None:
    row = TABLE[256, 8]
    assert row.ide_counted is None
    assert round(row.ratio_formula, 3) == 0.981


def test_larger_payloads_and_units_never_cost_more() -> None:
    for unit in UNITS:
        ratios = [TABLE[payload, unit].ratio_formula for payload in PAYLOADS]
        assert ratios == sorted(ratios)
    for payload in PAYLOADS:
        ratios = [TABLE[payload, unit].ratio_formula for unit in UNITS]
        assert ratios == sorted(ratios)
