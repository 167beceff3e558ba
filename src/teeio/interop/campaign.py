"""Many runs: which ones are wanted, some of them at the same time, and their outcomes in a file from which a later run resumes."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path

from teeio.errors import DecodeError
from teeio.interop.cells import Cell, Feature, Role
from teeio.interop.grid import full
from teeio.interop.peer import Peer
from teeio.interop.runs import Outcome, among_themselves, run

Key = tuple[str, str]
"""Name of a cell, and our role."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be run. `missing` are the features that the peer's build lacks: their cells are left out."""

    cells: tuple[Cell, ...]
    roles: tuple[Role, ...]
    missing: frozenset[Feature] = frozenset()

    @property
    def left_out(self) -> tuple[Cell, ...]:
        """The cells that cannot be run with this peer."""
        return tuple(cell for cell in self.cells if cell.needs in self.missing)

    @property
    def missing_names(self) -> list[str]:
        """What the missing features are called, in the order of their declaration."""
        return [feature.value for feature in Feature if feature in self.missing]

    def runs(self) -> Iterator[tuple[Cell, Role]]:
        """Give every run."""
        for cell in self.cells:
            if cell.needs not in self.missing:
                yield from ((cell, role) for role in self.roles)


def missing_features(peer: Peer, cells: Iterable[Cell]) -> frozenset[Feature]:
    """Find out what the peer's build lacks: for each feature that `cells` need, its two sides try the simplest such cell."""
    wanted = {cell.needs for cell in cells if cell.needs is not None}
    samples = {cell.needs: cell for cell in reversed(full()) if cell.needs in wanted}
    return frozenset(need for need, cell in samples.items() if need and not among_themselves(cell, peer))


@dataclass(slots=True)
class Results:
    """Outcomes by cell and role; with `file`, each is appended to it as a line of JSON as soon as it is there."""

    file: Path | None = None
    found: dict[Key, Outcome] = field(default_factory=dict)

    @classmethod
    def load(cls, file: Path | None) -> Results:
        """Take up what `file` has. Raises `DecodeError` if it is no such file."""
        results = cls(file)
        if file is not None and file.is_file():
            for number, line in enumerate(file.read_text().splitlines(), 1):
                outcome = _outcome(line, number)
                results.found[outcome.cell, outcome.role] = outcome
        return results

    def add(self, outcome: Outcome) -> None:
        """Note an outcome."""
        self.found[outcome.cell, outcome.role] = outcome
        if self.file is not None:
            with self.file.open("a") as stream:
                stream.write(json.dumps(asdict(outcome)) + "\n")

    def passed(self, cell: Cell, role: Role) -> bool:
        """Tell whether a run is known to have passed."""
        outcome = self.found.get((cell.name, role.value))
        return outcome is not None and outcome.passed

    def of(self, plan: Plan) -> list[tuple[Cell, Outcome]]:
        """Give the outcomes of a plan's runs, in its order."""
        keys = ((cell, (cell.name, role.value)) for cell, role in plan.runs())
        return [(cell, self.found[key]) for cell, key in keys if key in self.found]


def _outcome(line: str, number: int) -> Outcome:
    try:
        told = json.loads(line)
        return Outcome(**{**told, "commands": tuple(told["commands"]), "output": tuple(told["output"])})
    except (ValueError, TypeError, KeyError) as error:
        raise DecodeError(
            "Results", f"line {number}", 0, str(error), remedy="give a file that --results has written, or a new one"
        ) from None


def perform(plan: Plan, peer: Peer, jobs: int, results: Results, tell: Callable[[Outcome], None]) -> None:
    """Do the runs of a plan that have not passed yet, `jobs` at a time; `tell` hears of each one's outcome."""
    waiting: Sequence[Callable[[], Outcome]] = [
        partial(run, cell, role, peer) for cell, role in plan.runs() if not results.passed(cell, role)
    ]
    pool = ThreadPoolExecutor(jobs)
    try:
        futures: list[Future[Outcome]] = [pool.submit(one) for one in waiting]
        for future in as_completed(futures):
            results.add(future.result())
            tell(future.result())
    finally:
        # An interruption waits for the runs under way only.
        pool.shutdown(cancel_futures=True)
