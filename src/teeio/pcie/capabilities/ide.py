"""The IDE extended capability (PCIe Base 7.9.26): Link stream blocks, then Selective ones.

`teeio.pcie.ide_port` acts on it. Partial header encryption is not offered (its bits read as zero), Flow-Through
neither: an endpoint or root port passes nothing on.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace

from teeio.errors import Misuse
from teeio.pcie.address import AddressRange
from teeio.pcie.config_space import ExtendedCapability
from teeio.pcie.registers import Access, BitField, Block, Locked, Register, bit, bits

MAX_LINK_STREAMS = 8
MAX_SELECTIVE_STREAMS = 256
MAX_ADDRESS_BLOCKS = 15
FIRST_STREAM = 0x0C
"""Where the register blocks of the streams begin: Link streams, then Selective ones."""
LINK_SIZE = 0x08
SELECTIVE_SIZE = 0x14
"""Size of a Selective stream's registers without its address association blocks, which follow."""
ADDRESS_BLOCK_SIZE = 0x0C
SECURE = 2
"""Stream state in the status registers; 0 is Insecure."""

MEGABYTE = 1 << 20
"""Granularity of an address association."""

_BOUND = Locked.IF_STREAM_BOUND


def _control(*more: BitField) -> tuple[BitField, ...]:
    return (
        bit("enable", 0, Access.RW, "Stream enable", locked=_BOUND),
        bits("npr_aggregation", 3, 2, Access.RW, "Tx aggregation NPR: up to 1, 2, 4, 8 TLPs", locked=_BOUND),
        bits("pr_aggregation", 5, 4, Access.RW, "Tx aggregation PR", locked=_BOUND),
        bits("cpl_aggregation", 7, 6, Access.RW, "Tx aggregation CPL", locked=_BOUND),
        bit("pcrc", 8, Access.RW, "PCRC Enable", locked=_BOUND),
        bits("algorithm", 18, 14, Access.RW, "0: AES-GCM 256-bit key, 96-bit MAC", locked=_BOUND),
        bits("traffic_class", 21, 19, Access.RW, "Traffic class", locked=_BOUND),
        bits("stream_id", 31, 24, Access.RW, "Stream ID", locked=_BOUND),
        *more,
    )


def _status(offset: int, name: str) -> Register:
    return Register(
        offset,
        4,
        name,
        (
            bits("state", 3, 0, Access.RO, "0: Insecure, 2: Secure"),
            bit("fail_received", 31, Access.RW1C, "The partner sent IDE Fail"),
        ),
    )


FEATURE_OF = {
    "npr_aggregation": "aggregation",
    "pr_aggregation": "aggregation",
    "cpl_aggregation": "aggregation",
    "pcrc": "pcrc",
    "configuration": "selective_configuration",
    "tee_limited": "tee_limited",
}
"""The bit of the IDE Capability register without which a field of a control register is reserved (RsvdP)."""


# Offsets are those in the stream's block, of the address associations those in an address association block.
LINK_CONTROL = Register(0x00, 4, "Link IDE Stream Control", _control())
LINK_STATUS = _status(0x04, "Link IDE Stream Status")
SELECTIVE_CAPABILITY = Register(
    0x00,
    4,
    "Selective IDE Stream Capability",
    (bits("address_blocks", 3, 0, Access.HWINIT, "Number of address association blocks"),),
)
SELECTIVE_CONTROL = Register(
    0x04,
    4,
    "Selective IDE Stream Control",
    _control(
        bit("configuration", 9, Access.RW, "Configuration requests use the stream", locked=_BOUND),
        bit("default", 22, Access.RW, "Default Stream", locked=_BOUND),
        bit("tee_limited", 23, Access.RW, "TEE-Limited Stream: only T=1", locked=_BOUND),
    ),
)
SELECTIVE_STATUS = _status(0x08, "Selective IDE Stream Status")
RID_ASSOCIATION_1 = Register(
    0x0C,
    4,
    "IDE RID Association 1",
    (bits("limit", 23, 8, Access.RW, "Last requester ID of the partner", locked=_BOUND),),
)
RID_ASSOCIATION_2 = Register(
    0x10,
    4,
    "IDE RID Association 2",
    (
        bit("valid", 0, Access.RW, "The association counts", locked=_BOUND),
        bits("base", 23, 8, Access.RW, "First requester ID of the partner", locked=_BOUND),
        bits("segment", 31, 24, Access.RW, "Segment of the partner", locked=_BOUND),
    ),
)
ADDRESS_ASSOCIATION_1 = Register(
    0x00,
    4,
    "IDE Address Association 1",
    (
        bit("valid", 0, Access.RW, "The association counts", locked=_BOUND),
        bits("base", 19, 8, Access.RW, "Base bits 31:20", locked=_BOUND),
        bits("limit", 31, 20, Access.RW, "Limit bits 31:20", locked=_BOUND),
    ),
)
ADDRESS_ASSOCIATION_2 = Register(
    0x04, 4, "IDE Address Association 2", (bits("limit", 31, 0, Access.RW, "Limit bits 63:32", locked=_BOUND),)
)
ADDRESS_ASSOCIATION_3 = Register(
    0x08, 4, "IDE Address Association 3", (bits("base", 31, 0, Access.RW, "Base bits 63:32", locked=_BOUND),)
)


@dataclass(frozen=True)
class StreamBlock:
    """The registers of one stream; a Link stream has no associations. `index` counts the Link blocks first."""

    block: Block
    index: int
    selective: bool
    control: Register
    status: Register
    rid: tuple[Register, Register] | None
    addresses: tuple[tuple[Register, Register, Register], ...]

    def field(self, name: str) -> int:
        """Read a field of the control register; a field that Link streams lack reads as zero."""
        if not self.selective and name in ("configuration", "default", "tee_limited"):
            return 0
        return self.block.get(self.control, name)

    @property
    def takes_units(self) -> bool:
        """Whether the port supports aggregation, so that a TLP may come without a MAC of its own."""
        return bool(self.block.get(IdeCapability.CAPABILITY, "aggregation"))

    def rid_range(self) -> range | None:
        """Give the requester IDs of the partner port, None if not valid."""
        if self.rid is None or not self.block.get(self.rid[1], "valid"):
            return None
        return range(self.block.get(self.rid[1], "base"), self.block.get(self.rid[0], "limit") + 1)

    def address_ranges(self) -> list[AddressRange]:
        """Give the associated memory: [base, limit with its low 20 bits all ones]."""
        found = []
        for first, second, third in self.addresses:
            start = self.block.get(third, "base") << 32 | self.block.get(first, "base") << 20
            end = (self.block.get(second, "limit") << 32 | self.block.get(first, "limit") << 20) + MEGABYTE
            if self.block.get(first, "valid") and start < end:
                found.append(AddressRange(start, end - start))
        return found

    def registers(self) -> list[Register]:
        """List the registers whose change matters to the stream."""
        return [self.control, *(self.rid or ()), *(register for block in self.addresses for register in block)]


class IdeCapability(ExtendedCapability):
    """The streams that a port has. `address_blocks` is the same for every Selective stream.

    Control fields of a feature that the port lacks are reserved: they read as zero, whatever is written.
    """

    NAME = "IDE Capability"
    ID = 0x0030
    CAPABILITY = Register(
        0x04,
        4,
        "IDE Capability",
        (
            bit("link", 0, Access.HWINIT, "Link IDE streams supported"),
            bit("selective", 1, Access.HWINIT, "Selective IDE streams supported"),
            bit("flow_through", 2, Access.HWINIT, "Flow-Through IDE supported"),
            bit("partial_header_encryption", 3, Access.HWINIT, "Partial Header Encryption supported"),
            bit("aggregation", 4, Access.HWINIT, "Aggregation supported"),
            bit("pcrc", 5, Access.HWINIT, "PCRC supported"),
            bit("ide_km", 6, Access.HWINIT, "IDE_KM supported", reset=1),
            bit("selective_configuration", 7, Access.HWINIT, "Selective IDE for configuration requests supported"),
            bits("algorithms", 12, 8, Access.HWINIT, "0: AES-GCM 256-bit key, 96-bit MAC"),
            bits("link_classes", 15, 13, Access.HWINIT, "Traffic classes with Link IDE minus 1"),
            bits("selective_streams", 23, 16, Access.HWINIT, "Selective streams minus 1"),
            bit("tee_limited", 24, Access.HWINIT, "TEE-Limited Stream supported"),
        ),
    )
    CONTROL = Register(
        0x08, 4, "IDE Control", (bit("flow_through", 2, Access.RSVDP, "Flow-Through IDE Stream Enabled"),)
    )

    def __init__(
        self,
        selective: int = 1,
        address_blocks: int = 1,
        *,
        link: int = 0,
        aggregation: bool = True,
        pcrc: bool = True,
        tee_limited: bool = True,
        selective_configuration: bool = False,
    ) -> None:
        if not (0 <= link <= MAX_LINK_STREAMS and 0 <= selective <= MAX_SELECTIVE_STREAMS and link + selective):
            raise Misuse(
                f"{link} Link and {selective} Selective streams; there can be 8 and 256, and there must be one"
            )
        if not 0 <= address_blocks <= MAX_ADDRESS_BLOCKS:
            raise Misuse(f"{address_blocks} address association blocks; there can be {MAX_ADDRESS_BLOCKS}")
        features = {
            "aggregation": aggregation,
            "pcrc": pcrc,
            "selective_configuration": selective_configuration and selective > 0,
            "tee_limited": tee_limited and selective > 0,
        }
        self._reserved = {field for field, feature in FEATURE_OF.items() if not features[feature]}
        self.streams: list[StreamBlock] = []
        self._capabilities: list[Register] = []
        end = FIRST_STREAM
        for _ in range(link):
            end = self._lay_link(end)
        for _ in range(selective):
            end = self._lay_selective(end, address_blocks)
        registers = [r for stream in self.streams for r in (*stream.registers(), stream.status)]
        super().__init__(end, [*registers, *self._capabilities])
        for register in self._capabilities:
            self.set(register, address_blocks=address_blocks)
        self.set(
            self.CAPABILITY,
            link=int(link > 0),
            selective=int(selective > 0),
            link_classes=max(link - 1, 0),
            selective_streams=max(selective - 1, 0),
            **{name: int(there) for name, there in features.items()},
        )

    def _lay_link(self, at: int) -> int:
        index = len(self.streams)
        control = _at(at, index, _without(LINK_CONTROL, self._reserved))
        status = _at(at, index, LINK_STATUS)
        self.streams.append(StreamBlock(self, index, False, control, status, None, ()))
        return at + LINK_SIZE

    def _lay_selective(self, at: int, address_blocks: int) -> int:
        index = len(self.streams)
        self._capabilities.append(_at(at, index, SELECTIVE_CAPABILITY))
        control = _at(at, index, _without(SELECTIVE_CONTROL, self._reserved))
        status = _at(at, index, SELECTIVE_STATUS)
        rid = _at(at, index, RID_ASSOCIATION_1), _at(at, index, RID_ASSOCIATION_2)
        end = at + SELECTIVE_SIZE + ADDRESS_BLOCK_SIZE * address_blocks
        addresses = tuple(
            (
                _at(block, index, ADDRESS_ASSOCIATION_1),
                _at(block, index, ADDRESS_ASSOCIATION_2),
                _at(block, index, ADDRESS_ASSOCIATION_3),
            )
            for block in range(at + SELECTIVE_SIZE, end, ADDRESS_BLOCK_SIZE)
        )
        self.streams.append(StreamBlock(self, index, True, control, status, rid, addresses))
        return end

    @property
    def flows_through(self) -> bool:
        """Whether the port lets Selective IDE TLPs of other ports through."""
        return bool(self.get(self.CONTROL, "flow_through"))

    def copied_registers(self) -> bytes:
        """Give the registers from the IDE Capability register on, as IDE_KM's QUERY_RESP carries them."""
        return self.read(4, self.size - 4).to_bytes(self.size - 4, "little")


class SwitchIdeCapability(IdeCapability):
    """The IDE capability of a switch port: Link streams, and Flow-Through, which software enables."""

    NAME = "IDE Capability of a switch port"
    CONTROL = Register(0x08, 4, "IDE Control", (bit("flow_through", 2, Access.RW, "Flow-Through IDE Stream Enabled"),))

    def __init__(self, *, link: int = 1) -> None:
        super().__init__(selective=0, address_blocks=0, link=link)
        self.set(self.CAPABILITY, flow_through=1)


def _without(register: Register, reserved: Collection[str]) -> Register:
    """Give the register as it is where these of its fields are reserved."""
    fields = [replace(one, access=Access.RSVDP) if one.name in reserved else one for one in register.fields]
    return replace(register, fields=tuple(fields))


def _at(base: int, index: int, register: Register) -> Register:
    """Give stream `index`'s copy of a register whose block lies at `base`."""
    return register.at(base + register.offset, index)
