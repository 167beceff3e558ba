"""How transfers are cut into requests and reads into completions."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pcie.link_bench import PF, Bench
from teeio.observe import TlpMoved
from teeio.pcie.seams import Reply
from teeio.pcie.tlp import (
    CompletionStatus,
    memory_read,
)
from teeio.pcie.transfer import completions, pieces


def test_transfers_are_cut(bench: Bench) -> None:
    bench.port.dma_read(PF.requester_id, 0, 2048, False)
    moved = [event for event in bench.events if isinstance(event, TlpMoved)]
    assert [event.kind for event in moved[-12:]] == (["MRd"] + ["CplD"] * 2) * 4
    assert max(event.size for event in moved) <= 16 + 256


@given(st.integers(0, 10000), st.integers(0, 10000), st.sampled_from([128, 256, 512]))
def test_pieces_cover_without_crossing_pages(address: int, size: int, largest: int) -> None:
    found = list(pieces(address, size, largest))
    assert sum(part for _, part in found) == size
    at = address
    for start, part in found:
        assert start == at
        assert 0 < part <= largest
        assert start // 4096 == (start + part - 1) // 4096
        at += part


@given(st.integers(0, 4095), st.integers(1, 4096), st.sampled_from([128, 256, 512]))
def test_completions_follow_the_read_completion_boundary(offset: int, size: int, max_payload: int) -> None:
    size = min(size, 4096 - offset)
    request = memory_read(8, 3, 0x1000 + offset, size)
    parts = completions(request, 0x100, Reply(CompletionStatus.SC, bytes(size)), max_payload)
    assert sum(len(part.payload) for part in parts) == 4 * request.memory().dwords
    assert all(len(part.payload) <= max_payload for part in parts)
    left = size
    for number, part in enumerate(parts):
        header = part.completion()
        assert (header.byte_count or 4096) == left
        if number:
            assert header.lower_address % 64 == 0
        left -= len(part.payload) - (offset % 4 if number == 0 else 0)
