"""Accuracy by group: a planted disparity lies in its interval, and chance alone is not taken for one."""

import numpy as np
import pytest

from diptych.core.evaluation.grouped import grouped_accuracy

ACCURACIES = {"north": 0.9, "south": 0.6, "west": 0.75}


def drawn(accuracies: dict[str, float], images: int, seed: int) -> tuple[np.ndarray, list[str]]:
    rng = np.random.default_rng(seed)
    groups = [group for group in accuracies for _ in range(images)]
    return rng.random(len(groups)) < np.array([accuracies[group] for group in groups]), groups


def test_each_group_is_counted_and_the_best_stands_first():
    hits = np.array([1, 1, 1, 0, 1, 0, 0, 0, 1, 1], bool)
    found = grouped_accuracy("region", hits, ["a"] * 4 + ["b"] * 4 + [None, "tiny"], fewest=3)
    assert [(one["group"], one["images"], one["accuracy"]) for one in found["groups"]] == [
        ("a", 4, 0.75),
        ("b", 4, 0.25),
    ]
    assert found["disparity"] == 0.5
    assert found["too_small"] == {"tiny": 1}
    assert found["unknown"] == 1
    assert all(one["interval"][0] < one["accuracy"] < one["interval"][1] for one in found["groups"])


def test_a_planted_disparity_lies_in_its_interval():
    inside = 0
    for seed in range(40):
        found = grouped_accuracy("region", *drawn(ACCURACIES, 300, seed), seed=seed)
        inside += found["interval"][0] <= 0.3 <= found["interval"][1]
        assert found["disparity"] > found["by_chance"]
    assert inside >= 35


def test_of_many_small_groups_the_interval_holds_the_planted_disparity_too():
    """The lead of the best of ten is 0.2 in truth, and of 50 images each it comes out at about 0.3."""
    accuracies = {f"group {number}": 0.7 + 0.2 * number / 9 for number in range(10)}
    found = [grouped_accuracy("region", *drawn(accuracies, 50, seed), seed=seed) for seed in range(60)]
    assert sum(one["interval"][0] <= 0.2 <= one["interval"][1] for one in found) >= 53
    assert all(one["interval"][0] < one["disparity"] < one["interval"][1] for one in found)


def test_groups_that_are_alike_exceed_chance_rarely():
    """The lead of the best of ten is never 0: the share of runs in which it is above what chance gives is 5%."""
    alike = {f"group {number}": 0.7 for number in range(10)}
    found = [grouped_accuracy("region", *drawn(alike, 50, seed), seed=seed) for seed in range(60)]
    assert min(one["disparity"] for one in found) > 0.05
    assert sum(one["disparity"] > one["by_chance"] for one in found) <= 9


def test_one_group_has_no_disparity_and_shapes_must_agree():
    assert grouped_accuracy("region", np.ones(30, bool), ["a"] * 29 + ["b"]) is None
    with pytest.raises(ValueError, match=r"got \(3,\) and 2 groups"):
        grouped_accuracy("region", np.ones(3, bool), ["a", "b"])
