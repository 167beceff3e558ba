"""The IDE registers of a device as QUERY_RESP has copied them: its own word, over the session (PCIe Base 6.33.3, 7.9.26).

The VMM writes these registers and could show others to whoever reads configuration space; so the TSM goes by this copy alone.
Faults are raised as `PeerViolation`.
"""

from __future__ import annotations

from teeio.abi.operands import NO_OPTIONS, StreamOptions
from teeio.errors import PeerViolation
from teeio.pcie.address import AddressRange
from teeio.pcie.capabilities.ide import (
    ADDRESS_ASSOCIATION_1,
    ADDRESS_ASSOCIATION_2,
    ADDRESS_ASSOCIATION_3,
    ADDRESS_BLOCK_SIZE,
    FIRST_STREAM,
    LINK_SIZE,
    MEGABYTE,
    RID_ASSOCIATION_1,
    RID_ASSOCIATION_2,
    SECURE,
    SELECTIVE_CAPABILITY,
    SELECTIVE_CONTROL,
    SELECTIVE_SIZE,
    SELECTIVE_STATUS,
    IdeCapability,
)
from teeio.pcie.registers import Register

COPIED_FROM = IdeCapability.CAPABILITY.offset
"""Offset in the capability of the first byte that QUERY_RESP carries."""

AES_GCM_256_96B = 0
"""The one algorithm of IDE: AES-GCM with a 256-bit key and a 96-bit MAC."""

_CLAUSE = "PCIe Base 6.33.3, QUERY_RESP"


class SelectiveBlock:
    """The registers of one Selective stream, as QUERY_RESP has copied them."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.stream_id = self._get(SELECTIVE_CONTROL, "stream_id")
        self.algorithm = self._get(SELECTIVE_CONTROL, "algorithm")
        pr, npr, cpl = (self._get(SELECTIVE_CONTROL, f"{name}_aggregation") for name in ("pr", "npr", "cpl"))
        self.options = StreamOptions(bool(self._get(SELECTIVE_CONTROL, "pcrc")), (pr, npr, cpl))

    def problem(self, partner: range, memory: AddressRange) -> str | None:
        """Say what is not as a stream to that partner and that MMIO must be, or None."""
        if not self._get(SELECTIVE_CONTROL, "enable") or self._get(SELECTIVE_STATUS, "state") != SECURE:
            return "the stream is not enabled and Secure"
        if self._get(SELECTIVE_CONTROL, "default"):
            return "it is the default stream"
        requesters = range(self._get(RID_ASSOCIATION_2, "base"), self._get(RID_ASSOCIATION_1, "limit") + 1)
        if not self._get(RID_ASSOCIATION_2, "valid") or self._get(RID_ASSOCIATION_2, "segment"):
            return "it has no requester id association in segment 0"
        if requesters != partner:
            return f"its partner is {requesters.start:#06x} to {requesters.stop - 1:#06x}"
        return None if self.addresses() == ([memory] if memory.size else []) else "its address association is another"

    def check_insecure(self) -> None:
        """See that nobody uses the stream: one that turned Insecure took every interface bound to it to ERROR."""
        if self._get(SELECTIVE_STATUS, "state") == SECURE:
            raise PeerViolation(f"stream {self.stream_id} is Secure before it got its first keys", _CLAUSE)

    def addresses(self) -> list[AddressRange]:
        """Give the associated memory."""
        found = []
        for at in range(SELECTIVE_SIZE, len(self._data), ADDRESS_BLOCK_SIZE):
            if self._get(ADDRESS_ASSOCIATION_1, "valid", at):
                base, limit = (
                    self._get(ADDRESS_ASSOCIATION_1, "base", at),
                    self._get(ADDRESS_ASSOCIATION_1, "limit", at),
                )
                start = self._get(ADDRESS_ASSOCIATION_3, "base", at) << 32 | base << 20
                end = (self._get(ADDRESS_ASSOCIATION_2, "limit", at) << 32 | limit << 20) + MEGABYTE
                found.append(AddressRange(start, end - start))
        return found

    def _get(self, register: Register, name: str, at: int = 0) -> int:
        return register.get(int.from_bytes(self._data[at + register.offset : at + register.offset + 4], "little"), name)


class QueriedRegisters:
    """All registers of a port."""

    def __init__(self, registers: bytes) -> None:
        self._data = registers
        self._says = self._dword(0)

    def says(self, name: str) -> int:
        """Give a field of the IDE Capability register."""
        return IdeCapability.CAPABILITY.get(self._says, name)

    def blocks(self) -> list[SelectiveBlock]:
        """Cut out the registers of the Selective streams."""
        at = FIRST_STREAM - COPIED_FROM + (LINK_SIZE * (self.says("link_classes") + 1) if self.says("link") else 0)
        found = []
        for _ in range(self.says("selective_streams") + 1 if self.says("selective") else 0):
            count = SELECTIVE_CAPABILITY.get(self._dword(at), "address_blocks")
            end = at + SELECTIVE_SIZE + ADDRESS_BLOCK_SIZE * count
            if len(self._data) < end:
                raise PeerViolation("QUERY_RESP does not carry all stream registers", _CLAUSE)
            found.append(SelectiveBlock(self._data[at:end]))
            at = end
        return found

    def stream(self, stream_id: int) -> SelectiveBlock:
        """Give the one block with this Stream ID."""
        found = [block for block in self.blocks() if block.stream_id == stream_id]
        if len(found) != 1:
            raise PeerViolation(f"{len(found)} register blocks have Stream ID {stream_id}", _CLAUSE)
        return found[0]

    def check_offers(self, stream_id: int, options: StreamOptions = NO_OPTIONS) -> None:
        """See that the port can do, and the stream is set to, what keys will be sent for: nothing weaker, nothing else."""
        missing = [name for name in ("selective", "ide_km", *options.features) if not self.says(name)]
        if missing:
            raise PeerViolation(f"the port says that it does not support {' and '.join(missing)}", _CLAUSE)
        block = self.stream(stream_id)
        if block.options != options:
            raise PeerViolation(f"stream {stream_id} is set to {block.options}, not to {options}", _CLAUSE)
        for what, algorithm in (
            ("the port supports", self.says("algorithms")),
            (f"stream {stream_id} is set to", block.algorithm),
        ):
            if algorithm != AES_GCM_256_96B:
                raise PeerViolation(f"{what} algorithm {algorithm}, not AES-GCM-256-96B", _CLAUSE)

    def _dword(self, at: int) -> int:
        if len(self._data) < at + 4:
            raise PeerViolation("QUERY_RESP does not carry all stream registers", _CLAUSE)
        return int.from_bytes(self._data[at : at + 4], "little")
