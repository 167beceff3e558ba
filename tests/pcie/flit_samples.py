"""TLPs of every kind that both modes can carry, drawn for property tests."""

from __future__ import annotations

from hypothesis import strategies as st

from teeio.pcie.flit_types import ATOMICS, OhcA, family
from teeio.pcie.tlp import CompletionStatus, Routing, Tlp, TlpType, completion, config_read, config_write, message
from teeio.pcie.tlp_headers import Common, MemoryHeader

PASID = bytes.fromhex("91412345")
VENDOR = bytes.fromhex("9f010203")


def memory(kind: TlpType, address: int, payload: bytes = b"", *, enables: int = 0x0F, dwords: int = 1) -> Tlp:
    """Build a memory or I/O request with any byte enables: the last DW's in bits 7:4."""
    header = MemoryHeader(
        common=Common(first_byte=kind.first_byte(address >> 32 != 0), length=dwords),
        requester_id=0x1A5,
        tag=0x42,
        first_be=enables & 15,
        last_be=enables >> 4,
        address_high=address >> 32,
        address_low=address & 0xFFFFFFFF,
    )
    return Tlp(header.encode(), payload)


IDS, TAGS, CLASSES = st.integers(0, 0xFFFF), st.integers(0, 0xFF), st.integers(0, 7)
WORDS = st.integers(1, 8).flatmap(lambda words: st.binary(min_size=4 * words, max_size=4 * words))
BODIES = st.binary(min_size=8, max_size=8)
STATUSES = st.sampled_from(list(CompletionStatus)[:4])
MEMORY = [kind for kind in TlpType if family(kind) is OhcA.MEMORY]


@st.composite
def memory_requests(draw: st.DrawFn) -> Tlp:
    """Draw a memory request with any byte enables, attributes, tag of 10 bits and prefixes."""
    kind, payload = draw(st.sampled_from(MEMORY)), draw(WORDS)
    page = draw(st.one_of(st.integers(0, 0xFFFFF), st.integers(1 << 20, (1 << 52) - 1)))
    dwords = len(payload) // 4
    last = draw(st.integers(1, 15)) if dwords > 1 else 0
    enables = 0 if kind in ATOMICS else last << 4 | draw(st.integers(1, 15))
    tlp = memory(kind, page << 12, payload if kind.with_data else b"", enables=enables, dwords=dwords)
    header = bytearray(tlp.header)
    header[1] = draw(st.integers(0, 0xFF)) & 0b1111_1100  # TC, tag bits 9:8, IDO; no hints
    header[2] |= draw(st.integers(0, 0xFF)) & 0b0111_0000  # EP, attributes
    header[2] |= draw(st.sampled_from([0, 2])) << 2  # untranslated, translated
    return Tlp(bytes(header), tlp.payload, draw(st.sampled_from([b"", PASID, VENDOR, PASID + 3 * VENDOR])))


TLPS = st.one_of(
    memory_requests(),
    st.builds(memory, st.just(TlpType.IORD), st.integers(0, 1 << 20).map(lambda n: 4 * n), enables=st.integers(0, 15)),
    st.builds(config_read, IDS, TAGS, IDS, st.integers(0, 1023).map(lambda n: 4 * n), type_1=st.booleans()),
    st.builds(
        config_write, IDS, TAGS, IDS, st.integers(0, 4095), st.just(1), st.integers(0, 255), type_1=st.booleans()
    ),
    st.builds(
        completion,
        IDS,
        IDS,
        TAGS,
        WORDS,
        byte_count=st.integers(0, 4095),
        lower_address=st.integers(0, 127),
        traffic_class=CLASSES,
    ),
    st.builds(completion, IDS, IDS, TAGS, status=STATUSES),
    st.builds(
        message,
        IDS,
        st.integers(0x70, 255),
        st.sampled_from(Routing),
        BODIES,
        st.just(b""),
        tag=st.integers(0, 127),
        traffic_class=CLASSES,
    ),
    st.builds(message, IDS, st.integers(0x70, 255), st.sampled_from(list(Routing)[:5]), BODIES, WORDS),
)
