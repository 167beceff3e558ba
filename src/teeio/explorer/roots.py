"""Where an exploration begins: named states of the world, each reached by actions of the trusted life."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

_LIFE = (
    "ask to bind and lock",
    "read the report and the lock's id",
    "validate, accept MMIO",
    "accept DMA",
    "allow the start",
    "drive START",
)

ROOTS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "assigned": (),
        "attested": tuple(f"A: {step}" for step in _LIFE[:2]),
        "allowed": tuple(f"A: {step}" for step in _LIFE[:5]),
        "running": (*(f"A: {step}" for step in _LIFE), "A: write to the device", "A: write to the page"),
        "relocked": (*(f"A: {step}" for step in _LIFE[:2]), "A: drive STOP", "A: drive LOCK"),
        "page going": (
            *(f"A: {step}" for step in _LIFE),
            "A: write to the page",
            "A: block the page",
            "A: track the TLBs",
            "A: invalidate the IOTLB",
        ),
        "both running": tuple(f"{name}: {step}" for name in ("A", "B") for step in _LIFE),
    }
)
"""The actions that lead to each root from a world in which both VFs are assigned and nothing is locked."""
