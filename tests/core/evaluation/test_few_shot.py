"""Laws of few-shot classification: the least-squares solution, what is left out, what is drawn."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diptych.core.evaluation.few_shot import (
    BIAS_FEATURE,
    BIG_VISION_L2,
    DEVIATION_FLOOR,
    L2_CHOICES,
    FewShotClassifier,
    LeastSquares,
    draw_shots,
    few_shot,
)

NAMES = ("a", "b", "c")
# More rows than columns, fewer, and as many: the two ways to the solution, and where they meet.
SHAPES = [(30, 7), (7, 30), (12, 12)]


def problem(rows: int, columns: int, *, outputs: int = 4, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(rows, columns)), rng.normal(size=(rows, outputs))


def lstsq_weights(features: np.ndarray, targets: np.ndarray, l2: float) -> np.ndarray:
    """NumPy's solution of the same problem, written as plain least squares over rows of sqrt(l2) I below."""
    columns = features.shape[1]
    stacked = np.concatenate([features, np.sqrt(l2) * np.eye(columns)])
    below = np.concatenate([targets, np.zeros((columns, targets.shape[1]))])
    return np.linalg.lstsq(stacked, below, rcond=None)[0]


def assert_minimises(weights: np.ndarray, features: np.ndarray, targets: np.ndarray, l2: float) -> None:
    """Equal to NumPy's solution, to the rounding of a system of this condition."""
    expected = lstsq_weights(features, targets, l2)
    largest = np.linalg.norm(features, 2) ** 2
    tolerance = 100 * np.finfo(np.float64).eps * (largest + l2) / l2
    assert np.abs(weights - expected).max() <= tolerance * np.abs(expected).max()


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("l2", [2.0**-10, 1.0, 2.0**10])
def test_the_solution_is_that_of_numpy(shape, l2):
    features, targets = problem(*shape)
    squares = LeastSquares.of(features, targets)
    assert_minimises(squares.weights(l2), features, targets, l2)
    assert squares.vectors.shape == (min(shape), min(shape))
    assert squares.primal == (shape[0] >= shape[1])


@pytest.mark.parametrize("shape", SHAPES)
def test_the_gradient_vanishes_at_the_solution(shape):
    features, targets = problem(*shape)
    weights = LeastSquares.of(features, targets).weights(0.5)
    gradient = features.T @ (features @ weights - targets) + 0.5 * weights
    assert np.abs(gradient).max() < 1e-10


@pytest.mark.parametrize(
    "wrong",
    [
        lambda x, y: LeastSquares.of(x, y).weights(2.0),
        lambda x, y: -LeastSquares.of(x, y).weights(1.0),
        lambda x, y: np.zeros((x.shape[1], y.shape[1])),
        lambda x, y: np.linalg.lstsq(x, y, rcond=None)[0],
        lambda x, y: LeastSquares.of(x, y[::-1]).weights(1.0),
        lambda x, y: LeastSquares.of(x.astype(np.float32).astype(np.float16), y).weights(1.0),
    ],
    ids=["l2 doubled", "sign", "zeros", "no l2", "rows in another order", "half precision"],
)
@pytest.mark.parametrize("shape", SHAPES)
def test_a_wrong_solution_is_rejected(shape, wrong):
    features, targets = problem(*shape)
    with pytest.raises(AssertionError):
        assert_minimises(wrong(features, targets), features, targets, 1.0)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("l2", [0.01, 3.0])
def test_a_left_out_row_is_predicted_as_if_it_had_not_been_there(shape, l2):
    features, targets = problem(*shape)
    expected = np.stack(
        [
            features[row] @ lstsq_weights(np.delete(features, row, axis=0), np.delete(targets, row, axis=0), l2)
            for row in range(len(features))
        ]
    )
    outputs = LeastSquares.of(features, targets).left_out_outputs(l2)
    np.testing.assert_allclose(outputs, expected, rtol=1e-8, atol=1e-8)
    fitted = features @ LeastSquares.of(features, targets).weights(l2)
    assert np.abs(fitted - expected).max() > 1e-2, "outputs that saw their row would not be told apart"


def test_features_are_standardised_by_the_shots_and_the_bias_is_hardly_shrunk():
    rng = np.random.default_rng(0)
    features, labels = 1e3 + 50 * rng.normal(size=(12, 5)), np.arange(12) % 3
    classifier = FewShotClassifier.fit(features, labels, 3)
    standard = (features - features.mean(axis=0)) / (features.std(axis=0) + DEVIATION_FLOOR)
    rows = np.concatenate([standard, np.full((12, 1), BIAS_FEATURE)], axis=1)
    np.testing.assert_allclose(classifier.problem.features, rows)
    np.testing.assert_array_equal(classifier.problem.targets, 2.0 * np.eye(3)[labels] - 1)
    weights = lstsq_weights(rows, 2.0 * np.eye(3)[labels] - 1, 4.0)
    others = rng.normal(size=(8, 5))
    expected = np.concatenate(
        [(others - features.mean(axis=0)) / (features.std(axis=0) + 1e-5), np.full((8, 1), 100)], 1
    )
    np.testing.assert_allclose(classifier.scores(others, 4.0), expected @ weights, rtol=1e-9)
    # The intercept is the mean target, -1 + 2/3, but for l2 / (rows * 100²).
    np.testing.assert_allclose(100 * classifier.problem.weights(4.0)[-1], -1 / 3, rtol=1e-4)


def test_neither_scale_nor_shift_of_a_feature_matters():
    features, labels = np.random.default_rng(1).normal(size=(20, 6)), np.arange(20) % 3
    other = features * np.array([1, 10, 0.1, 100, 3, 7]) + 5
    first, second = (FewShotClassifier.fit(each, labels, 3) for each in (features, other))
    np.testing.assert_allclose(first.scores(features, 16.0), second.scores(other, 16.0), atol=1e-3)
    assert first.best_l2() == second.best_l2()


@settings(deadline=None)
@given(
    st.lists(st.integers(0, 3), min_size=1, max_size=40),
    st.integers(1, 6),
    st.integers(0, 5),
)
def test_shots_are_as_many_of_each_class_as_there_are_up_to_the_number(labels, shots, seed):
    labels = np.array(labels)
    drawn = draw_shots(labels, shots, 4, seed=seed)
    assert len(set(drawn.tolist())) == len(drawn)
    there = np.bincount(labels, minlength=4)
    assert np.array_equal(np.bincount(labels[drawn], minlength=4), np.minimum(there, shots))
    assert set(drawn) <= set(draw_shots(labels, shots + 1, 4, seed=seed))
    assert np.array_equal(drawn, draw_shots(labels, shots, 4, seed=seed))


def test_another_seed_draws_others():
    labels = np.repeat(np.arange(3), 50)
    assert not np.array_equal(draw_shots(labels, 10, 3, seed=0), draw_shots(labels, 10, 3, seed=1))
    with pytest.raises(ValueError, match="at least one shot"):
        draw_shots(labels, 0, 3, seed=0)


def clusters(images: int, *, noise: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Features around one centre a class, and the labels."""
    centres = np.random.default_rng(99).normal(size=(3, 16))
    rng = np.random.default_rng(seed)
    labels = np.arange(images) % 3
    return centres[labels] + noise * rng.normal(size=(images, 16)), labels


def test_clusters_are_learned_from_ten_shots_and_noise_is_not():
    shots, tests = clusters(90, noise=0.7, seed=0), clusters(300, noise=0.7, seed=1)
    result = few_shot(*shots, *tests, NAMES, shots=10)
    assert result["accuracy"] > 0.9
    assert result["interval"][0] <= result["accuracy"] <= result["interval"][1]
    assert result["images"] == 300
    assert result["fewest_shots"] == 10
    assert result["chance"] == pytest.approx(1 / 3)
    shuffled = np.random.default_rng(2).permutation(shots[1])
    guessed = few_shot(shots[0], shuffled, *tests, NAMES, shots=10)
    assert guessed["accuracy"] < 0.6, "labels that mean nothing teach nothing"
    constant = few_shot(np.ones((90, 16)), shots[1], np.ones((300, 16)), tests[1], NAMES, shots=10)
    assert constant["accuracy"] <= 1 / 3 + 1e-9, "features that say nothing are not better than chance"


def test_every_number_of_the_result_is_that_of_the_classifiers():
    shots, tests = clusters(60, noise=2.0, seed=3), clusters(120, noise=2.0, seed=4)
    result = few_shot(*shots, *tests, NAMES, shots=5, seeds=(4, 7))
    accuracies = []
    for row in result["seeds"]:
        drawn = draw_shots(shots[1], 5, 3, seed=row["seed"])
        classifier = FewShotClassifier.fit(shots[0][drawn], shots[1][drawn], 3)
        assert row["l2"] == classifier.best_l2()
        errors = [classifier.left_out_error(l2) for l2 in L2_CHOICES]
        assert classifier.left_out_error(row["l2"]) == min(errors) < max(errors)
        answers = classifier.scores(tests[0], row["l2"]).argmax(axis=1)
        assert row["accuracy"] == pytest.approx(np.mean(answers == tests[1]))
        accuracies.append([np.mean(classifier.scores(tests[0], l2).argmax(axis=1) == tests[1]) for l2 in L2_CHOICES])
    assert result["accuracy"] == pytest.approx(np.mean([row["accuracy"] for row in result["seeds"]]))
    assert [row["l2"] for row in result["by_l2"]] == list(L2_CHOICES)
    np.testing.assert_allclose([row["accuracy"] for row in result["by_l2"]], np.mean(accuracies, axis=0))
    assert result["big_vision_accuracy"] == pytest.approx(np.mean(accuracies, axis=0)[L2_CHOICES.index(BIG_VISION_L2)])
    assert result["first_seed"]["accuracy"] == result["seeds"][0]["accuracy"]
    assert np.sum(result["first_seed"]["confusion"]) == 120


def test_without_a_set_to_test_the_images_not_drawn_are_tested():
    features, labels = clusters(30, noise=0.2, seed=5)
    result = few_shot(features, labels, None, None, NAMES, shots=4)
    assert result["images"] == 30 - 3 * 4
    with pytest.raises(ValueError, match="none is left to classify"):
        few_shot(features, labels, None, None, NAMES, shots=10)


def test_a_class_with_few_images_gives_what_it_has():
    features, labels = clusters(30, noise=0.2, seed=6)
    kept = np.concatenate([np.flatnonzero(labels < 2), np.flatnonzero(labels == 2)[:3]])
    result = few_shot(features[kept], labels[kept], features, labels, NAMES, shots=5)
    assert result["fewest_shots"] == 3
    none = labels < 2
    assert few_shot(features[none], labels[none], features, labels, NAMES, shots=5)["first_seed"]["per_class"][2] == 0.0


def test_tested_features_that_are_not_numbers_are_wrong_answers():
    (shots, shot_labels), (features, labels) = clusters(60, noise=0.2, seed=7), clusters(60, noise=0.2, seed=8)
    whole = few_shot(shots, shot_labels, features, labels, NAMES, shots=5)["accuracy"]
    features[:30] = np.nan
    assert whole == 1.0
    assert few_shot(shots, shot_labels, features, labels, NAMES, shots=5)["accuracy"] == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("features", "labels", "message"),
    [
        (np.ones((4, 2)), np.array([0, 1, 2, 3]), "labels must be 0 to 2"),
        (np.ones((4, 2)), np.array([0, 1, -1, 2]), "labels must be 0 to 2"),
        (np.ones((4, 2)), np.array([0, 1]), "one label each"),
        (np.full((4, 2), np.nan), np.array([0, 1, 2, 0]), "not finite"),
    ],
)
def test_what_cannot_be_fitted_is_refused(features, labels, message):
    with pytest.raises(ValueError, match=message):
        FewShotClassifier.fit(features, labels, 3)


def test_an_l2_of_zero_is_refused():
    with pytest.raises(ValueError, match="above 0"):
        LeastSquares.of(*problem(4, 3)).weights(0.0)
    with pytest.raises(ValueError, match=r"\[rows, columns\]"):
        LeastSquares.of(np.ones((4, 2)), np.ones((3, 1)))
    with pytest.raises(ValueError, match="at least one seed"):
        few_shot(np.ones((4, 2)), np.arange(4) % 3, None, None, NAMES, seeds=())
