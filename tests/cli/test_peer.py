"""`teeio peer`: the story as a document and as text."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from teeio.cli.app import app
from teeio.cli.outcome import Exit
from teeio.guest.peers import PeerLink


def test_three_ways_on_one_platform() -> None:
    done = CliRunner().invoke(app, ["peer", "--seed", "1", "--json"])
    assert done.exit_code == 0, done.output
    told = json.loads(done.output)
    size, ways = told["payload"], told["ways"]
    assert told["went_well"]
    assert all(one["as_it_must_be"] for one in told["seen"])
    assert list(ways) == ["p2p", "private-memory", "shared-memory"]
    direct, private, shared = ways.values()
    for one in (direct, private):
        assert (one["tvm"]["copies"], one["tvm"]["bytes_encrypted"], one["tvm"]["bytes_decrypted"]) == (0, 0, 0)
        assert one["payload_readable"] == dict.fromkeys(one["payload_readable"], False)
    # A seals, the TVM opens and copies in, seals and copies out, B opens; the digest comes back the same way.
    assert shared["tvm"]["copies"] == 3
    assert (shared["tvm"]["bytes_encrypted"], shared["tvm"]["bytes_decrypted"]) == (size, size + 32)
    assert not shared["payload_readable"]["by_the_vmm_in_memory"]
    links = {name: one["links"] for name, one in ways.items()}
    assert links["p2p"]["uplink"]["peer_tlps"] == 0
    assert links["p2p"]["link of A"]["peer_tlps"] == links["p2p"]["link of B"]["peer_tlps"] > size // 128
    assert links["p2p"]["uplink"]["bytes"] < 2048, "doorbells, descriptors, completions, one Translation Request a page"
    for name in ("private-memory", "shared-memory"):
        assert links[name]["uplink"]["bytes"] > 2 * size
        assert all(use["peer_tlps"] == 0 for use in links[name].values())


def test_the_story_as_text_and_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PeerLink, "active", False)
    done = CliRunner().invoke(app, ["peer", "--seed", "1"])
    assert done.exit_code == Exit.FAILED
    assert "✗ the TSM vouches for the peers" in done.output
    assert "✓ the peer-to-peer stream is on both devices' links, and never on the uplink" in done.output
    (row,) = [line for line in done.output.splitlines() if line.startswith("copies by the TVM's CPU")]
    assert row.split()[-3:] == ["0", "0", "3"]
