"""Checks whose removal the exploration must notice, each with the root and the depth at which it does."""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType

from teeio.explorer import mutants
from teeio.scenarios.mutants import NO_COUNTER, NO_MAC, NO_STATE_RULES
from teeio.scenarios.scenario import Mutant


@dataclass(frozen=True, slots=True)
class Removal:
    """A mutant, and where its fault shows: within `depth` actions from `root`."""

    name: str
    mutant: Mutant
    root: str
    depth: int


REMOVALS = MappingProxyType(
    {
        one.name: one
        for one in (
            Removal("state-rules", NO_STATE_RULES, "attested", 2),
            Removal("sending", mutants.SENDING, "allowed", 1),
            Removal("start-authority", mutants.START_AUTHORITY, "assigned", 2),
            Removal("lock-binding", mutants.LOCK_BINDING, "relocked", 3),
            Removal("own-interface", mutants.OWN_INTERFACE, "attested", 1),
            Removal("scrubbing", mutants.SCRUBBING, "page going", 1),
            Removal("tracking", mutants.TRACKING, "page blocked", 2),
            Removal("iommu-tracking", mutants.IOMMU_TRACKING, "page blocked", 3),
            Removal("private-pages", mutants.PRIVATE_PAGES, "sharing", 2),
            Removal("dma-pending", mutants.DMA_PENDING, "entry anew", 2),
            Removal("dma-invalidation", mutants.DMA_INVALIDATION, "entry blocked", 2),
            Removal("dma-owner", mutants.DMA_OWNER, "entry gone", 2),
            Removal("late-answers", mutants.LATE_ANSWERS, "starting", 2),
            Removal("blocked-stream", mutants.BLOCKED_STREAM, "locking", 2),
            Removal("heartbeat", mutants.HEARTBEAT, "befallen", 1),
            Removal("session-end", mutants.SESSION_END, "befallen", 1),
            Removal("mmio-report", mutants.MMIO_REPORT, "bound", 3),
            Removal("mmio-owner", mutants.MMIO_OWNER, "both bound", 1),
            Removal("mmio-metadata", mutants.MMIO_METADATA, "both bound", 2),
            Removal("new-keys", mutants.NEW_KEYS, "holding", 2),
            Removal("trusted-stream", mutants.TRUSTED_STREAM, "running", 1),
            Removal("requester-ids", mutants.REQUESTER_IDS, "running", 1),
            Removal("insecure", mutants.INSECURE, "on the link", 2),
            Removal("counters", NO_COUNTER, "allowed", 2),
            Removal("mac", NO_MAC, "altering", 1),
        )
    }
)
"""Every removal by its name."""
