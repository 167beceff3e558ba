"""Rules that close what PCIe Base up to 6.3 and TDISP, as published, leave open (CERT VU#404544, INTEL-SA-01409).

Each is on by default and can be taken away, so that both behaviours can be seen. That the gaps exist and what each fix is
to achieve is public; how the draft ECN "IDE TLP Reordering Enhancement" and the updated TDISP guidance put it, is not.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class LinkRules:
    """Which of the rules hold; False is the behaviour as published."""

    escorts: bool = True
    """IDE Escorts after each IDE Sync, so that no TLP can pass Posted TLPs unseen (CVE-2025-9612). The form of an escort
    is UNCONFIRMED: `ide_tlp.ide_escort`."""

    quarantines_tags: bool = True
    """The tag of a request that timed out is not used again before the link has been down (CVE-2025-9613)."""

    rekeys_between_bindings: bool = True
    """The TSM binds an interface that had T=1 traffic only after its stream got new keys (CVE-2025-9614)."""


CLOSED = LinkRules()
"""All rules hold."""

AS_PUBLISHED = LinkRules(escorts=False, quarantines_tags=False, rekeys_between_bindings=False)
"""None of them does."""
