"""Faults: what can go wrong between the actors, struck at every point of a life; what becomes of it, and that nothing leaks."""

from teeio.faults.accounts import ACCOUNTS, counts, left
from teeio.faults.campaign import campaign, sampled, selected
from teeio.faults.expected import Ending, Row, Stage
from teeio.faults.fault import Fault
from teeio.faults.life import STEPS
from teeio.faults.playing import Played, play, points
from teeio.faults.points import Moment, Point, Seam, Strike
from teeio.faults.states import FORMS, State
from teeio.faults.table import FAULTS
from teeio.faults.taking_down import Returned

__all__ = [
    "ACCOUNTS",
    "FAULTS",
    "FORMS",
    "STEPS",
    "Ending",
    "Fault",
    "Moment",
    "Played",
    "Point",
    "Returned",
    "Row",
    "Seam",
    "Stage",
    "State",
    "Strike",
    "campaign",
    "counts",
    "left",
    "play",
    "points",
    "sampled",
    "selected",
]
