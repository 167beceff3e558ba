"""The PASID that a request may carry: an End-End prefix of the TLP (PCIe Base 6.20.2)."""

from __future__ import annotations

from teeio.pcie.tlp import Tlp
from teeio.pcie.tlp_headers import PASID_PREFIX, PasidPrefix

PREFIX_SIZE = 4


def pasid_of(tlp: Tlp) -> int | None:
    """Give the PASID of a TLP, None if it carries none."""
    for at in range(0, len(tlp.prefixes), PREFIX_SIZE):
        if tlp.prefixes[at] == PASID_PREFIX:
            return PasidPrefix.decode(tlp.prefixes[at : at + PREFIX_SIZE]).pasid
    return None
