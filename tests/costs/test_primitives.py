"""Cipher and copies measured on this machine."""

from teeio.costs.primitives import claims, measured_ratio
from teeio.crypto.entropy import SeededEntropy


def test_a_clock_that_stands_still_gives_no_ratio() -> None:
    assert measured_ratio(4096, SeededEntropy(b"p"), lambda: 0.0) is None
    assert claims([4096], SeededEntropy(b"p"), lambda: 0.0) == []


def test_the_ratio_is_that_of_the_least_times_by_the_clock() -> None:
    # Two readings for each round of each work: 1 s for a copy, 14 s for a bounce, but for one slow round of each.
    spans = [1.0, 9.0, 1.0, 1.0, 1.0, 14.0, 14.0, 50.0, 14.0, 14.0]
    readings = iter([reading for span in spans for reading in (100.0, 100.0 + span)])
    (claim,) = claims([65536], SeededEntropy(b"p"), lambda: next(readings))
    assert (claim.model, claim.holds) == ("14.0", True)
