"""The trusted life, and the attacks on links, in Flit Mode: the frames are others, the story is the same."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest

from teeio.host.vmm.vfio import UnitKind
from teeio.observe import TlpMoved
from teeio.pcie.flit_types import FLIT_TYPES, Trailer
from teeio.pcie.link import Way
from teeio.pcie.link_mode import IdeFields
from teeio.platform import Platform
from teeio.scenarios import ATTACKS, Journal, live, play


def observed(platform: Platform) -> tuple[list[bytes], list[IdeFields | None]]:
    """Listen to the device's link."""
    frames: list[bytes] = []
    fields: list[IdeFields | None] = []

    def listen(frame: bytes, way: Way) -> bytes:
        frames.append(frame)
        fields.append(platform.link.mode.ide_fields(frame))
        return frame

    platform.link.tamper = listen
    return frames, fields


@pytest.mark.parametrize("switch", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["root port", "switch"])
def test_the_trusted_life_runs_in_flit_mode(switch: bool) -> None:
    journal = Journal()
    platform = Platform.assemble(seed=1, switch=switch, flit_mode=True, observer=journal)
    links = [platform.link] + ([platform.uplink] if platform.uplink else [])
    assert all(link.mode.is_flit for link in links)
    frames, fields = observed(platform)
    life = live(platform, journal, time.thread_time, UnitKind.VF)
    assert life.tdi_states == ["CONFIG_UNLOCKED", "CONFIG_LOCKED", "RUN", "CONFIG_UNLOCKED"]
    assert life.verdict is not None
    assert life.verdict.accepted
    assert life.pages_returned
    assert life.streams_returned
    assert all(path.correct for path in life.data_paths)
    assert {frame[0] for frame in frames} <= set(FLIT_TYPES)
    sealed = [(one, frame[2] >> 5) for one, frame in zip(fields, frames, strict=True) if one is not None]
    assert {one.sub_stream for one, _ in sealed} == {0, 1, 2}
    assert {trailer for _, trailer in sealed} == {Trailer.MAC}
    assert any(one.t_bit for one, _ in sealed)
    moved = [event for step in journal.steps for event in step.events if isinstance(event, TlpMoved)]
    assert {event.protection for event in moved} == {"plain", "IDE T=0", "IDE T=1"}
    assert "unknown" not in {event.kind for event in moved}


ON_LINKS = [name for name, scenario in ATTACKS.items() if scenario.attacker in ("link", "switch", "VMM and switch")]
QUICK = {"bit-flip", "stale-read", "hostile-switch"}


@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in ON_LINKS]
)
def test_attacks_on_links_end_as_they_do_in_non_flit_mode(name: str) -> None:
    assert set(ON_LINKS) >= QUICK
    scenario = ATTACKS[name]
    played = play(replace(scenario, options={**scenario.options, "flit_mode": True}), seed=1)
    assert scenario.as_expected(played.outcome), played.outcome.seen
