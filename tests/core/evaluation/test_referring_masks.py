"""Boxes and masks of what a text refers to, on cases whose overlap is known."""

import numpy as np
import pytest

from diptych.core.data.detections import Detection
from diptych.core.evaluation.referring_masks import mask_iou, referring_masks

FULL, UPPER = np.ones((64, 64)), np.where(np.arange(64)[:, None] + np.zeros(64) < 32, 1.0, -1.0)
BOX = (0.25, 0.0, 0.75, 0.5)  # rows 10 to 30, columns 0 to 20 of a picture of 40 x 40


def found(box=BOX) -> Detection:
    return Detection(box=box, label="cat", codes=(0,) * 16)


def rectangle(top: int, left: int, bottom: int, right: int) -> np.ndarray:
    mask = np.zeros((40, 40), bool)
    mask[top:bottom, left:right] = True
    return mask


def test_a_mask_is_compared_in_the_pictures_pixels():
    assert mask_iou(found(), FULL, rectangle(10, 0, 30, 20)) == 1.0
    assert mask_iou(found(), UPPER, rectangle(10, 0, 30, 20)) == 0.5
    assert mask_iou(found(), FULL, rectangle(10, 10, 30, 40)) == pytest.approx(200 / 800)
    assert mask_iou(found(), -FULL, rectangle(0, 0, 0, 0)) == 0.0
    # Corners are cut, as the reference does: rows 9 to 29 of a box that is a bit higher than BOX.
    assert mask_iou(found((0.2475, 0.0, 0.7475, 0.5)), FULL, rectangle(9, 0, 29, 20)) == 1.0


def test_the_mean_is_over_phrases_and_what_is_no_mask_counts_as_none():
    masks = [rectangle(10, 0, 30, 20), rectangle(10, 0, 20, 20), rectangle(0, 0, 10, 10), rectangle(0, 0, 10, 10)]
    boxes = [BOX, (0.25, 0.0, 0.5, 0.5), (0.0, 0.0, 0.25, 0.25), (0.0, 0.0, 0.25, 0.25)]
    predicted = [found(), found(), None, Detection(box=(0.0, 0.0, 0.25, 0.25), label="")]
    scores = referring_masks(predicted, [FULL, FULL, None, None], masks, boxes)
    assert scores["mask_iou"] == pytest.approx((1 + 0.5) / 4)
    assert scores["invalid"] == 2
    assert (scores["boxes"]["accuracy"], scores["boxes_strict"]["accuracy"]) == (0.75, 0.5)
    assert scores["interval"][0] <= scores["mask_iou"] <= scores["interval"][1]
