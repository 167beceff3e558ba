"""The search: depth first from a root, each step in a process of its own, so that the operating system keeps the states.

A step is taken in a forked child; what it leads to is told to the one process that knows all states, which says whether to go
on. A state is gone into again only if it is reached with more steps left. If a property breaks, the search is done again with
growing depth, so that the counterexample is a shortest one.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from multiprocessing.connection import Connection, Pipe, wait
from typing import NamedTuple

from teeio.errors import Misuse
from teeio.explorer.actions import ACTIONS, named
from teeio.explorer.fingerprint import fingerprint
from teeio.explorer.ledger import Ledger
from teeio.explorer.properties import NO_CRASH, UNTOUCHED, broken
from teeio.explorer.roots import BEGINNING, ROOTS
from teeio.explorer.world import World
from teeio.observe import Observer, ignore
from teeio.scenarios.journal import Journal
from teeio.scenarios.scenario import Mutant

GO, LEAVE, STOP = 0, 1, 2
_STOPPED = 3
"""Exit status of a process that was told to stop."""

Progress = Callable[["Report"], None]


@dataclass(frozen=True, slots=True)
class Found:
    """A property that does not hold, how, and the actions that lead there from a root."""

    name: str
    problem: str
    root: str
    trail: tuple[str, ...]


@dataclass(slots=True)
class Report:
    """How far a search came: states are different ones, steps are actions taken, refused ones among them."""

    root: str
    depth: int
    states: int = 0
    steps: int = 0
    refused: int = 0
    found: Found | None = None

    def as_dict(self) -> dict[str, object]:
        """Give the report for JSON."""
        found = self.found
        return {
            "root": self.root,
            "depth": self.depth,
            "states": self.states,
            "steps": self.steps,
            "refused": self.refused,
            "found": None
            if found is None
            else {"property": found.name, "problem": found.problem, "from": found.root, "trail": found.trail},
        }


@dataclass(frozen=True, slots=True)
class _Reached:
    """What a child tells: the state it reached, the steps left, and whether a property broke."""

    state: bytes
    left: int
    trail: tuple[int, ...]
    refused: bool
    problem: tuple[str, str] | None


def at_root(root: str, observer: Observer = ignore) -> World:
    """Build a world and take it to a root. Raises `Misuse` for an unknown root, or one that cannot be reached."""
    return _walked(root, observer, look=False)[0]


def _walked(root: str, observer: Observer = ignore, *, look: bool = True) -> tuple[World, Found | None]:
    """Take a world to a root; if a property breaks on the way, stop there and say so."""
    if root not in ROOTS:
        raise Misuse(f"there is no root {root!r}", remedy=f"use one of {', '.join(ROOTS)}")
    world, trail = World.begin(observer), ROOTS[root].trail
    for count, name in enumerate(trail, 1):
        refusal = named(name).happen(world)
        if refusal:
            raise Misuse(f"the root {root!r} cannot be reached: {name}: {refusal}")
        problem = broken(world) if look else None
        if problem is not None:
            return world, Found(*problem, BEGINNING, trail[:count])
    return world, None


def explore(
    root: str, depth: int, *, workers: int = 2, mutant: Mutant | None = None, progress: Progress | None = None
) -> Report:
    """Explore all sequences of up to `depth` actions from a root, on a mutant if one is given.

    What breaks on the way to the root is found as well: its trail then begins where that way does.
    """
    with ExitStack() as stack:
        if mutant is not None:
            stack.enter_context(mutant.living())
        stack.enter_context(Ledger.watching())
        world, found = _walked(root)
        if found is not None:
            count = len(found.trail)
            return Report(root, depth, states=count + 1, steps=count, found=found)
        report = _search(world, root, depth, workers, progress)
        if report.found is None:
            return report
        # Search again, step by step deeper: the first that is found then is a shortest one.
        for limit in range(1, len(report.found.trail)):
            shorter = _search(world, root, limit, workers, None)
            if shorter.found is not None:
                report.found = shorter.found
                return report
    return report


def _search(world: World, root: str, depth: int, workers: int, progress: Progress | None) -> Report:
    report = Report(root, depth, states=1)
    problem = broken(world)
    if problem is not None:
        report.found = Found(*problem, root, ())
        return report
    visited = {fingerprint(world): depth}
    gc.collect()
    gc.freeze()
    connections = []
    for number in range(workers):
        ours, theirs = Pipe()
        pid = os.fork()
        if pid == 0:
            ours.close()
            os._exit(_work(world, _Walk(root, theirs), depth, number, workers))
        theirs.close()
        connections.append((pid, ours))
    _coordinate(report, visited, [ours for _, ours in connections], progress)
    for pid, ours in connections:
        ours.close()
        os.waitpid(pid, 0)
    gc.unfreeze()
    report.states = len(visited)
    return report


def _coordinate(
    report: Report, visited: dict[bytes, int], connections: Sequence[Connection], progress: Progress | None
) -> None:
    """Answer every child until all workers are done."""
    open_ones = list(connections)
    while open_ones:
        for ready in wait(open_ones):
            assert isinstance(ready, Connection)
            try:
                reached: _Reached = ready.recv()
            except EOFError:
                open_ones.remove(ready)
                continue
            report.steps += 1
            report.refused += reached.refused
            if reached.problem is not None and report.found is None:
                report.found = Found(
                    *reached.problem, report.root, tuple(ACTIONS[index].name for index in reached.trail)
                )
            ready.send(_verdict(report, visited, reached))
            if progress is not None and not report.steps % 64:
                report.states = len(visited)
                progress(report)


def _verdict(report: Report, visited: dict[bytes, int], reached: _Reached) -> int:
    if report.found is not None:
        return STOP
    if visited.get(reached.state, -1) >= reached.left:
        return LEAVE
    visited[reached.state] = reached.left
    return GO if reached.left else LEAVE


class _Walk(NamedTuple):
    """What all steps of a worker have in common: where it began, and whom to tell."""

    root: str
    connection: Connection


class _Place(NamedTuple):
    """A state that actions are taken from, the steps left there, and how it was reached."""

    state: bytes
    left: int
    trail: tuple[int, ...]


def _work(world: World, walk: _Walk, depth: int, number: int, workers: int) -> int:
    gc.disable()
    return _expand(world, walk, _Place(fingerprint(world), depth, ()), ROOTS[walk.root].choices[number::workers])


def _expand(world: World, walk: _Walk, place: _Place, choices: Sequence[int]) -> int:
    """Take every action in a child of its own."""
    for index in choices:
        pid = os.fork()
        if pid == 0:
            os._exit(_step(world, walk, place, index))
        if os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == _STOPPED:
            return _STOPPED
    return 0


def _step(world: World, walk: _Walk, place: _Place, index: int) -> int:
    problem: tuple[str, str] | None
    action, refusal, left, trail = ACTIONS[index], "", place.left - 1, (*place.trail, index)
    sent = world.sent
    try:
        refusal = action.happen(world)
        problem, state = broken(world), fingerprint(world)
        if problem is None and refusal and state != place.state and action.must_leave_nothing(world.sent != sent):
            problem = UNTOUCHED, f"{action.name} was refused ({refusal}), and the state is another"
    except Exception as error:
        problem, state = (NO_CRASH, f"{type(error).__name__}: {error}"), b""
    walk.connection.send(_Reached(state, left, trail, bool(refusal), problem))
    verdict = walk.connection.recv()
    if verdict == STOP:
        return _STOPPED
    return _expand(world, walk, _Place(state, left, trail), ROOTS[walk.root].choices) if verdict == GO else 0


def replayed(root: str, trail: Sequence[str], mutant: Mutant | None) -> Journal:
    """Take the actions of a trail once more; give what was observed meanwhile, by action."""
    journal = Journal()
    told: list[Observer] = []
    with ExitStack() as stack:
        if mutant is not None:
            stack.enter_context(mutant.living())
        world = at_root(root, lambda event: told[0](event) if told else None)
        told.append(journal)
        for name in trail:
            action = named(name)
            with journal.step(action.actor, action.name) as step:
                step.note = action.happen(world)
    return journal
