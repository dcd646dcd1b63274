"""A run that learned nothing is told so, and one that learned is not."""

import math

import pytest

from diptych.core.report.verdict import warnings_of


def rows(first: float, last: float, count: int = 100, skipped: int = 0, **more) -> list[dict]:
    losses = [first if step < count // 2 else last for step in range(count)]
    return [
        {"step": step, "examples": 8 * step, "loss": loss, "learning_rate": 1e-3, "skipped_steps": skipped, **more}
        for step, loss in enumerate(losses, 1)
    ] + [{"step": count, "evaluation": {}}]


LEARNED = {"fresh": True, "recall": 0.5, "chance": 0.01, "queries": 100}


def test_a_run_that_learned_gets_no_warning():
    assert warnings_of(rows(5.0, 3.0), **LEARNED) == []


@pytest.mark.parametrize("last", [5.0, 1965.0, math.nan, math.inf])
def test_a_loss_that_did_not_fall_is_told_with_both_values(last):
    (warning,) = warnings_of(rows(5.0, last), **LEARNED)
    assert "it began with 5" in warning
    assert "--learning-rate (its highest was 0.001)" in warning
    assert not any("nothing was learned" in told for told in warnings_of(rows(5.0, last), **LEARNED | {"fresh": False}))
    assert warnings_of(rows(5.0, last, count=19), **LEARNED) == []


@pytest.mark.parametrize("fresh", [True, False])
@pytest.mark.parametrize(("last", "told"), [(2.9, False), (3.1, True), (1965.0, True)])
def test_a_loss_that_rose_by_a_factor_is_told_with_the_least(fresh, last, told):
    """It began with 6 and was at 2; where the batches' kind changes meanwhile, that says nothing."""
    fell_first = [{"step": 0, "examples": 0, "loss": 6.0, "learning_rate": 1e-3}, *rows(2.0, last)]
    found = warnings_of(fell_first, **LEARNED | {"fresh": fresh and last < 6})
    assert bool(found) == told
    assert all("times the 2 that it had at" in warning for warning in found)
    assert warnings_of(fell_first, **LEARNED | {"fresh": False}, settled_after=50 * 8) == []


def test_a_loss_on_held_out_pairs_that_rose_is_told_with_the_place_of_the_best():
    losses = [3.0, 1.0, math.nan, 1.4]
    judged = [
        {"step": 9, "examples": 72 * place, "evaluation": {}, "validation_loss": x} for place, x in enumerate(losses)
    ]
    assert warnings_of(rows(5.0, 3.0) + judged, **LEARNED) == []
    judged[-1]["validation_loss"] = 1.6
    (warning,) = warnings_of(rows(5.0, 3.0) + judged, **LEARNED)
    assert "1.6 times the 1 that it had at 72 examples" in warning
    assert "best/" in warning


@pytest.mark.parametrize(
    ("scale", "bound", "told"), [(99.9999, 100.0, True), (99.0, 100.0, False), (500.0, None, False)]
)
def test_a_scale_at_its_bound_is_told(scale, bound, told):
    found = warnings_of(rows(5.0, 3.0, logit_scale=scale), **LEARNED, max_logit_scale=bound)
    assert bool(found) == told
    assert all("at its bound, 100" in warning for warning in found)


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
