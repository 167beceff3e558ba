"""A slice of the fuzzer: every surface takes a few inputs always, and half a minute of them where slow tests run."""

import warnings
from collections.abc import Iterator
from random import Random

import pytest

from fuzz.__main__ import all_surfaces, main
from fuzz.mutation import Mutator
from fuzz.surface import Surface, strike

SURFACES = all_surfaces()


@pytest.fixture(autouse=True)
def no_library_warnings() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@pytest.mark.parametrize("surface", SURFACES, ids=lambda surface: surface.name)
def test_every_surface_takes_inputs(surface: Surface) -> None:
    outcome = strike(surface, 7, 5 if surface.share < 1 else 60)
    assert outcome.crashes == []
    assert outcome.inputs == (5 if surface.share < 1 else 60)


@pytest.mark.slow
@pytest.mark.parametrize("surface", SURFACES, ids=lambda surface: surface.name)
def test_a_slice(surface: Surface) -> None:
    outcome = strike(surface, 11, round(6000 * surface.share))
    assert outcome.crashes == []


def test_valid_inputs_are_among_them() -> None:
    """A surface that takes nothing would test its first line only."""
    for surface in SURFACES:
        if surface.share >= 1:
            assert strike(surface, 7, 400).taken, surface.name


def test_the_inputs_follow_from_the_seed() -> None:
    draws = [Mutator(Random(seed), [bytes(range(40)), b"other"], 1) for seed in (1, 1, 2)]
    first, again, other = ([mutator.draw() for _ in range(200)] for mutator in draws)
    assert first == again
    assert first != other
    assert {data[0] for data in first} == {0, ord("o")}


def test_a_crash_is_found_named_and_kept_once_for_each_place() -> None:
    def prepare(_: Random) -> tuple[list[bytes], object]:
        def code(data: bytes) -> bool:
            if data[:1] == b"\xff":
                raise ZeroDivisionError("planted")
            return bool(data)

        return [b"\xffabc", b"abc"], code

    planted = Surface("planted", prepare)  # type: ignore[arg-type]
    outcome = strike(planted, 1, 500)
    assert outcome.crashed > 1
    (crash,) = outcome.crashes
    assert "ZeroDivisionError: planted" in str(crash)
    assert "test_fuzz.py" in crash.where
    assert crash.data[:1] == b"\xff"
    again = strike(planted, 1, crash.number + 1)
    assert again.crashes[-1].data == crash.data


def test_the_command_tells_counts_and_lists_surfaces(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--inputs", "300", "--surface", "IDE_KM", "--quiet"]) == 0
    shown = capsys.readouterr().out
    assert "IDE_KM messages" in shown
    assert "0 crashed" in shown
    assert main(["--list"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == len(SURFACES)
    assert main(["--surface", "nothing of this name"]) == 2
