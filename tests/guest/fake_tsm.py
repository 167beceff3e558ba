"""The TSM as a TVM sees it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from evidence_scene import SHA_384
from guest.fake_memory import (
    FUNCTION_ID,
    REPORTING_OFFSET,
)
from teeio.abi import Result
from teeio.abi import tdcalls as g
from teeio.abi.operands import PAGE_SIZE
from teeio.abi.statuses import Status
from teeio.crypto.certificates import leaf_public_key
from teeio.crypto.kdf import digest
from teeio.crypto.keys import public_key_der
from teeio.tdisp.messages import InterfaceState

if TYPE_CHECKING:
    from guest.fake_world import World


class FakeTsm:
    """TDCALLs."""

    def __init__(self, world: World) -> None:
        self.world = world

    def __getattribute__(self, name: str) -> Any:
        found = object.__getattribute__(self, name)
        return object.__getattribute__(self, "world").hooked(name, found) if name.startswith("tdg_") else found

    def tdg_mem_page_accept(self, call: g.TdgMemPageAccept) -> Result[None]:
        huge = call.gpa & -call.level.PAGE_2M.size in self.world.huge
        if bool(call.level) != huge:
            return Result(Status.PAGE_SIZE_MISMATCH)
        if huge:
            for gpa in range(call.gpa, call.gpa + call.level.size, PAGE_SIZE):
                self.world.pages[gpa].state = "mapped"
            return Result(Status.SUCCESS)
        page = self.world.pages.get(call.gpa)
        if page is None:
            return Result(Status.EPT_WALK_FAILED)
        if page.state == "mapped":
            return Result(Status.PAGE_ALREADY_ACCEPTED)
        page.state = "mapped"
        return Result(Status.SUCCESS)

    def tdg_devif_read(self, call: g.TdgDevifRead) -> Result[g.DevifInfo]:
        world = self.world
        if call.function_id != FUNCTION_ID:
            return Result(Status.TDI_NOT_PRESENT)
        assert world.scene.identity is not None
        digests = {f"{name}_digest": digest(SHA_384, data) for name, data in world.objects.items()}
        info = g.DevifInfo(
            state=world.state,
            bind_session_id=world.bind_session_id,
            stream_id=1,
            lock_flags=world.flags,
            mmio_reporting_offset=REPORTING_OFFSET,
            validated=world.validated,
            generation=0,
            public_key_hash=self.key_hash(),
            **{f"{name}_digest": b"" for name in ("certificate_chain", "vca", "measurements", "report")} | digests,
        )
        return Result(Status.SUCCESS, info)

    def key_hash(self) -> bytes:
        assert self.world.scene.identity is not None
        return digest(SHA_384, public_key_der(leaf_public_key(self.world.scene.identity.leaf)))

    def tdg_devif_validate(self, call: g.TdgDevifValidate) -> Result[None]:
        if problem := self._lock(call.bind_session_id):
            return problem
        if call.public_key_hash != self.key_hash():
            return Result(Status.DEVIF_PUBLIC_KEY_MISMATCH)
        self.world.validated = True
        return Result(Status.SUCCESS)

    def tdg_devif_request(self, call: g.TdgDevifRequest) -> Result[None]:
        if problem := self._lock(call.bind_session_id):
            return problem
        self.world.request, self.world.answer = call, None
        return Result(Status.SUCCESS)

    def tdg_devif_response(self, call: g.TdgDevifResponse) -> Result[g.DevifAnswer]:
        if self.world.answer is None:
            return Result(Status.DEVIF_TDISP_INVALID_REQ_STS)
        return Result(Status.SUCCESS, self.world.answer)

    def tdg_mmio_accept(self, call: g.TdgMmioAccept) -> Result[None]:
        if problem := self._lock(call.bind_session_id):
            return problem
        part = self.world.ranges[call.range_index]
        first = part.first_page - self.world.reported(0) + call.page_offset
        pages = [self.world.pages.get(call.gpa + at * PAGE_SIZE) for at in range(call.count)]
        if any(page is None or page.state != "mmio pending" for page in pages):
            return Result(Status.EPT_ENTRY_STATE_INCORRECT)
        if [page.mmio for page in pages if page] != list(range(first, first + call.count)):
            return Result(Status.MMIO_REPORT_MISMATCH)
        for page in pages:
            assert page is not None
            page.state = "mmio mapped"
        return Result(Status.SUCCESS)

    def tdg_dmar_accept(self, call: g.TdgDmarAccept) -> Result[None]:
        if problem := self._lock(call.bind_session_id):
            return problem
        self.world.dmar = True
        return Result(Status.SUCCESS)

    def tdg_tdi_start(self, call: g.TdgTdiStart) -> Result[None]:
        if problem := self._lock(call.bind_session_id):
            return problem
        if not self.world.validated:
            return Result(Status.DEVIF_NOT_VALIDATED)
        self.world.allowed = True
        return Result(Status.SUCCESS)

    def _lock(self, bind_session_id: int) -> Result[Any] | None:
        world = self.world
        # The TSM learns of ERROR only by asking, so it still takes the old lock for good here.
        if world.state is InterfaceState.ERROR:
            return None
        return None if bind_session_id == world.bind_session_id else Result(Status.DEVIF_BIND_SESSION_MISMATCH)
