"""Where an exploration begins: named states of the world, each reached by actions of the trusted life, and what is explored there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from teeio.explorer.actions import Topic, choices

BEGINNING = "assigned"
"""The root to which nothing leads."""

_LIFE = (
    "ask to bind and lock",
    "read the report and the lock's id",
    "validate, accept MMIO",
    "accept DMA",
    "allow the start",
    "drive START",
)


def _a(*steps: str) -> tuple[str, ...]:
    return tuple(f"A: {step}" for step in steps)


@dataclass(frozen=True, slots=True)
class Root:
    """The actions that lead there from a world in which both VFs are assigned and nothing is locked, and what is explored.

    `topics` and `tenants` choose the actions that are tried from there. Roots with `near` lie within reach of others.
    """

    name: str
    trail: tuple[str, ...]
    topics: Topic
    tenants: str = "AB"
    near: bool = False

    @property
    def way(self) -> str:
        """The trail in words, rounds of an exchange counted."""
        told = ", ".join(self.trail)
        rounds = max((n for n in range(10) if _ROUND * n in told), default=0)
        return told.replace(_ROUND * rounds, f", {rounds} rounds of it") if rounds else told

    @property
    def choices(self) -> tuple[int, ...]:
        """The indices of the actions that are tried."""
        return choices(self.topics, self.tenants)


_RUNNING = _a(*_LIFE)
_GONE = _a("block the DMA entry", "invalidate the DMA entry", "remove the DMA entry")
_BOTH = (*_RUNNING, *(f"B: {step}" for step in _LIFE))
_LINK = Topic.LIFE | Topic.LINK
_MEMORY = Topic.LIFE | Topic.MEMORY
_DMA = Topic.LIFE | Topic.DMA
_MMIO = Topic.LIFE | Topic.MMIO
_EXCHANGE = Topic.LIFE | Topic.DEVICE | Topic.EXCHANGE
_ALL = ~Topic(0)

_TAKE, _GIVE = "take the waiting request to the device", "give the TSM the waiting answer"
_ROUND = f", {_TAKE}, {_GIVE}"
_LOCK_ASKED = _a(_LIFE[0], "drive STOP", "ask for LOCK, and let it wait")

ROOTS: Mapping[str, Root] = MappingProxyType(
    {
        root.name: root
        for root in (
            Root(BEGINNING, (), _ALL),
            Root("attested", _a(*_LIFE[:2]), _MMIO),
            Root("allowed", _a(*_LIFE[:5]), _DMA | Topic.EXCHANGE),
            Root("running", (*_RUNNING, "A: write to the device", "A: write to the page"), _ALL & ~Topic.EXCHANGE),
            Root("both bound", ("A: ask to bind and lock", "B: ask to bind and lock"), Topic.MMIO),
            Root("both running", _BOTH, _MEMORY | Topic.DEVICE),
            Root("starting", (*_a(*_LIFE[:5], "ask for START, and let it wait"), _TAKE), _EXCHANGE, "A"),
            Root("locking", (*_LOCK_ASKED, _TAKE, _GIVE, _TAKE, _GIVE, _TAKE), _EXCHANGE, "A", near=True),
            Root(
                "refreshing",
                (
                    *_RUNNING,
                    "A: write to the page",
                    "ask for new IDE keys, and let it wait",
                    *(_TAKE, _GIVE) * 9,
                    _TAKE,
                ),
                Topic.DEVICE | Topic.EXCHANGE | Topic.LINK,
                "A",
            ),
            Root("altering", (*_RUNNING, "flip a bit of the next IDE TLP"), _LINK, "A"),
            Root("holding", (*_RUNNING, "hold the next IDE TLP", "A: write to the page"), _LINK, "A"),
            Root(
                "sharing", (*_RUNNING, *_a("share a page", "write by the shared address")), Topic.MEMORY, "A", near=True
            ),
            Root(
                "entry blocked", (*_RUNNING, *_a("write to the page", "block the DMA entry")), Topic.DMA, "A", near=True
            ),
            Root("entry gone", (*_a(*_LIFE[:3]), *_GONE), Topic.DMA, "A", near=True),
            Root("entry anew", (*_RUNNING, *_GONE), Topic.DMA, "A", near=True),
            Root("befallen", _RUNNING, Topic.DEVICE, "A", near=True),
            Root("on the link", _RUNNING, Topic.LINK, "A", near=True),
            Root("relocked", _a(*_LIFE[:2], "drive STOP", "drive LOCK"), Topic.LIFE, "A", near=True),
            Root("bound", _a(_LIFE[0]), Topic.MMIO, "A", near=True),
            Root("page blocked", (*_RUNNING, *_a("write to the page", "block the page")), Topic.MEMORY, "A", near=True),
            Root(
                "page going",
                (
                    *_RUNNING,
                    *_a("write to the page", "block the page", "track the TLBs", "invalidate the IOTLB"),
                ),
                Topic.MEMORY,
                "A",
                near=True,
            ),
        )
    }
)
"""By name."""
