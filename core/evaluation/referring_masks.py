"""Scores of referring expressions: box accuracy and mask IoU, as RefCOCO is judged."""

from collections.abc import Sequence
from typing import TypedDict

import numpy as np

from diptych.core.data.detections import Detection, mask_in_picture
from diptych.core.data.records import Box
from diptych.core.evaluation.intervals import bootstrap_interval
from diptych.core.evaluation.localization import LocalizationResult, accuracy_at_iou

STRICT = 0.75


class ReferringMasks(TypedDict):
    """Masks and boxes of phrases, JSON-ready."""

    mask_iou: float  # the mean over phrases of each one's IoU, not the IoU of all pixels together
    interval: list[float]  # 95%
    invalid: int  # answers without a box that is one and the codes of a mask, of IoU 0
    boxes: LocalizationResult  # at an IoU of 0.5
    boxes_strict: LocalizationResult  # of 0.75


def referring_masks(
    predicted: Sequence[Detection | None],
    decoded: Sequence[np.ndarray | None],
    true_masks: Sequence[np.ndarray],
    true_boxes: Sequence[Box],
) -> ReferringMasks:
    """Scores of one thing for each phrase.

    Args:
        predicted: the first thing of each answer; None where there is none.
        decoded: for each float [64, 64] in [-1, 1], of `MaskDecoder`; None where the answer has no codes.
        true_masks: for each bool [height, width] of its picture.
        true_boxes: for each (ymin, xmin, ymax, xmax) in [0, 1].

    Reference: big_vision `evaluators/proj/paligemma/transfers/segmentation.py`.
    """
    boxes = [None if one is None else one.box for one in predicted]
    ious = [mask_iou(*each) for each in zip(predicted, decoded, true_masks, strict=True)]
    scores = np.array([0.0 if iou is None else iou for iou in ious])
    true = np.array(true_boxes, np.float64)
    return {
        "mask_iou": float(scores.mean()),
        "interval": [float(bound) for bound in bootstrap_interval(scores)],
        "invalid": sum(iou is None for iou in ious),
        "boxes": accuracy_at_iou(boxes, true),
        "boxes_strict": accuracy_at_iou(boxes, true, threshold=STRICT),
    }


def mask_iou(predicted: Detection | None, decoded: np.ndarray | None, true_mask: np.ndarray) -> float | None:
    """Intersection over union of a decoded mask, laid into its box, and the true one; None where there is no mask or
    the box has no pixel. Corners are cut to whole pixels, not rounded, as the reference does.
    """
    if predicted is None or decoded is None:
        return None
    height, width = true_mask.shape
    ymin, xmin, ymax, xmax = predicted.box
    box = (int(ymin * height), int(xmin * width), int(ymax * height), int(xmax * width))
    if box[0] >= box[2] or box[1] >= box[3]:
        return None
    mask = mask_in_picture(decoded, box, height, width)
    union = np.count_nonzero(mask | true_mask)
    return np.count_nonzero(mask & true_mask) / union if union else 0.0
