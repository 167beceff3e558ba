"""What faults do: what is lost, delayed, repeated or changed where something passes a seam, and what happens between."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from teeio.abi import CALLS, HypercallResult, Result
from teeio.abi import memory_seamcalls as m
from teeio.abi.operands import Actor, Invalidation
from teeio.abi.statuses import TRIES, HypercallError, Status, TdcmStatus
from teeio.errors import Misuse
from teeio.faults.points import Moment, Point
from teeio.faults.scene import HEARTBEAT, BrokenOff, Halted, Held, Inflict, Scene, channel_of
from teeio.faults.standing import standing
from teeio.host.invalidation_queue import QUEUE_SLOTS
from teeio.pcie.address import AddressRange
from teeio.pcie.doe import SPDM, encode_object
from teeio.pcie.seams import ResetKind
from teeio.spdm.messages import Facts, GetVersion

Act = Callable[[Any], Any]

GET_VERSION = encode_object(SPDM, GetVersion().encode(Facts()))

OBJECT_HEADER = 8

# -- on data objects, and on frames


def flipped(data: bytes) -> bytes:
    """Change one bit in the middle of what follows a data object's header."""
    at = OBJECT_HEADER + (len(data) - OBJECT_HEADER) // 2
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


def lost(scene: Scene, point: Point, act: Act, subject: bytes) -> bytes:
    """Lose it."""
    return b""


def answer_lost(scene: Scene, point: Point, act: Act, subject: bytes) -> bytes:
    """Carry it and lose the answer."""
    act(subject)
    return b""


def late(scene: Scene, point: Point, act: Act, subject: bytes) -> bytes:
    """Carry it; the answer comes in place of the next one."""
    scene.late = act(subject)
    return b""


def answered_twice(scene: Scene, point: Point, act: Act, subject: bytes) -> bytes:
    """Carry it; the answer comes a second time, in place of the next one."""
    scene.late = act(subject)
    return scene.late


def held(moment: Moment) -> Inflict:
    """Let it arrive only with the next one: just before it, or overtaken by it."""

    def inflict(scene: Scene, point: Point, act: Act, subject: bytes) -> bytes:
        scene.held[channel_of(point.seam, point.name)] = Held(partial(act, subject), moment)
        return b""

    return inflict


def repeated(scene: Scene, point: Point, act: Act, subject: bytes) -> Any:
    """Do it twice; the first answer counts."""
    answer = act(subject)
    act(subject)
    return answer


def changed(scene: Scene, point: Point, act: Act, subject: bytes) -> Any:
    """Change a bit of it."""
    return act(flipped(subject))


def last_bit_changed(scene: Scene, point: Point, act: Act, subject: bytes) -> Any:
    """Change the last bit of a frame."""
    return act(subject[:-1] + bytes([subject[-1] ^ 1]))


def answer_changed(scene: Scene, point: Point, act: Act, subject: bytes) -> bytes:
    """Change a bit of the answer."""
    answer: bytes = act(subject)
    return flipped(answer) if answer else answer


def not_ready(scene: Scene, point: Point, act: Act, subject: bytes) -> Any:
    """Let the device measure for a while: it answers ResponseNotReady."""
    scene.platform.device.measurements.ready_at = scene.now() + 0.1
    return act(subject)


# -- on calls


def _answer(point: Point, status: Status) -> Result[None] | HypercallResult[None]:
    """Give an answer with a status; a hypercall's says MODULE, or what every hypercall may say."""
    row = CALLS[point.call]
    if row.callee is not Actor.VMM:
        return Result(status, reason="a fault")
    error = HypercallError.MODULE if HypercallError.MODULE in row.refusals else HypercallError.INVALID_OPERAND
    return HypercallResult(TdcmStatus.ERROR, error, reason="a fault")


def busy(scene: Scene, point: Point, act: Act, subject: Any) -> Any:
    """Refuse the call for now, without having done anything."""
    return _answer(point, Status.OPERAND_BUSY)


def busy_long(scene: Scene, point: Point, act: Act, subject: Any) -> Any:
    """Refuse the call for now as often as the caller makes it."""
    scene.lasting.setdefault(point.name, TRIES - 1)
    return busy(scene, point, act, subject)


def refused(scene: Scene, point: Point, act: Act, subject: Any) -> Any:
    """Refuse the call for good, without having done anything."""
    return _answer(point, Status.OPERAND_INVALID)


def result_lost(scene: Scene, point: Point, act: Act, subject: Any) -> Any:
    """Do what is asked and answer as if it was refused."""
    act(subject)
    return _answer(point, Status.OPERAND_INVALID)


def waits(scene: Scene, point: Point, act: Act, subject: Any) -> Any:
    """Say WAIT once."""
    return HypercallResult(TdcmStatus.WAIT)


# -- what happens between


def around(happen: Callable[[Scene], None], moment: Moment) -> Inflict:
    """Let something happen before or after what passes."""

    def inflict(scene: Scene, point: Point, act: Act, subject: Any) -> Any:
        if moment is Moment.BEFORE:
            _happen(scene, happen)
            return act(subject)
        result = act(subject)
        _happen(scene, happen)
        return result

    return inflict


def _happen(scene: Scene, happen: Callable[[Scene], None]) -> None:
    scene.before = standing(scene)
    with scene.undisturbed():
        happen(scene)


def reset(scene: Scene) -> None:
    """Reset the device: everything that it has is gone."""
    scene.platform.device.reset(ResetKind.CONVENTIONAL)


def removed(scene: Scene) -> None:
    """Take the device away; when it is plugged in again it has lost everything."""
    link = scene.platform.link
    link.fail()
    scene.healing.callback(reset, scene)
    scene.healing.callback(link.restore)


def link_down_and_up(scene: Scene) -> None:
    """Let the link go down and come up."""
    scene.platform.link.fail()
    scene.platform.link.restore()


def refresh(scene: Scene) -> None:
    """Change the stream's keys, if there is a stream."""
    pci_tsm = scene.platform.vmm.pci_tsm
    if scene.pf.address in pci_tsm.connections:
        scene.attempt(lambda: pci_tsm.refresh_keys(scene.pf, scene.now()))


def lapse(scene: Scene) -> None:
    """Let three heartbeat periods pass in silence: the VMM sends none."""
    scene.platform.wait(scene.now() + 3 * HEARTBEAT, heartbeats=False)


def new_connection(scene: Scene) -> None:
    """Send GET_VERSION, which ends all sessions of a connection (DSP0274)."""
    device = scene.platform.device
    device.responder.respond(GET_VERSION, device.now)


def flr_of_pf(scene: Scene) -> None:
    """Reset function 0."""
    scene.platform.vmm.vfio.reset(scene.pf)


def flr_of_vf(scene: Scene) -> None:
    """Reset the TVM's function."""
    scene.platform.vmm.vfio.reset(scene.vf)


def no_streams(scene: Scene) -> None:
    """Let somebody else have all stream blocks of the root port that are free."""
    (unit,) = scene.platform.root_complex.key_units.values()
    for number in range(64):
        stream_id, at = 200 + number, (1 << 44) + (number << 24)
        if not unit.claim(stream_id, range(0xF000 + number, 0xF001 + number), AddressRange(at, 1 << 20)):
            return
        scene.borrowed.callback(unit.release, stream_id)


def no_blocks(scene: Scene) -> None:
    """Let somebody else have all stream blocks of the device that are free."""
    for block in scene.platform.device.streams.streams:
        if not block.field("enable"):
            block.block.set(block.control, enable=1)
            scene.borrowed.callback(block.block.set, block.control, enable=0)


def no_memory(scene: Scene) -> None:
    """Let somebody else have all memory that is free."""
    memory = scene.platform.vmm.memory
    while True:
        try:
            scene.borrowed.callback(memory.free, memory.allocate())
        except Misuse:
            return


def full_queue(scene: Scene) -> None:
    """Fill the IOMMU's invalidation queue."""
    module = scene.platform.module
    for tdr in module.records.tvms:
        for _ in range(QUEUE_SLOTS):
            module.tdh_iqinv_req(m.TdhIqinvReq(iommu_id=0, scope=Invalidation.IOTLB, target=tdr))


def broken_off(scene: Scene, point: Point, act: Act, subject: Any) -> Any:
    """Break off the VMM's procedure: what it has done so far is done, the rest is not."""
    raise BrokenOff


def halt(scene: Scene) -> None:
    """Stop the TVM for good."""
    scene.halted = True
    raise Halted
