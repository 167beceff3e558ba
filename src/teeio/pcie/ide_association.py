"""Which TLPs belong to an IDE stream: its associations, sampled from its registers when it is enabled (PCIe Base 6.33.4)."""

from __future__ import annotations

from dataclasses import dataclass, field

from teeio.pcie.address import AddressRange
from teeio.pcie.capabilities.ide import StreamBlock
from teeio.pcie.ide import Stream, StreamSettings
from teeio.pcie.link_mode import LinkMode
from teeio.pcie.link_rules import LinkRules
from teeio.pcie.tlp import Tlp, TlpType

_DEFAULT_TYPES = {TlpType.MRD, TlpType.MRDLK, TlpType.MWR, TlpType.DMWR, TlpType.FETCH_ADD, TlpType.SWAP, TlpType.CAS}
_DEFAULT_TYPES |= {TlpType.MSG_ROOT, TlpType.MSGD_ROOT}


@dataclass(slots=True)
class BoundStream:
    """A stream, its registers, and the associations sampled when it was enabled."""

    block: StreamBlock
    stream: Stream = field(default_factory=Stream)
    rids: range | None = None
    addresses: list[AddressRange] = field(default_factory=list)
    default: bool = False
    tee_limited: bool = False
    configuration: bool = False
    traffic_class: int = 0

    @property
    def id(self) -> int:
        """The Stream ID."""
        return self.stream.settings.stream_id if self.stream.enabled else self.block.field("stream_id")

    def enable(self, rules: LinkRules, mode: LinkMode) -> bool:
        """Sample the registers; False if they are not valid, so that the stream must not become Secure.

        Its TLPs are those of the mode in which the link is now.
        """
        self.stream = mode.stream(self.stream)
        block = self.block
        counts = [1 << block.field(name) for name in ("pr_aggregation", "npr_aggregation", "cpl_aggregation")]
        self.rids, self.addresses = block.rid_range(), block.address_ranges()
        self.default, self.tee_limited = bool(block.field("default")), bool(block.field("tee_limited"))
        self.configuration, self.traffic_class = bool(block.field("configuration")), block.field("traffic_class")
        aggregation = counts[0], counts[1], counts[2]
        pcrc, stream_id = bool(block.field("pcrc")), block.field("stream_id")
        self.stream.enable(
            StreamSettings(stream_id, block.selective, pcrc, aggregation, rules.escorts, block.takes_units)
        )
        return not ((block.selective and self.rids is None) or block.field("algorithm"))

    def takes(self, t_bit: bool) -> bool:
        """Tell whether TLPs with this T bit go by the associations at all."""
        return self.stream.enabled and (t_bit or not self.tee_limited)

    def serves(self, tlp: Tlp) -> bool:
        """Tell whether the associations name this TLP's destination (PCIe Base 6.33.4)."""
        kind, rids = tlp.type, self.rids or range(0)
        if kind.is_completion:
            return tlp.requester_id in rids
        if kind in (TlpType.CFGRD1, TlpType.CFGWR1):
            return self.configuration and tlp.configuration().target_id in rids
        if kind in (TlpType.MSG_ID, TlpType.MSGD_ID):
            return int.from_bytes(tlp.header[8:10], "big") in rids
        if kind.is_message or not kind.selective:
            return False
        address = tlp.memory().address
        return any(associated.holds(address) for associated in self.addresses)

    def takes_by_default(self, tlp: Tlp) -> bool:
        """Tell whether this is the Default Stream, and the TLP of a kind that it carries (PCIe Base 6.33.4)."""
        return self.default and tlp.type in _DEFAULT_TYPES
