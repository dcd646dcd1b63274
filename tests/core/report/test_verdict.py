"""A run that learned nothing is told so, and one that learned is not."""

import math

import pytest

from diptych.core.report.verdict import warnings_of


def rows(first: float, last: float, count: int = 100, skipped: int = 0) -> list[dict]:
    losses = [first if step < count // 2 else last for step in range(count)]
    return [
        {"step": step + 1, "loss": loss, "learning_rate": 1e-3, "skipped_steps": skipped}
        for step, loss in enumerate(losses)
    ] + [{"step": count, "evaluation": {}}]


LEARNED = {"fresh": True, "recall": 0.5, "chance": 0.01, "queries": 100}


def test_a_run_that_learned_gets_no_warning():
    assert warnings_of(rows(5.0, 3.0), **LEARNED) == []


@pytest.mark.parametrize("last", [5.0, 1965.0, math.nan, math.inf])
def test_a_loss_that_did_not_fall_is_told_with_both_values(last):
    (warning,) = warnings_of(rows(5.0, last), **LEARNED)
    assert "it began with 5" in warning
    assert "--learning-rate (its highest was 0.001)" in warning
    assert warnings_of(rows(5.0, last), **LEARNED | {"fresh": False}) == []
    assert warnings_of(rows(5.0, last, count=19), **LEARNED) == []


@pytest.mark.parametrize(("recall", "told"), [(0.0, True), (0.01, True), (0.0298, True), (0.03, False), (0.5, False)])
def test_chance_is_two_standard_errors_wide(recall, told):
    found = warnings_of(rows(5.0, 3.0), **LEARNED | {"recall": recall})
    assert bool(found) == told
    assert all("guessing gives 1.0%" in warning for warning in found)


def test_one_held_out_picture_is_told_to_say_nothing():
    (warning,) = warnings_of(rows(5.0, 3.0), **LEARNED | {"recall": 1.0, "chance": 1.0, "queries": 1})
    assert "recall says nothing. Hold out more, by --val-fraction" in warning


def test_a_skipped_step_is_no_loss():
    learned = rows(5.0, 3.0)
    learned[97]["loss"] = math.nan
    assert warnings_of(learned, **LEARNED) == []


def test_skipped_steps_are_counted():
    assert warnings_of(rows(5.0, 3.0, skipped=3), **LEARNED) == [
        "3 of 100 steps were skipped, because they were not finite."
    ]


def test_a_run_without_rows_says_nothing_of_its_loss():
    assert warnings_of([], **LEARNED) == []
