"""The trusted life with PCRC and with aggregation, in both link modes: the same story, other trailers, fewer MACs."""

from __future__ import annotations

import time
from collections import Counter

import pytest

from teeio.abi.operands import StreamOptions
from teeio.host.vmm.vfio import UnitKind
from teeio.pcie.flit_decoding import take
from teeio.pcie.flit_types import Trailer
from teeio.pcie.ide_tlp import P_FLAG
from teeio.pcie.link import Way
from teeio.pcie.link_mode import IdeFields
from teeio.platform import Platform
from teeio.scenarios import Journal, live
from teeio.scenarios.stage import Stage

MODES = pytest.mark.parametrize("flit", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["Non-Flit", "Flit"])


def lived(options: StreamOptions, flit: bool) -> Counter[str]:
    """Live the whole life under options; count what the device's link carries over IDE."""
    count: Counter[str] = Counter()
    journal = Journal()
    platform = Platform.assemble(seed=1, flit_mode=flit, stream_options=options, observer=journal)

    def listen(frame: bytes, way: Way) -> bytes:
        ide = platform.link.mode.ide_fields(frame)
        if ide is not None:
            count["tlps"] += 1
            count["macs"] += ide.with_mac
            count["pcrcs"] += take(frame).trailer is Trailer.PCRC_AND_MAC if flit else bool(frame[3] & P_FLAG)
        return frame

    platform.link.tamper = listen
    life = live(platform, journal, time.thread_time, UnitKind.VF)
    assert life.tdi_states == ["CONFIG_UNLOCKED", "CONFIG_LOCKED", "RUN", "CONFIG_UNLOCKED"]
    assert life.verdict is not None
    assert life.verdict.accepted
    assert life.pages_returned
    assert life.streams_returned
    assert all(path.correct for path in life.data_paths)
    return count


@MODES
def test_the_trusted_life_with_options(flit: bool) -> None:
    plain = lived(StreamOptions(), flit)
    with_pcrc = lived(StreamOptions(pcrc=True), flit)
    aggregated = lived(StreamOptions(True, (3, 3, 3)), flit)
    assert plain["tlps"] == with_pcrc["tlps"] == aggregated["tlps"], "the same TLPs travel"
    assert plain["macs"] == with_pcrc["macs"] == plain["tlps"]
    assert plain["pcrcs"] == 0
    assert 0 < with_pcrc["pcrcs"] < with_pcrc["macs"], "TLPs without payload have none"
    assert aggregated["macs"] < 0.7 * aggregated["tlps"]
    assert 0 < aggregated["pcrcs"] < with_pcrc["pcrcs"], "one for a unit"


@MODES
def test_work_goes_on_while_keys_are_refreshed(flit: bool) -> None:
    """The device copies before and after each message of a refresh, in units: nothing is lost, and no MAC fails."""
    platform = Platform.assemble(seed=1, flit_mode=flit, stream_options=StreamOptions(True, (3, 3, 3)))
    stage = Stage(platform, Journal())
    work = stage.work
    fields: list[IdeFields] = []
    carried: list[set[int]] = []

    def copy() -> None:
        work.result.write(0, bytes(len(work.secret)))
        work.copy()
        assert work.result.read(0, len(work.secret)) == work.secret

    def carry(data_object: bytes, now: float) -> bytes:
        copy()
        answer = stage.mailbox.carry(data_object, now)
        fields.clear()
        copy()
        carried.append({ide.key_set for ide in fields})
        return answer

    def listen(frame: bytes, way: Way) -> bytes:
        ide = platform.link.mode.ide_fields(frame)
        if ide is not None:
            fields.append(ide)
        return frame

    with stage.on_the_link(listen), stage.carried_by(carry):
        for _ in range(2):
            platform.vmm.pci_tsm.refresh_keys(stage.pf, stage.now())
    assert not all(ide.with_mac for ide in fields)
    assert carried[0] == {0}
    assert {0, 1} in carried, "each end goes over when it may"
    assert carried[len(carried) // 2 - 1] == {1}
    assert carried[-1] == {0}
    assert stage.vmm.pci_tsm.connections[stage.pf.address].stream.secure
