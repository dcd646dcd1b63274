"""Boxes: laws of their overlap, RefCOCO's protocol, and training sets that hold no judged image."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from diptych.core.data.regions import box_iou
from diptych.core.data.sources.refcoco import Referral
from diptych.core.evaluation.localization import RefcocoSplits, accuracy_at_iou, phrase_ious

GRID = 12
BOX = (0.2, 0.2, 0.6, 0.8)


@st.composite
def boxes(draw):
    """A box of whole cells of a grid, 0 to 1."""
    top, bottom = sorted(draw(st.lists(st.integers(0, GRID), min_size=2, max_size=2, unique=True)))
    left, right = sorted(draw(st.lists(st.integers(0, GRID), min_size=2, max_size=2, unique=True)))
    return np.array([top, left, bottom, right]) / GRID


def cells(box: np.ndarray) -> set[tuple[int, int]]:
    top, left, bottom, right = np.round(box * GRID).astype(int)
    return {(y, x) for y in range(top, bottom) for x in range(left, right)}


def agrees(iou: float, first: np.ndarray, second: np.ndarray) -> bool:
    one, other = cells(first), cells(second)
    return bool(np.isclose(iou, len(one & other) / len(one | other), atol=1e-12))


@given(boxes(), boxes())
def test_overlap_is_that_of_cells(first, second):
    assert agrees(float(box_iou(first, second)), first, second)


@given(boxes(), boxes(), st.floats(0.1, 10), st.floats(-3, 3))
def test_overlap_is_symmetric_and_neither_scale_nor_place_matters(first, second, scale, shift):
    iou = float(box_iou(first, second))
    assert iou == float(box_iou(second, first))
    assert 0 <= iou <= 1
    assert float(box_iou(scale * first + shift, scale * second + shift)) == pytest.approx(iou, abs=1e-9)
    swapped = [box[[1, 0, 3, 2]] for box in (first, second)]
    assert float(box_iou(*swapped)) == pytest.approx(iou)
    assert float(box_iou(first, first)) == pytest.approx(1.0)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda a, b: 0.0,
        lambda a, b: float(box_iou(a, b)) / 2,
        lambda a, b: float(box_iou(a[[0, 1, 3, 2]], b)),
        lambda a, b: float(np.prod(np.minimum(a, b)[2:] - np.maximum(a, b)[:2]) / np.prod(b[2:] - b[:2])),
        lambda a, b: float(box_iou(np.concatenate([a[:2], a[2:] - a[:2]]), b)),
    ],
    ids=["zero", "half", "corners mixed", "over the truth alone", "sizes for corners"],
)
def test_another_overlap_is_rejected(wrong):
    first, second = np.array([2, 2, 7, 9]) / GRID, np.array([3, 1, 9, 8]) / GRID
    assert agrees(float(box_iou(first, second)), first, second)
    assert not agrees(wrong(first, second), first, second)


@pytest.mark.parametrize(
    "box",
    [(0.3, 0.3, 0.3, 0.7), (0.6, 0.8, 0.2, 0.2), (0.6, 0.2, 0.2, 0.8), (0.0, 0.0, 0.0, 0.0), (0.7, 0.85, 0.9, 0.95)],
)
def test_empty_and_reversed_boxes_overlap_nothing(box):
    assert box_iou(np.array(box), np.array(BOX)) == 0.0


def test_all_pairs_by_broadcasting():
    first, second = np.random.default_rng(0).random((3, 1, 4)), np.random.default_rng(1).random((5, 4))
    pairs = box_iou(first, second)
    assert pairs.shape == (3, 5)
    assert pairs[2, 4] == box_iou(first[2, 0], second[4])


def test_the_protocol_counts_what_is_no_box_as_wrong():
    true = np.array([BOX] * 6)
    half = (0.2, 0.2, 0.4, 0.8)
    result = accuracy_at_iou([BOX, half, (0.2, 0.2, 0.39, 0.8), None, (np.nan, 0, 1, 1), (0.6, 0.8, 0.2, 0.2)], true)
    assert result["accuracy"] == pytest.approx(2 / 6)  # an overlap of one half is enough
    assert result["mean_iou"] == pytest.approx((1 + 0.5 + 0.475) / 6)
    assert (result["unparsable"], result["phrases"], result["threshold"]) == (2, 6, 0.5)
    assert result["interval"][0] <= result["accuracy"] <= result["interval"][1]
    assert accuracy_at_iou([BOX] * 6, true)["accuracy"] == 1.0
    assert accuracy_at_iou([None] * 6, true)["accuracy"] == 0.0
    assert accuracy_at_iou([half] * 6, true, threshold=0.51)["accuracy"] == 0.0


def test_phrases_of_one_image_are_drawn_together():
    rng = np.random.default_rng(0)
    right = rng.random(40) < 0.5
    predicted = [BOX if hit else None for hit in right.repeat(10)]
    alone = accuracy_at_iou(predicted, np.array([BOX] * 400))
    together = accuracy_at_iou(predicted, np.array([BOX] * 400), groups=np.arange(40).repeat(10))
    widths = [high - low for low, high in (alone["interval"], together["interval"])]
    assert widths[1] > 2 * widths[0], "ten phrases that agree are one observation"
    assert alone["accuracy"] == together["accuracy"] == right.mean()


@pytest.mark.parametrize(
    ("predicted", "true", "threshold", "words"),
    [
        ([None], np.array([BOX] * 2), 0.5, "one predicted box"),
        ([], np.zeros((0, 4)), 0.5, "one predicted box"),
        ([BOX], np.array([[0.2, 0.2, 0.1, 0.5]]), 0.5, "Is it x, y, width, height"),
        ([BOX], np.array([[0.2, 0.2, np.nan, 0.5]]), 0.5, "true box 0"),
        ([BOX], np.array([BOX]), 0.0, "threshold"),
    ],
)
def test_what_cannot_be_judged_is_refused(predicted, true, threshold, words):
    with pytest.raises(ValueError, match=words):
        accuracy_at_iou(predicted, true, threshold=threshold)


def test_boxes_of_another_length_are_refused():
    with pytest.raises(ValueError, match="ymin, xmin, ymax, xmax"):
        box_iou(np.ones(3), np.ones(4))
    with pytest.raises(ValueError, match="shape"):
        phrase_ious([(0.1, 0.2, 0.3)], np.array([BOX]))


def referral(image: int, split: str, phrase: str = "x") -> Referral:
    return Referral(Path(f"COCO_train2014_{image:012d}.jpg"), phrase, BOX, split)


def test_no_image_that_is_judged_is_trained_on():
    splits = RefcocoSplits.of(
        {
            "refcoco": [referral(1, "train"), referral(2, "train", "y"), referral(2, "train"), referral(3, "val")],
            "refcoco+": [referral(3, "train"), referral(1, "train"), referral(4, "testA")],
            # The same image under the name of another year.
            "refcocog": [referral(5, "train"), Referral(Path("val2017/000000000002.jpg"), "z", BOX, "test")],
        }
    )
    assert [each.image_key for each in splits.train] == ["1", "1", "5"]
    assert (splits.removed, splits.removed_images) == (3, 2)
    assert {key: len(held) for key, held in splits.held_out.items()} == {
        ("refcoco", "val"): 1,
        ("refcoco+", "testA"): 1,
        ("refcocog", "test"): 1,
    }


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 6), st.sampled_from(["train", "val", "testB"]))))
def test_training_and_judged_images_never_meet(entries):
    sets: dict[str, list[Referral]] = {}
    for name, image, split in entries:
        sets.setdefault(name, []).append(referral(image, split))
    held = {image for _, image, split in entries if split != "train"}
    trained = [image for _, image, split in entries if split == "train"]
    if trained and set(trained) <= held:
        with pytest.raises(ValueError, match="nothing is left to train on"):
            RefcocoSplits.of(sets)
        return
    splits = RefcocoSplits.of(sets)
    judged = {each.image_key for group in splits.held_out.values() for each in group}
    assert judged == {str(image) for image in held}
    assert not judged & {each.image_key for each in splits.train}
    assert len(splits.train) + splits.removed == len(trained)
    assert len(splits.train) == sum(image not in held for image in trained)


def test_an_unknown_split_is_refused():
    with pytest.raises(ValueError, match="'minival'"):
        RefcocoSplits.of({"refcoco": [referral(1, "minival")]})
