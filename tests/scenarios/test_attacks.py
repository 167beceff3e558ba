"""Every attack of the catalogue ends as it must, and every mutant of it is caught."""

import re
from collections import Counter
from pathlib import Path

import pytest

from teeio.scenarios import ATTACKS, play, play_mutants
from teeio.scenarios.scenario import Expected, Outcome


@pytest.mark.parametrize("name", ATTACKS)
def test_the_attack_ends_as_it_must_and_every_mutant_is_caught(name: str) -> None:
    played = play(ATTACKS[name], seed=3)
    assert ATTACKS[name].as_expected(played.outcome), played.outcome.seen
    for mutant in play_mutants(played, seed=3):
        assert mutant.caught, f"without {mutant.mutant.what}: {mutant.why}"
        assert "the story broke off" not in mutant.why, f"without {mutant.mutant.what} nothing is seen: {mutant.why}"


def test_a_mutant_is_gone_when_its_story_is_over() -> None:
    for attack in ATTACKS.values():
        for mutant in attack.mutants:
            before = [vars(one.owner)[one.name] for one in mutant.removed]
            with mutant.living():
                assert [vars(one.owner)[one.name] for one in mutant.removed] == [
                    one.replacement for one in mutant.removed
                ]
            assert [vars(one.owner)[one.name] for one in mutant.removed] == before


def test_every_attack_names_attacker_phase_and_rule_and_has_a_mutant() -> None:
    for attack in ATTACKS.values():
        assert attack.title
        assert attack.attacker
        assert attack.phase
        assert attack.rule
        assert bool(attack.mutants) is (attack.expected is Expected.STOPPED), attack.name
        assert not attack.counterpart or ATTACKS[attack.counterpart].expected is Expected.STOPPED


def test_the_catalogue_is_played_from_session_to_run() -> None:
    assert {attack.number for attack in ATTACKS.values()} >= set(range(26, 57))


def test_the_page_names_the_entries_that_are_several_attacks() -> None:
    page = (Path(__file__).parents[2] / "docs" / "attacks.md").read_text()
    listed = page.partition("are several: ")[2].partition("Some end")[0]
    stopped = Counter(attack.number for attack in ATTACKS.values() if attack.expected is Expected.STOPPED)
    assert {int(number) for number in re.findall(r"(\d+) \(", listed)} == {
        n for n, count in stopped.items() if count > 1
    }


def test_an_outcome_without_observations_is_no_success() -> None:
    assert not Outcome("nothing").stopped
