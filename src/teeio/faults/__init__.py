"""Faults: what can go wrong between the actors, struck at every point of a life; what becomes of it, and that nothing leaks."""

from teeio.faults.accounts import ACCOUNTS, counts, left
from teeio.faults.campaign import campaign, sampled, selected
from teeio.faults.fault import Ending, Fault
from teeio.faults.life import STEPS
from teeio.faults.playing import Played, play, points
from teeio.faults.points import Moment, Point, Seam, Strike
from teeio.faults.table import FAULTS
from teeio.faults.taking_down import Returned

__all__ = [
    "ACCOUNTS",
    "FAULTS",
    "STEPS",
    "Ending",
    "Fault",
    "Moment",
    "Played",
    "Point",
    "Returned",
    "Seam",
    "Strike",
    "campaign",
    "counts",
    "left",
    "play",
    "points",
    "sampled",
    "selected",
]
