"""Pages that a TVM makes private again: no translation cache leads to them any more, and a refusal leaves them as they were."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

from host_machine import NOW, Guest, Host
from teeio.abi import hypercalls as v
from teeio.abi import memory_seamcalls as m
from teeio.abi import tdcalls as g
from teeio.abi.declaration import Result
from teeio.abi.operands import GPA_SHARED_BIT, PAGE_SIZE
from teeio.abi.statuses import Status, TdcmStatus
from teeio.host.iommu_faults import FaultReason
from teeio.host.memory import SHARED
from teeio.pcie.tlp import CompletionStatus

GPA = 4 * PAGE_SIZE
SIZE = 2 * PAGE_SIZE


@dataclass
class Scene:
    """A TVM whose device in RUN has read the two pages that it shares, by T=1."""

    host: Host
    guest: Guest

    def device_reads(self, gpa: int = GPA) -> Any:
        return self.host.device.port.read(self.guest.function_id, gpa | GPA_SHARED_BIT, 6, True, 1)

    def convert(self, shared: bool) -> Any:
        return self.guest.vmm.tdvmcall_map_gpa(v.TdvmcallMapGpa(gpa=GPA, size=SIZE, shared=shared), NOW)


@pytest.fixture
def scene() -> Scene:
    host = Host()
    made = Scene(host, Guest(host))
    made.guest.bring_up()
    made.convert(True).require("share")
    for page in range(2):
        made.guest.processor.store(GPA + page * PAGE_SIZE | GPA_SHARED_BIT, b"shared")
        assert made.device_reads(GPA + page * PAGE_SIZE).data == b"shared"
    return made


def still_shared(scene: Scene) -> bool:
    pages = [GPA, GPA + PAGE_SIZE]
    seen = [scene.guest.processor.load(gpa | GPA_SHARED_BIT, 6) for gpa in pages]
    domain = scene.guest.machine.domain
    mapped = [domain.translate(gpa, True) == scene.guest.machine.shared[gpa] for gpa in pages]
    return seen == [b"shared"] * 2 and all(mapped) and all(scene.device_reads(gpa).data == b"shared" for gpa in pages)


def refusing(scene: Scene, monkeypatch: pytest.MonkeyPatch, call: str, after: int = 0) -> None:
    """Let the TSM refuse a call from then on, after as many that it serves."""
    served = getattr(scene.host.module, call)
    left = [after]

    def refuse(operands: Any) -> Result[Any]:
        left[0] -= 1
        return served(operands) if left[0] >= 0 else Result(Status.OPERAND_INVALID)

    monkeypatch.setattr(scene.host.module, call, refuse)


def test_no_device_reaches_a_page_that_is_private_again(scene: Scene) -> None:
    """With the translation still cached the page's new state alone would stop it, and only while it is private."""
    scene.convert(False).require("unshare")
    assert scene.device_reads().status is CompletionStatus.UR
    assert scene.host.iommu.faults[-1].reason is FaultReason.NOT_MAPPED
    assert not [place for place in scene.host.iommu.trusted.iotlb.values() if place[1] == SHARED]


def test_all_caches_are_flushed_before_any_page_changes_hands(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    cached: list[int] = []
    augment = scene.host.module.tdh_mem_page_aug

    def watching(call: m.TdhMemPageAug) -> Result[None]:
        cached.append(sum(place[0] == call.hpa for place in scene.host.iommu.trusted.iotlb.values()))
        return augment(call)

    monkeypatch.setattr(scene.host.module, "tdh_mem_page_aug", watching)
    scene.convert(False).require("unshare")
    assert cached == [0, 0]


@pytest.mark.parametrize("call", ["tdh_mem_track", "tdh_iqinv_req", "tdh_mem_page_aug"])
def test_what_is_refused_leaves_the_pages_shared_and_can_be_done_again(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    before = scene.host.memory.accounting()
    with monkeypatch.context() as patch:
        refusing(scene, patch, call)
        assert scene.convert(False).status is TdcmStatus.ERROR
    assert still_shared(scene)
    assert scene.host.memory.accounting() == before
    scene.convert(False).require("unshare")


def test_a_refusal_half_way_is_made_good_by_another_try(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        refusing(scene, patch, "tdh_mem_page_aug", after=1)
        assert scene.convert(False).status is TdcmStatus.ERROR
    assert scene.device_reads().status is CompletionStatus.UR
    assert scene.device_reads(GPA + PAGE_SIZE).data == b"shared"
    scene.convert(False).require("unshare")
    for gpa in (GPA, GPA + PAGE_SIZE):
        scene.guest.tsm.tdg_mem_page_accept(g.TdgMemPageAccept(gpa=gpa)).require("accept")
        assert scene.guest.processor.load(gpa, 6) == bytes(6)


def test_what_the_vmm_keeps_for_itself_afterwards_no_device_of_the_tvm_sees(scene: Scene) -> None:
    """The whole way: shared, private, shared again, and the TVM gone; its pages are the VMM's and hold the VMM's bytes."""
    pages = [scene.guest.machine.shared[gpa] for gpa in (GPA, GPA + PAGE_SIZE)]
    scene.convert(False).require("unshare")
    scene.convert(True).require("share")
    scene.host.vmm.kvm.destroy(scene.guest.machine, NOW)
    for page in pages:
        scene.host.memory.vmm.write(page, b"VMM's")
        assert page not in {place[0] for place in scene.host.iommu.trusted.iotlb.values()}
    assert scene.device_reads().status is CompletionStatus.UR
