"""Playing a fault: a life up to where it strikes, what became of it, everything taken down, counted, and a whole new life.

Every run is on a platform of its own and repeats byte for byte, so that a strike is where the life without faults has
passed it.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from teeio.errors import TeeioError
from teeio.faults.accounts import IN_ERROR, counts, left
from teeio.faults.expected import Ending
from teeio.faults.fault import Fault
from teeio.faults.life import MARK, Broken, Life
from teeio.faults.points import Point, Strike
from teeio.faults.scene import BrokenOff, Halted, Scene
from teeio.faults.standing import Standing, standing
from teeio.faults.states import State, state_of
from teeio.faults.taking_down import Returned, take_down
from teeio.tdisp.messages import InterfaceState


@dataclass(slots=True)
class Played:
    """How a fault ended.

    `stood` is how the device was found then, `refusal` what the step under way said; `problems` is what must not be, empty
    if all is well.
    """

    fault: str
    strike: Strike
    ending: Ending = Ending.WENT_ON
    stood: Standing | None = None
    refusal: str = ""
    returned: Returned = Returned.AT_ONCE
    problems: list[str] = field(default_factory=list)

    @property
    def state(self) -> State | None:
        """The documented state that the device was in then; None if it is none."""
        return None if self.stood is None else state_of(self.stood)

    @property
    def as_it_must_be(self) -> bool:
        """Tell whether nothing went wrong that should not."""
        return not self.problems

    def as_dict(self) -> dict[str, object]:
        """Give it for JSON."""
        return {
            "fault": self.fault,
            "step": self.strike.point.step,
            "strikes": str(self.strike),
            "ending": self.ending.name.lower(),
            "state": self.state.value if self.state else "",
            "stood": str(self.stood),
            "refusal": self.refusal,
            "returned": self.returned.value,
            "problems": self.problems,
        }


def points() -> list[Point]:
    """Live once without a fault, and give every point in order. Raises as a life does."""
    scene = Scene()
    Life(scene).live()
    return scene.points


def play(fault: Fault, strike: Strike) -> Played:
    """Let a fault strike once, on a fresh platform."""
    played = Played(fault.name, strike)
    scene = Scene(strike, fault.inflict(strike.moment))
    life = Life(scene)
    try:
        _live(played, scene, life)
        scene.step = ""
        scene.bring_what_is_held()
        played.stood = standing(scene)
        if played.refusal and played.ending is not Ending.HALTED:
            played.ending = _ending(scene, life, played.state)
        _look(played, fault, scene, life)
        scene.step = ""
        played.returned = take_down(scene, life)
        _expect_nothing_left(played, scene, "after everything was taken down", at_last=False)
        _live_again(played, scene)
    except Exception as error:  # a fault must never bring out a mistake of the program
        played.problems.append(f"{type(error).__name__} in {scene.step or 'taking down'}: {error}")
    return played


def _live(played: Played, scene: Scene, life: Life) -> None:
    try:
        life.live()
    except Halted:
        played.ending, played.refusal = Ending.HALTED, "the TVM has halted"
    except BrokenOff:
        played.refusal = "the VMM has broken off"
        if scene.halted:
            played.ending, played.refusal = Ending.HALTED, "a hypercall of the TVM never returns"
    except TeeioError as error:
        played.refusal = " ".join(str(error).split())
    except Broken as broken:
        played.problems.append(str(broken))
    finally:
        scene.borrowed.close()
    if not scene.struck:
        played.problems.append("the fault did not strike: the life is not the one that was recorded")


def _ending(scene: Scene, life: Life, state: State | None) -> Ending:
    """Tell how a life stands of which a step has failed."""
    contexts = scene.platform.module.records.contexts.values()
    under_way = any(context.agent.task is not None for context in contexts)
    if state in ENDINGS and life.step != "disconnect":
        return ENDINGS[state]
    if counts(scene.platform) == life.began:
        return Ending.UNDONE
    if life.step in ("unlock", "shut down", "disconnect") or under_way:
        return Ending.UNFINISHED
    if life.step == "share" and life.trusted():
        return Ending.SET_ASIDE
    return Ending.GIVEN_BACK if state is State.CONNECTED and _given_back(scene) else Ending.HALF_DONE


ENDINGS = {
    State.TDI_FAILED: Ending.ERROR,
    State.STREAM_FAILED: Ending.ERROR,
    State.STREAM_STOPPED: Ending.ERROR,
    State.STREAM_BLOCKED: Ending.ERROR,
    State.SESSION_OVER: Ending.LOST,
    State.SESSION_FORGOTTEN: Ending.LOST,
    State.SESSION_ENDED: Ending.LOST,
    State.SESSION_LEFT: Ending.LOST,
}
"""States that say by themselves how a life stands."""


def _given_back(scene: Scene) -> bool:
    """Tell whether no interface is locked, bound or a TVM's."""
    platform = scene.platform
    bound = [one for connection in platform.vmm.pci_tsm.connections.values() for one in connection.bindings]
    unlocked = all(tdi.state is InterfaceState.CONFIG_UNLOCKED for tdi in platform.device.tdis.values())
    return unlocked and not bound and not platform.module.records.devifs


def _look(played: Played, fault: Fault, scene: Scene, life: Life) -> None:
    """Look whether the fault may end like this, and whether the TVM works on with what it cannot trust."""
    if scene.before is not None and played.stood is not None:
        problem = fault.judged(played.strike, scene.before, played.ending, played.stood)
        if problem:
            played.problems.append(f"{problem}: {played.refusal or 'without any refusal'}")
    if life.driver is not None and life.driver.usable and not scene.halted:
        scene.step = ""
        try:
            life.work()
        except TeeioError:
            pass
        except Broken as broken:
            played.problems.append(str(broken))
    _expect_secret_kept(played, scene)


def _expect_secret_kept(played: Played, scene: Scene) -> None:
    played.problems += scene.leaks
    scene.leaks.clear()
    if MARK in scene.platform.vmm.memory.read(0, scene.platform.memory.size):
        played.problems.append("the VMM can read the secret in memory")


def _expect_nothing_left(played: Played, scene: Scene, when: str, *, at_last: bool) -> None:
    remaining = left(counts(scene.platform))
    if played.returned is Returned.BY_NEXT_STOP and not at_last:
        remaining.pop(str(IN_ERROR), None)
    if remaining:
        found = ", ".join(f"{count} {what}" for what, count in remaining.items())
        played.problems.append(f"{when}: {found}")
    _expect_secret_kept(played, scene)


def _live_again(played: Played, scene: Scene) -> None:
    """A whole new life must work on the same platform."""
    scene.halted = False
    try:
        Life(scene, "next TVM", counted=False).live()
    except (TeeioError, Broken) as error:
        played.problems.append(f"the next life does not work: {' '.join(str(error).split())}")
    scene.step = ""
    _expect_nothing_left(played, scene, "after the next life", at_last=True)
