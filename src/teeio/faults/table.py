"""The faults, declared: name, what goes wrong, where it can strike; `rows` says what may follow."""

from __future__ import annotations

from collections.abc import Callable

from teeio.abi import CALLS
from teeio.abi.operands import Actor
from teeio.faults import event_rows as e
from teeio.faults import inflictions as i
from teeio.faults import link_rows as l
from teeio.faults import rows as r
from teeio.faults.expected import Row
from teeio.faults.fault import Fault, anywhere
from teeio.faults.points import Moment, Point, Seam
from teeio.faults.scene import WITH_ANSWER, Inflict, Scene

INSTEAD = (Moment.INSTEAD,)
ALL_SEAMS = frozenset(Seam)
BETWEEN = frozenset({Seam.MESSAGE, Seam.CALL})

Rows = tuple[Row, ...]
Applies = Callable[[Point], bool]


def _message(name: str, what: str, inflict: Inflict, rows: Rows, applies: Applies = anywhere) -> Fault:
    return Fault(name, what, frozenset({Seam.MESSAGE}), INSTEAD, rows, lambda _: inflict, applies)


def _frame(name: str, what: str, inflict: Inflict, rows: Rows) -> Fault:
    return Fault(name, what, frozenset({Seam.FRAME}), INSTEAD, rows, lambda _: inflict)


def _call(name: str, what: str, inflict: Inflict, rows: Rows, applies: Applies = anywhere) -> Fault:
    return Fault(name, what, frozenset({Seam.CALL}), INSTEAD, rows, lambda _: inflict, applies)


def _event(
    name: str,
    what: str,
    happen: Callable[[Scene], None],
    rows: Rows,
    seams: frozenset[Seam] = ALL_SEAMS,
    applies: Applies | None = None,
) -> Fault:
    moments = (Moment.BEFORE, Moment.AFTER)
    return Fault(name, what, seams, moments, rows, lambda moment: i.around(happen, moment), applies or _on_stream)


def _by_tvm(point: Point) -> bool:
    """Leave out SEAMCALLs: of these no result gets lost, as they return in the registers of the processor that makes them."""
    return CALLS[point.call].caller is Actor.TVM


def _by_tsm(point: Point) -> bool:
    """Leave out hypercalls, which are made once."""
    return CALLS[point.call].callee is Actor.TSM


def _by_vmm(point: Point) -> bool:
    return point.seam is Seam.MESSAGE or CALLS[point.call].caller is Actor.VMM


def _connecting(point: Point) -> bool:
    return point.step == "connect"


def _begins(point: Point) -> bool:
    return not point.name.endswith(WITH_ANSWER)


def _may_wait(point: Point) -> bool:
    return CALLS[point.call].callee is Actor.VMM and CALLS[point.call].timed


def _overtaken(point: Point) -> bool:
    """Leave out GET_CAPABILITIES: after the next GET_VERSION it is the new connection's, and a second one is refused (DSP0274)."""
    return point.name != "GET_CAPABILITIES"


def _measuring(point: Point) -> bool:
    return point.name == "GET_MEASUREMENTS"


def _on_stream(point: Point) -> bool:
    """Leave out the register traffic of the DOE mailbox, which is configuration requests."""
    return point.seam is not Seam.FRAME or "IDE" in point.name


def _on_requests(point: Point) -> bool:
    """Leave out completions of configuration requests: after a request its completion has come."""
    return _on_stream(point) or point.name.endswith("downstream")


def _with_an_iommu(point: Point) -> bool:
    return point.step not in ("connect", "disconnect")


def _by_name(*faults: Fault) -> dict[str, Fault]:
    return {fault.name: fault for fault in faults}


FAULTS = _by_name(
    _message("request-lost", "a data object does not reach the device", i.lost, r.OUT_OF_STEP),
    _message("answer-lost", "the device's answer does not come back", i.answer_lost, r.OUT_OF_STEP),
    _message("answer-late", "the device's answer comes in place of the next one", i.late, r.OUT_OF_STEP),
    _message(
        "answer-twice", "the device's answer comes again in place of the next one", i.answered_twice, r.ANSWERED_TWICE
    ),
    _message(
        "request-late",
        "a data object reaches the device when nobody waits for its answer any more",
        i.held(Moment.BEFORE),
        r.OUT_OF_STEP,
    ),
    _message(
        "request-overtaken",
        "a data object reaches the device just after the next one that is sent, in this life or the next",
        i.held(Moment.AFTER),
        r.OUT_OF_STEP,
        _overtaken,
    ),
    _message("request-twice", "a data object reaches the device twice", i.repeated, r.TWICE_TO_THE_DEVICE),
    _message(
        "request-changed",
        "one bit of a data object changes on its way to the device",
        i.changed,
        r.REFUSED_BY_THE_DEVICE,
    ),
    _message("answer-changed", "one bit of the answer changes on its way back", i.answer_changed, r.OUT_OF_STEP),
    _message(
        "not-ready", "the device is still measuring and says ResponseNotReady", i.not_ready, r.UNNOTICED, _measuring
    ),
    _call("busy", "a call is refused for now, once", i.busy, r.BUSY),
    _call("busy-long", "a call is refused for now as often as it is made", i.busy_long, r.BUSY_FOR_LONG, _by_tsm),
    _call("call-twice", "a call is made twice; the first answer counts", i.repeated, r.CALLED_TWICE),
    _call("refused", "a call that begins something is refused for good", i.refused, r.REFUSED, _begins),
    _call(
        "result-lost",
        "a call of the TVM is carried out, and the TVM is told that it was refused",
        i.result_lost,
        r.REFUSED,
        _by_tvm,
    ),
    _call("wait", "a hypercall says WAIT once", i.waits, r.UNNOTICED, _may_wait),
    _frame("frame-lost", "a TLP does not arrive", i.lost, l.FRAME_LOST),
    _frame(
        "frame-late", "a TLP arrives just before the next one that goes its way", i.held(Moment.BEFORE), l.FRAME_LATE
    ),
    _frame(
        "frame-overtaken",
        "a TLP arrives just after the next one that goes its way",
        i.held(Moment.AFTER),
        l.FRAME_OVERTAKEN,
    ),
    _frame("frame-twice", "a TLP arrives twice", i.repeated, l.FRAME_TWICE),
    _frame(
        "frame-changed",
        "one bit at the end of a TLP changes: of its data, or of its MAC",
        i.last_bit_changed,
        l.FRAME_CHANGED,
    ),
    _event("reset", "conventional reset of the device", i.reset, e.RESET, applies=_on_requests),
    _event(
        "removal", "surprise removal: the link goes down and stays down", i.removed, e.REMOVAL, applies=_on_requests
    ),
    _event("link-down", "the link goes down and comes up again", i.link_down_and_up, e.LINK_DOWN, applies=_on_requests),
    _event("key-refresh", "the stream gets new keys", i.refresh, e.KEY_REFRESH),
    _event("heartbeat-lapse", "nothing is said in the session for three heartbeat periods", i.lapse, e.SESSION_ENDS),
    _event(
        "session-end",
        "GET_VERSION begins a new SPDM connection, which ends all sessions",
        i.new_connection,
        e.SESSION_ENDS,
    ),
    _event("flr-pf", "function level reset of the PF", i.flr_of_pf, e.FLR_OF_PF, applies=_on_requests),
    _event("flr-vf", "function level reset of the VF", i.flr_of_vf, e.FLR_OF_VF, applies=_on_requests),
    _event(
        "no-streams",
        "somebody else has all free streams of the root port",
        i.no_streams,
        e.TAKEN_WHEN_CONNECTING,
        BETWEEN,
        _connecting,
    ),
    _event(
        "no-blocks",
        "somebody else has all stream blocks of the device",
        i.no_blocks,
        e.TAKEN_WHEN_CONNECTING,
        BETWEEN,
        _connecting,
    ),
    _event("no-memory", "somebody else has all free memory", i.no_memory, e.NO_MEMORY, BETWEEN),
    _event("full-queue", "the IOMMU's invalidation queue is full", i.full_queue, r.UNNOTICED, BETWEEN, _with_an_iommu),
    Fault(
        "break-off",
        "the VMM's procedure is broken off before the call or the message: killed, or a mistake of its own",
        BETWEEN,
        (Moment.BEFORE,),
        e.BROKEN_OFF,
        lambda _: i.broken_off,
        _by_vmm,
    ),
    _event("halt", "the TVM stops for good", i.halt, r.HALTS, frozenset({Seam.CALL}), _by_tvm),
)
"""All faults by name."""
