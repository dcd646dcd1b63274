"""Laws of intersection over union: perfect answers, renamed classes, ignored pixels; and a count pixel by pixel."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diptych.core.data.sources.segmentation import IGNORE
from diptych.core.evaluation.segmentation_scores import (
    class_ious,
    confusion_by_image,
    mean_iou,
    mean_iou_interval,
    segmentation_scores,
)


def by_sets(predicted: np.ndarray, labels: np.ndarray, classes: int) -> list[float]:
    """IoU of each class from sets of pixels, NaN where both are empty."""
    counted = {place for place in np.ndindex(labels.shape) if labels[place] != IGNORE}
    ious = []
    for number in range(classes):
        truth, answer = ({p for p in counted if where[p] == number} for where in (labels, predicted))
        ious.append(len(truth & answer) / len(truth | answer) if truth | answer else float("nan"))
    return ious


@st.composite
def cases(draw):
    classes, images = draw(st.integers(1, 5)), draw(st.integers(1, 3))
    height, width = draw(st.integers(1, 5)), draw(st.integers(1, 5))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    labels = rng.integers(0, classes, (images, height, width)).astype(np.uint8)
    predicted = np.where(rng.random(labels.shape) < 0.5, labels, rng.integers(0, classes, labels.shape))
    labels[rng.random(labels.shape) < 0.2] = IGNORE
    labels[0, 0, 0] = 0  # something counts
    return predicted.astype(np.uint8), labels, classes


def agrees(found: tuple[float, np.ndarray], case) -> bool:
    expected = by_sets(*case)
    return np.allclose(found[1], expected, equal_nan=True) and np.isclose(found[0], np.nanmean(expected))


@settings(deadline=None)
@given(cases())
def test_the_mean_is_that_of_sets_of_pixels(case):
    assert agrees(mean_iou(*case), case)


@settings(deadline=None)
@given(cases(), st.integers(0, 100))
def test_renaming_the_classes_renames_the_scores(case, seed):
    predicted, labels, classes = case
    names = np.append(np.random.default_rng(seed).permutation(classes), [0] * (IGNORE - classes) + [IGNORE])
    mean, ious = mean_iou(predicted, labels, classes)
    renamed_mean, renamed = mean_iou(names[predicted], names[labels], classes)
    assert mean == pytest.approx(renamed_mean)
    np.testing.assert_allclose(renamed[names[:classes]], ious)


@settings(deadline=None)
@given(cases())
def test_perfect_answers_have_one_and_ignored_pixels_do_not_matter(case):
    predicted, labels, classes = case
    perfect = np.where(labels == IGNORE, 0, labels)
    assert mean_iou(perfect, labels, classes)[0] == 1.0
    other = np.where(labels == IGNORE, IGNORE, predicted)  # not even what no class is
    np.testing.assert_array_equal(mean_iou(other, labels, classes)[1], mean_iou(predicted, labels, classes)[1])


@pytest.mark.parametrize("wrong", ["mean of the images", "recall", "absent as 0", "absent as 1", "ignored as wrong"])
def test_another_score_is_rejected(wrong):
    labels = np.array([[[0, 0, 1, 1]], [[1, 1, 1, IGNORE]]], np.uint8)
    predicted = np.array([[[0, 1, 1, 1]], [[1, 1, 0, 0]]], np.uint8)
    case = (predicted, labels, 3)
    mean, ious = mean_iou(*case)
    assert agrees((mean, ious), case)
    filled = np.append(ious[:2], 1.0)
    others = {
        "mean of the images": (np.mean([mean_iou(predicted[[i]], labels[[i]], 3)[0] for i in range(2)]), ious),
        "recall": (3 / 5, np.array([1 / 2, 4 / 5, np.nan])),
        "absent as 0": (mean * 2 / 3, np.append(ious[:2], 0.0)),
        "absent as 1": (filled.mean(), filled),
        "ignored as wrong": (np.nanmean([1 / 4, 4 / 7]), np.array([1 / 4, 4 / 7, np.nan])),
    }
    assert not agrees(others[wrong], case)


def test_a_class_that_was_only_answered_counts_as_nothing():
    mean, ious = mean_iou(np.array([[[0, 1]]]), np.array([[[0, 0]]]), 3)
    assert ious.tolist()[:2] == [0.5, 0.0]
    assert np.isnan(ious[2])
    assert mean == 0.25


def test_the_result_holds_what_its_parts_say():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, (40, 6, 6)).astype(np.uint8)
    predicted = np.where(rng.random(labels.shape) < 0.8, labels, rng.integers(0, 3, labels.shape)).astype(np.uint8)
    labels[:, 0] = IGNORE
    labels[7] = IGNORE
    result = segmentation_scores(predicted, labels, ("a", "b", "c", "d"))
    mean, ious = mean_iou(predicted, labels, 4)
    assert result["mean_iou"] == mean
    assert [row["iou"] for row in result["per_class"]] == [*ious[:3].tolist(), None]
    counted = labels != IGNORE
    assert result["pixel_accuracy"] == pytest.approx(np.mean(predicted[counted] == labels[counted]))
    for value, bounds in (("mean_iou", "interval"), ("pixel_accuracy", "pixel_accuracy_interval")):
        low, high = result[bounds]
        assert 0 < low < result[value] < high < 1
    frequent = max(row["pixels"] for row in result["per_class"])
    always = np.full_like(predicted, [row["pixels"] for row in result["per_class"]].index(frequent))
    assert result["chance"] == pytest.approx(mean_iou(always, labels, 4)[0])
    assert result == segmentation_scores(predicted, labels, ("a", "b", "c", "d"))


def test_the_interval_covers_the_truth_about_as_often_as_it_says():
    """Sets of 60 images from one population: the mean IoU of all of them lies in 95% of the intervals."""
    rng = np.random.default_rng(1)
    labels = rng.integers(0, 2, (6000, 3, 3))
    ease = rng.random((6000, 1, 1))  # images differ: their pixels are not independent
    predicted = np.where(rng.random(labels.shape) < ease, labels, 1 - labels)
    by_image = confusion_by_image(predicted, labels, 2)
    truth = class_ious(by_image.sum(axis=0)).mean()
    bounds = [mean_iou_interval(by_image[start : start + 60], resamples=200) for start in range(0, 6000, 60)]
    covered = sum(low <= truth <= high for low, high in bounds)
    assert 88 <= covered <= 99, "four deviations of a binomial of 0.94, the bootstrap being a little narrow"


@pytest.mark.parametrize(
    ("predicted", "labels", "classes", "words"),
    [
        (np.zeros((1, 2, 2), int), np.zeros((1, 4, 4), int), 2, "size of the labels"),
        (np.zeros((2, 2), int), np.zeros((2, 2), int), 2, "images, height, width"),
        (np.zeros((1, 2, 2), int), np.full((1, 2, 2), 7), 2, r"labels must be 0 to 1, or 255 .* got \[7\]"),
        (np.zeros((1, 2, 2), int), np.full((1, 2, 2), -1), 2, "labels must be 0 to 1"),
        (np.full((1, 2, 2), 3), np.zeros((1, 2, 2), int), 2, "predicted must be 0 to 1"),
        (np.zeros((1, 2, 2), int), np.zeros((1, 2, 2)), 2, "labels must be integers"),
        (np.zeros((1, 2, 2), int), np.zeros((1, 2, 2), int), 256, "classes must be 1 to 255"),
        (np.zeros((1, 2, 2), int), np.full((1, 2, 2), IGNORE), 2, "none of the pixels"),
    ],
)
def test_what_cannot_be_scored_is_refused(predicted, labels, classes, words):
    with pytest.raises(ValueError, match=words):
        mean_iou(predicted, labels, classes)
