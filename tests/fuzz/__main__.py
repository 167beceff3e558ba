"""Fuzz every input surface: `PYTHONPATH=src:tests python -m fuzz --inputs 1000000` (docs/testing.md)."""

from __future__ import annotations

import argparse
import sys
import time
import warnings
from collections.abc import Callable, Sequence

from fuzz import decoders, engines, everything, outside
from fuzz.surface import Outcome, Surface, strike


def all_surfaces() -> list[Surface]:
    """List every surface."""
    return [*decoders.surfaces(), *engines.surfaces(), *everything.surfaces(), *outside.surfaces()]


def say(line: str) -> None:
    """Write a line at once."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def main(arguments: Sequence[str] | None = None) -> int:
    """Strike the surfaces and say what came of it; 1 if anything crashed."""
    warnings.simplefilter("ignore")  # of the cryptography library, on certificates that it still takes
    parser = argparse.ArgumentParser(prog="fuzz", description="Strike every input surface with damaged inputs.")
    parser.add_argument("--inputs", type=int, default=100_000, help="inputs over all surfaces")
    parser.add_argument("--seed", type=int, default=1, help="the same seed gives the same inputs")
    parser.add_argument("--surface", action="append", help="only surfaces whose name contains this; may be repeated")
    parser.add_argument("--seconds", type=float, help="stop each surface after its share of so many seconds")
    parser.add_argument("--list", action="store_true", help="list the surfaces")
    parser.add_argument("--quiet", action="store_true", help="no progress, only the result")
    options = parser.parse_args(arguments)
    chosen = [
        surface
        for surface in all_surfaces()
        if not options.surface or any(part.lower() in surface.name.lower() for part in options.surface)
    ]
    if options.list or not chosen:
        say("\n".join(surface.name for surface in chosen or all_surfaces()))
        return 0 if chosen else 2
    total = sum(surface.share for surface in chosen)
    outcomes = []
    for surface in chosen:
        begun = time.monotonic()
        deadline = None if options.seconds is None else begun + options.seconds / len(chosen)
        wanted = max(1, round(options.inputs * surface.share / total))
        show = None if options.quiet or not sys.stderr.isatty() else _progress(wanted)
        outcomes.append(strike(surface, options.seed, wanted, deadline=deadline, progress=show))
        _said(outcomes[-1])
    inputs, crashed = sum(o.inputs for o in outcomes), sum(o.crashed for o in outcomes)
    say(
        f"{'all':36} {inputs:>9,} inputs, {crashed} crashed, {sum(o.seconds for o in outcomes):.0f} s, seed {options.seed}"
    )
    return 1 if crashed else 0


def _progress(wanted: int) -> Callable[[Outcome], None]:
    def show(outcome: Outcome) -> None:
        sys.stderr.write(f"\r{outcome.surface}: {outcome.inputs:,} of {wanted:,}, {outcome.crashed} crashed ")

    return show


def _said(outcome: Outcome) -> None:
    if sys.stderr.isatty():
        sys.stderr.write("\r\033[K")
    rate = outcome.inputs / outcome.seconds if outcome.seconds else 0.0
    say(
        f"{outcome.surface:36} {outcome.inputs:>9,} inputs, {outcome.taken / max(outcome.inputs, 1):4.0%} taken, "
        f"{rate:>7,.0f}/s, {outcome.crashed} crashed"
    )
    for crash in outcome.crashes:
        say(f"  {crash}")


if __name__ == "__main__":
    sys.exit(main())
