"""The faults, declared: name, what goes wrong, where it can strike, and how a life may stand after it."""

from __future__ import annotations

from collections.abc import Callable

from teeio.abi import CALLS
from teeio.abi.operands import Actor
from teeio.faults import inflictions as i
from teeio.faults.fault import Ending, Fault, anywhere
from teeio.faults.points import Moment, Point, Seam
from teeio.faults.scene import WITH_ANSWER, Inflict, Scene

FAILING = frozenset(
    {Ending.WENT_ON, Ending.UNDONE, Ending.GIVEN_BACK, Ending.SET_ASIDE, Ending.ERROR, Ending.LOST, Ending.UNFINISHED}
)
"""How a life may stand after a fault that breaks something."""

REFUSING = frozenset(
    {Ending.WENT_ON, Ending.UNDONE, Ending.GIVEN_BACK, Ending.SET_ASIDE, Ending.ERROR, Ending.UNFINISHED}
)
"""... after one that takes nothing away: no session is lost by it."""

CARRIED = frozenset({Ending.WENT_ON, Ending.UNDONE, Ending.LOST})
"""... after one on what the VMM carries: an exchange in a session that breaks off costs the session."""

UNNOTICED = frozenset({Ending.WENT_ON})
"""... after one that everybody must put up with."""

HALTED = frozenset({Ending.HALTED})

INSTEAD = (Moment.INSTEAD,)
ALL_SEAMS = frozenset(Seam)
BETWEEN = frozenset({Seam.MESSAGE, Seam.CALL})


def _message(name: str, what: str, inflict: Inflict) -> Fault:
    return Fault(name, what, frozenset({Seam.MESSAGE}), INSTEAD, CARRIED, lambda _: inflict)


def _frame(name: str, what: str, inflict: Inflict) -> Fault:
    return Fault(name, what, frozenset({Seam.FRAME}), INSTEAD, FAILING, lambda _: inflict)


def _call(
    name: str,
    what: str,
    inflict: Inflict,
    endings: frozenset[Ending] = REFUSING,
    applies: Callable[[Point], bool] = anywhere,
) -> Fault:
    return Fault(name, what, frozenset({Seam.CALL}), INSTEAD, endings, lambda _: inflict, applies)


def _event(
    name: str,
    what: str,
    happen: Callable[[Scene], None],
    endings: frozenset[Ending] = FAILING,
    seams: frozenset[Seam] = ALL_SEAMS,
    applies: Callable[[Point], bool] | None = None,
) -> Fault:
    moments = (Moment.BEFORE, Moment.AFTER)
    return Fault(name, what, seams, moments, endings, lambda moment: i.around(happen, moment), applies or _on_stream)


def _by_tvm(point: Point) -> bool:
    """Leave out SEAMCALLs: of these no result gets lost, as they return in the registers of the processor that makes them."""
    return CALLS[point.call].caller is Actor.TVM


def _connecting(point: Point) -> bool:
    return point.step == "connect"


def _begins(point: Point) -> bool:
    return not point.name.endswith(WITH_ANSWER)


def _may_wait(point: Point) -> bool:
    return CALLS[point.call].callee is Actor.VMM and CALLS[point.call].timed


def _measuring(point: Point) -> bool:
    return point.name == "GET_MEASUREMENTS"


def _on_stream(point: Point) -> bool:
    """Leave out the register traffic of the DOE mailbox, which is configuration requests."""
    return point.seam is not Seam.FRAME or "IDE" in point.name


def _with_an_iommu(point: Point) -> bool:
    return point.step not in ("connect", "disconnect")


def _by_name(*faults: Fault) -> dict[str, Fault]:
    return {fault.name: fault for fault in faults}


FAULTS = _by_name(
    _message("request-lost", "a data object does not reach the device", i.lost),
    _message("answer-lost", "the device's answer does not come back", i.answer_lost),
    _message("answer-late", "the device's answer comes in place of the next one", i.late),
    _message("request-twice", "a data object reaches the device twice", i.repeated),
    _message("request-changed", "one bit of a data object changes on its way to the device", i.changed),
    _message("answer-changed", "one bit of the answer changes on its way back", i.answer_changed),
    Fault(
        "not-ready",
        "the device is still measuring and says ResponseNotReady",
        frozenset({Seam.MESSAGE}),
        INSTEAD,
        UNNOTICED,
        lambda _: i.not_ready,
        _measuring,
    ),
    _call("busy", "a call is refused for now, once", i.busy),
    _call("refused", "a call that begins something is refused for good", i.refused, FAILING, _begins),
    _call(
        "result-lost",
        "a call of the TVM is carried out, and the TVM is told that it was refused",
        i.result_lost,
        FAILING,
        _by_tvm,
    ),
    _call("wait", "a hypercall says WAIT once", i.waits, UNNOTICED, _may_wait),
    _frame("frame-lost", "a TLP does not arrive", i.lost),
    _frame("frame-twice", "a TLP arrives twice", i.repeated),
    _frame("frame-changed", "one bit at the end of a TLP changes: of its data, or of its MAC", i.last_bit_changed),
    _event("reset", "conventional reset of the device", i.reset),
    _event("removal", "surprise removal: the link goes down and stays down", i.removed),
    _event("link-down", "the link goes down and comes up again", i.link_down_and_up),
    _event("key-refresh", "the stream gets new keys", i.refresh),
    _event("heartbeat-lapse", "nothing is said in the session for three heartbeat periods", i.lapse),
    _event("session-end", "GET_VERSION begins a new SPDM connection, which ends all sessions", i.new_connection),
    _event("flr-pf", "function level reset of the PF", i.flr_of_pf),
    _event("flr-vf", "function level reset of the VF", i.flr_of_vf),
    _event(
        "no-streams",
        "somebody else has all free streams of the root port",
        i.no_streams,
        REFUSING,
        BETWEEN,
        _connecting,
    ),
    _event(
        "no-blocks", "somebody else has all stream blocks of the device", i.no_blocks, REFUSING, BETWEEN, _connecting
    ),
    _event("no-memory", "somebody else has all free memory", i.no_memory, REFUSING, BETWEEN),
    _event("full-queue", "the IOMMU's invalidation queue is full", i.full_queue, UNNOTICED, BETWEEN, _with_an_iommu),
    _event("halt", "the TVM stops for good", i.halt, HALTED, frozenset({Seam.CALL}), _by_tvm),
)
"""All faults by name."""
