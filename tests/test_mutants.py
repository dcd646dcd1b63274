"""The table of faults: each can be made where it says, the code stays Python, and its test is there."""

import re
from dataclasses import replace

import pytest

from tests.mutants.__main__ import chosen, verdict
from tests.mutants.mutant import functions_of
from tests.mutants.tables import MUTANTS

FEWEST = 36
PLACES = (
    "core/data",
    "core/losses",
    "core/training",
    "core/evaluation",
    "core/weights",
    "models",
    "backends/jax",
    "backends/torch",
    "backends/tensorflow",
    "recipes",
)
SOUND = MUTANTS[0]


def test_there_are_enough_faults_and_some_in_every_room():
    assert len(MUTANTS) >= FEWEST
    assert [place for place in PLACES if not any(mutant.file.startswith(f"{place}/") for mutant in MUTANTS)] == []


def test_names_are_words_and_each_is_given_once():
    names = [mutant.name for mutant in MUTANTS]
    assert len(set(names)) == len(names)
    assert [name for name in names if not all(word.isalpha() and word.islower() for word in name.split("-"))] == []


def test_every_fault_can_be_made_and_has_its_test():
    assert {mutant.name: mutant.wrong() for mutant in MUTANTS if mutant.wrong()} == {}


def test_a_backends_own_code_is_tested_on_that_backend():
    own = {place.removeprefix("backends/") for place in PLACES if place.startswith("backends/")}
    misplaced = [
        mutant.name
        for mutant in MUTANTS
        for room in [mutant.file.split("/")[1]]
        if mutant.file.startswith("backends/") and room in own and mutant.backend != room
    ]
    assert misplaced == []


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"file": "core/data/nothing.py"}, "there is no file"),
        ({"old": "nowhere in this file"}, "holds the old text 0 times"),
        ({"old": "self"}, r"holds the old text \d\d+ times"),
        ({"new": SOUND.old}, "are the same"),
        ({"new": "    return (\n"}, "would be no Python"),
        ({"test": SOUND.test + "_or_not"}, "there is no test"),
        ({"test": "tests/core/data/test_nothing.py::test_nothing"}, "there is no test"),
        ({"test": SOUND.test.partition("::")[0]}, "there is no test"),
    ],
)
def test_a_wrong_entry_is_seen(change, words):
    (sentence,) = replace(SOUND, **change).wrong()
    assert re.search(words, sentence)


@pytest.mark.parametrize(
    ("status", "expected"),
    [(0, "lives"), (1, "caught"), (2, "broken"), (3, "broken"), (4, "broken"), (5, "broken"), (-9, "broken"),
     (None, "broken")],
)  # fmt: skip
def test_only_a_test_that_failed_has_caught_something(status, expected):
    """0 is that of tests that passed, 1 of tests that failed; 2 to 5 say that none was run to its end."""
    assert verdict(status) == expected


def test_functions_are_found_in_classes_too():
    source = "def test_one(): pass\nclass TestTwo:\n    def test_three(self):\n        def inner(): pass\n"
    assert functions_of(source) == {"test_one", "TestTwo::test_three"}


def test_names_choose_and_an_unknown_one_is_answered_with_those_that_are_near(capsys):
    assert chosen([]) == list(MUTANTS)
    assert chosen([MUTANTS[3].name, SOUND.name]) == [MUTANTS[3], SOUND]
    with pytest.raises(SystemExit) as ended:
        chosen([SOUND.name + "s"])
    assert ended.value.code == 2
    assert SOUND.name in capsys.readouterr().err.replace(repr(SOUND.name + "s"), "")
