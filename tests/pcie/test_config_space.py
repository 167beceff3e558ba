"""Registers and configuration space: access kinds, capability lists, BARs, VFs, and the locked classes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from teeio.errors import Misuse
from teeio.pcie.address import AddressRange, Bdf
from teeio.pcie.capabilities.aer import AerCapability, Uncorrectable
from teeio.pcie.capabilities.bar import Bar
from teeio.pcie.capabilities.doe import DoeCapability
from teeio.pcie.capabilities.express import ExpressCapability, PortType
from teeio.pcie.capabilities.header import CommonHeader, Type0Header, Type1Header, VirtualFunctionHeader
from teeio.pcie.capabilities.ide import IdeCapability
from teeio.pcie.capabilities.msix import MsixCapability, MsixMessage
from teeio.pcie.capabilities.power import PowerManagementCapability
from teeio.pcie.capabilities.sriov import SriovCapability
from teeio.pcie.config_space import BarHit, ConfigSpace, Functions
from teeio.pcie.registers import Access, Block, Locked, Register, bit, bits, disturbs

BARS = (Bar(0, 1 << 20, wide=True, prefetchable=True), Bar(2, 4096, wide=False), Bar(4, 1 << 33, wide=True))


def make_space() -> ConfigSpace:
    return ConfigSpace(
        Type0Header(0x1234, 0x5678, 0x120000, BARS, multi_function=True),
        [PowerManagementCapability(), MsixCapability(8, 2), ExpressCapability(tee_io=True)],
        [AerCapability(), DoeCapability(), IdeCapability(2, 3, link=1), SriovCapability(4, 0x5679, (Bar(0, 8192),))],
    )


def all_blocks() -> list[Block]:
    space = make_space()
    msix = space.need(MsixCapability)
    port = Type1Header(0x1234, 0x1)
    vf = VirtualFunctionHeader(0x120000)
    return [space.header, *space.capabilities, *space.extended, msix.table, msix.pending, port, vf]


# -- derived from the declarations


@pytest.mark.parametrize("block", all_blocks(), ids=lambda block: block.NAME)
def test_every_field_obeys_its_access_kind(block: Block) -> None:
    for register in block.registers:
        for value in ((1 << 8 * register.size) - 1, 0):
            before = block.value(register)
            block.write(register.offset, register.size, value)
            after = block.value(register)
            for field in register.fields:
                old, new = before & field.mask, after & field.mask
                if field.access is Access.RW:
                    assert new == value & field.mask, (register.name, field.name)
                elif field.access is Access.RW1C:
                    assert new == old & ~value, (register.name, field.name)
                else:
                    assert new == old, (register.name, field.name)
            assert after & ~sum(field.mask for field in register.fields) == 0


@pytest.mark.parametrize("block", all_blocks(), ids=lambda block: block.NAME)
def test_every_field_is_documented_and_in_the_table(block: Block) -> None:
    rows = list(block.rows())
    assert len(rows) == sum(len(register.fields) for register in block.registers)
    assert all(row.doc and row.register for row in rows)


@given(st.integers(0, 4095), st.integers(1, 8), st.integers(0, (1 << 64) - 1))
def test_any_access_is_the_same_as_byte_accesses(offset: int, size: int, value: int) -> None:
    one, other = make_space(), make_space()
    one.write(offset, size, value)
    for number in range(size):
        other.write(offset + number, 1, value >> 8 * number & 0xFF)
    assert one.snapshot() == other.snapshot()
    assert one.read(offset, size).to_bytes(size, "little") == (one.snapshot() + bytes(8))[offset : offset + size]


@pytest.mark.parametrize(
    ("locked", "old", "new", "facts", "moves"),
    [
        (Locked.ALLOWED, 0, 1, {}, False),
        (Locked.ERROR, 0, 1, {}, True),
        (Locked.ERROR, 1, 1, {}, False),
        (Locked.ERROR_ON_CLEAR, 1, 0, {}, True),
        (Locked.ERROR_ON_CLEAR, 0, 1, {}, False),
        (Locked.IF_MSIX_LOCKED, 0, 1, {}, False),
        (Locked.IF_MSIX_LOCKED, 0, 1, {"msix_locked": True}, True),
        (Locked.IF_STREAM_BOUND, 0, 1, {}, False),
        (Locked.IF_STREAM_BOUND, 0, 1, {"stream_bound": True}, True),
        (Locked.IF_STATE_LOST, 0, 1, {}, False),
        (Locked.IF_STATE_LOST, 0, 1, {"state_lost": True}, True),
    ],
)
def test_locked_classes(locked: Locked, old: int, new: int, facts: dict[str, bool], moves: bool) -> None:
    register = Register(0, 4, "R", (bit("f", 0, Access.RW, "F", locked=locked), bit("g", 1, Access.RW, "G")))
    known = {"msix_locked": False, "stream_bound": False, **facts}
    assert [field.name for field in disturbs(register, old, new | 2, **known)] == ["f"] * moves


@pytest.mark.parametrize(
    ("register", "field", "locked"),
    [
        (CommonHeader.COMMAND, "memory_space", Locked.ERROR_ON_CLEAR),
        (CommonHeader.COMMAND, "bus_master", Locked.ERROR_ON_CLEAR),
        (CommonHeader.COMMAND, "serr", Locked.ALLOWED),
        (CommonHeader.CACHE_LINE_SIZE, "size", Locked.ALLOWED),
        (ExpressCapability.DEVICE_CONTROL, "initiate_flr", Locked.ERROR),
        (ExpressCapability.DEVICE_CONTROL, "extended_tag", Locked.ERROR),
        (ExpressCapability.DEVICE_CONTROL, "phantom_functions", Locked.ERROR),
        (ExpressCapability.DEVICE_CONTROL, "no_snoop", Locked.ERROR),
        (ExpressCapability.DEVICE_CONTROL, "max_payload", Locked.ALLOWED),
        (ExpressCapability.DEVICE_CONTROL_2, "ten_bit_tag", Locked.ERROR),
        (ExpressCapability.LINK_CONTROL, "aspm", Locked.ALLOWED),
        (MsixCapability.CONTROL, "enable", Locked.IF_MSIX_LOCKED),
        (SriovCapability.CONTROL, "vf_enable", Locked.ERROR),
        (PowerManagementCapability.CONTROL, "power_state", Locked.IF_STATE_LOST),
    ],
)
def test_register_tracking_table(register: Register, field: str, locked: Locked) -> None:
    """PCIe Base table 11-2."""
    assert register.field(field).locked is locked


def test_bars_and_streams_are_tracked_too() -> None:
    space = make_space()
    bars = [register for register in space.header.registers if register.name.startswith("BAR")]
    assert len(bars) == 5
    assert all(f.locked is Locked.ERROR for register in bars for f in register.fields if f.access is Access.RW)
    for stream in space.need(IdeCapability).streams:
        for register in stream.registers():
            assert all(f.locked is Locked.IF_STREAM_BOUND for f in register.fields)
            assert register.index == stream.index


def test_flr_is_seen_by_the_observer_and_not_stored() -> None:
    space = make_space()
    seen: list[tuple[Register, int, int]] = []
    space.observe_guarded(lambda register, old, new: seen.append((register, old, new)))
    express = space.need(ExpressCapability)
    at = express.base + ExpressCapability.DEVICE_CONTROL.offset
    before = space.read(at, 2)
    space.write(at, 2, before | 0x8000)
    assert space.read(at, 2) == before
    ((register, old, new),) = seen
    assert register is ExpressCapability.DEVICE_CONTROL
    assert [field.name for field in disturbs(register, old, new, msix_locked=False, stream_bound=False)] == [
        "initiate_flr"
    ]


# -- the lists of capabilities


def walk(space: ConfigSpace) -> list[int]:
    found, at = [], space.read(0x34, 1)
    while at:
        found.append(space.read(at, 1))
        at = space.read(at + 1, 1)
    return found


def walk_extended(space: ConfigSpace) -> list[int]:
    found, at = [], 0x100
    while at:
        header = space.read(at, 4)
        found.append(header & 0xFFFF)
        at = header >> 20
    return found


def test_capability_lists_can_be_walked() -> None:
    space = make_space()
    assert walk(space) == [0x01, 0x11, 0x10]
    assert walk_extended(space) == [0x0001, 0x002E, 0x0030, 0x0010]
    assert space.read(0x06, 2) & 0x10
    device_capabilities = space.read(space.need(ExpressCapability).base + 4, 4)
    assert device_capabilities & (1 << 30)
    assert device_capabilities & (1 << 28)
    assert space.read(0x00, 4) == 0x56781234
    assert space.read(0x0E, 1) == 0x80
    assert space.read(0xFFC, 4) == 0


def test_capabilities_lie_where_they_are_put() -> None:
    aer, doe = AerCapability(), DoeCapability()
    doe.base = 0x150
    space = ConfigSpace(Type0Header(1, 2, 3), [], [aer, doe])
    assert space.read(0x150, 4) & 0xFFFF == 0x2E
    clash = DoeCapability()
    clash.base = 0x110
    with pytest.raises(Misuse, match="overlaps"):
        ConfigSpace(Type0Header(1, 2, 3), [], [AerCapability(), clash])
    with pytest.raises(Misuse, match="fit"):
        ConfigSpace(Type0Header(1, 2, 3), [], [IdeCapability(255, 15)])
    with pytest.raises(Misuse, match="no MSI-X"):
        space.need(MsixCapability)


def test_root_port_has_no_tee_io_unless_told() -> None:
    express = ExpressCapability(PortType.ROOT_PORT)
    assert express.get(ExpressCapability.DEVICE_CAPABILITIES, "tee_io") == 0
    assert express.get(ExpressCapability.DEVICE_CAPABILITIES, "function_level_reset") == 0


@pytest.mark.parametrize(("code", "size"), [(0, 128), (1, 256), (2, 256), (7, 256)])
def test_max_payload(code: int, size: int) -> None:
    express = ExpressCapability()
    express.write(8, 2, code << 5)
    assert express.max_payload == size


# -- BARs


@pytest.mark.parametrize("bar", BARS, ids=lambda bar: f"BAR{bar.number}")
def test_bar_sizing_and_placing(bar: Bar) -> None:
    space = make_space()
    at = 0x10 + 4 * bar.number
    for offset in (at, at + 4)[: 1 + bar.wide]:
        space.write(offset, 4, 0xFFFFFFFF)
    answer = space.read(at, 4) | (space.read(at + 4, 4) << 32 if bar.wide else 0xFFFFFFFF << 32)
    assert (~(answer & ~0xF) & (1 << 64) - 1) + 1 == bar.size
    assert answer & 0xF == (4 if bar.wide else 0) | (8 if bar.prefetchable else 0)
    base = 0x40_0000_0000 if bar.wide else 0xFE00_0000
    space.write(at, 4, base & 0xFFFFFFFF)
    if bar.wide:
        space.write(at + 4, 4, base >> 32)
    assert space.header.bar_ranges() == {}
    space.write(0x04, 2, 2)
    assert space.header.bar_ranges()[bar.number] == AddressRange(base, bar.size)


@pytest.mark.parametrize(
    "bars", [(Bar(5, 4096),), (Bar(0, 4096), Bar(1, 4096, wide=False)), (Bar(0, 3000),), (Bar(0, 64),)]
)
def test_bars_that_cannot_be(bars: tuple[Bar, ...]) -> None:
    with pytest.raises(Misuse, match="BAR"):
        Type0Header(1, 2, 3, bars)


def test_root_port_windows() -> None:
    port = Type1Header(0x1234, 1)
    port.write(0x18, 4, 0x00_03_01_00)
    assert [bus for bus in range(6) if port.forwards_bus(bus)] == [1, 2, 3]
    assert port.windows() == []
    port.write(0x04, 2, 2)
    assert port.windows() == []
    port.write(0x20, 4, 0xFE1F_FE00)
    port.write(0x24, 4, 0x000F_0000 | 0xFFF0_0000)
    port.write(0x28, 4, 0x40)
    port.write(0x2C, 4, 0x41)
    assert port.windows() == [AddressRange(0xFE00_0000, 0x20_0000), AddressRange(0x40_0000_0000, 0x2_0000_0000)]
    assert not Type1Header(1, 2).forwards_bus(0)


# -- MSI-X


def test_msix_vectors() -> None:
    msix = MsixCapability(3, 2, table_offset=0x800)
    assert msix.raise_vector(1) is None
    assert not msix.pending.marked(1)
    msix.write(2, 2, 0x8000)
    msix.table.write(16, 4, 0xFEE0_1003)
    msix.table.write(24, 4, 0x41)
    assert msix.raise_vector(1) is None
    assert msix.pending.marked(1)
    assert msix.due() == []
    msix.table.write(28, 4, 0)
    assert msix.due() == [1]
    assert msix.raise_vector(1) == MsixMessage(0xFEE0_1000, 0x41)
    assert msix.due() == []
    assert msix.read(4, 4) == 0x802
    with pytest.raises(Misuse):
        msix.raise_vector(3)
    with pytest.raises(Misuse):
        MsixCapability(0, 0)


# -- functions and VFs

PF = Bdf(0, 0xBE, 0, 0)


def make_functions() -> tuple[Functions, ConfigSpace]:
    space = make_space()
    vfs = [ConfigSpace(VirtualFunctionHeader(0x120000), [ExpressCapability()]) for _ in range(4)]
    return Functions(PF, {0: space}, {0: (space.need(SriovCapability), vfs)}), space


def test_vfs_appear_only_when_enabled() -> None:
    functions, space = make_functions()
    vf = Bdf(0, 0xBE, 0, 1)
    sriov = space.need(SriovCapability).base
    assert functions.config_read(vf, 0, 4) is None
    assert not functions.config_write(vf, 4, 2, 4)
    space.write(sriov + 0x10, 2, 2)
    space.write(sriov + 0x08, 2, 1)
    assert functions.config_read(vf, 0, 4) == 0xFFFFFFFF
    assert functions.config_write(vf, 4, 2, 6)
    assert functions.config_read(vf, 4, 2) == 4
    assert list(functions.present()) == [PF, vf, Bdf(0, 0xBE, 0, 2)]
    space.write(sriov + 0x10, 2, 4)
    assert len(functions.present()) == 3
    space.write(sriov + 0x08, 2, 0)
    assert list(functions.present()) == [PF]
    space.write(sriov + 0x08, 2, 1)
    assert len(functions.present()) == 5
    space.reset()
    assert list(functions.present()) == [PF]


def test_num_vfs_beyond_total_counts_as_total() -> None:
    sriov = SriovCapability(4, 1)
    sriov.write(0x10, 2, 0xFFFF)
    sriov.write(0x08, 2, 1)
    assert list(sriov.offsets()) == [1, 2, 3, 4]
    assert not SriovCapability(2, 1, first_offset=0x80, stride=2).offsets()


def test_vf_bars_follow_one_another() -> None:
    functions, space = make_functions()
    base = space.need(SriovCapability).base
    space.write(base + 0x24, 4, 0xFFFFFFFF)
    assert space.read(base + 0x24, 4) & ~0xF == 0xFFFFE000
    space.write(base + 0x24, 4, 0x8000_0000)
    space.write(base + 0x28, 4, 0)
    space.write(base + 0x10, 2, 2)
    space.write(base + 0x08, 2, 1)
    assert functions.decode(0x8000_2000) is None
    space.write(base + 0x08, 2, 9)
    assert functions.decode(0x8000_0000) == BarHit(Bdf(0, 0xBE, 0, 1), 0, 0)
    assert functions.decode(0x8000_2010, 8) == BarHit(Bdf(0, 0xBE, 0, 2), 0, 0x10)
    assert functions.decode(0x8000_1FFF, 2) is None
    assert functions.decode(0x8000_4000) is None


def test_reset_keeps_sticky_fields() -> None:
    space = make_space()
    aer, express = space.need(AerCapability), space.need(ExpressCapability)
    aer.record(Uncorrectable.IDE_CHECK_FAILED, bytes.fromhex("60000004010000ff"))
    express.write(8, 2, 0x20)
    space.write(0x04, 2, 6)
    space.reset()
    assert aer.recorded(Uncorrectable.IDE_CHECK_FAILED)
    assert aer.value(AerCapability.HEADER_LOG[0]) == 0x60000004
    assert space.read(0x04, 2) == 0
    assert express.get(ExpressCapability.DEVICE_CONTROL, "max_payload") == 1
    assert express.get(ExpressCapability.DEVICE_CONTROL, "no_snoop") == 1
    space.reset(sticky_too=True)
    assert not aer.recorded(Uncorrectable.IDE_CHECK_FAILED)


def test_the_aer_bits_of_ide() -> None:
    aer = AerCapability()
    for error, at in ((Uncorrectable.IDE_CHECK_FAILED, 28), (Uncorrectable.MISROUTED_IDE_TLP, 29)):
        aer.record(error)
        assert aer.read(4, 4) & 1 << at
    aer.write(4, 4, 1 << 28)
    assert aer.read(4, 4) == 1 << 29


# -- the IDE capability


def test_ide_register_layout() -> None:
    ide = IdeCapability(2, 3, link=1)
    assert ide.size == 0x0C + 8 + 2 * (20 + 36)
    assert ide.read(4, 4) == 0b1_0000_0001_0000_0000_0111_0011
    first, second = ide.streams[1:]
    assert (first.control.offset, second.control.offset) == (0x18, 0x18 + 56)
    assert ide.read(0x14, 4) == 3
    ide.write(0x20, 4, 0x00_0BE1_00)
    ide.write(0x24, 4, 0x00_0BE0_01)
    assert first.rid_range() == range(0x0BE0, 0x0BE2)
    ide.write(0x28, 4, 0xFE1_FE0_01)
    ide.write(0x2C, 4, 0)
    assert first.address_ranges() == [AddressRange(0xFE00_0000, 0x20_0000)]
    assert second.rid_range() is None
    assert ide.copied_registers() == ide.read(4, ide.size - 4).to_bytes(ide.size - 4, "little")
    with pytest.raises(Misuse):
        IdeCapability(0, 0)


# -- declarations that cannot be


def test_bad_declarations_are_refused() -> None:
    with pytest.raises(TypeError, match="overlaps"):
        Register(0, 1, "R", (bits("a", 4, 0, Access.RW, "A"), bit("b", 4, Access.RW, "B")))
    with pytest.raises(TypeError, match="aligned"):
        Register(2, 4, "R", ())
    with pytest.raises(TypeError, match="reset"):
        Register(0, 1, "R", (bit("a", 0, Access.RW, "A", reset=2),))
    one = Register(0, 4, "R", (bit("a", 0, Access.RW, "A"),))
    with pytest.raises(TypeError, match="overlaps"):
        Block(4, [one, one.at(0, 1)])
    with pytest.raises(Misuse, match="no field"):
        one.field("b")
    with pytest.raises(Misuse, match="fit"):
        one.put(0, a=2)


@pytest.mark.parametrize("text", ["0000:be:1d.7", "be:1d.7", "0001:00:00.0"])
def test_bdf_text(text: str) -> None:
    bdf = Bdf.parse(text)
    assert str(bdf).endswith(text)
    assert Bdf.of(bdf.requester_id, bdf.segment) == bdf


@pytest.mark.parametrize("text", ["", "0000:be:20.0", "be:1d.8", "0000:be:1d", "x"])
def test_bdf_text_that_is_none(text: str) -> None:
    with pytest.raises(Misuse):
        Bdf.parse(text)


def test_bdf_requester_id() -> None:
    assert Bdf(0, 0xBE, 0x1D, 7).requester_id == 0xBEEF
    with pytest.raises(Misuse):
        Bdf(0, 256, 0, 0)
