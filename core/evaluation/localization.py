"""Scores of located phrases: intersection over union of boxes, accuracy at a threshold; sets that do not leak.

A box is (ymin, xmin, ymax, xmax), each 0 to 1 of the height or width of its image, as in `core.data.records`.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypedDict

import numpy as np

from diptych.core.data.regions import box_iou
from diptych.core.data.sources.refcoco import HELD_OUT_SPLITS, Referral
from diptych.core.evaluation.intervals import bootstrap_interval, hit_rate_interval

Box = Sequence[float]
THRESHOLD = 0.5


class LocalizationResult(TypedDict):
    """Accuracy of located phrases, JSON-ready."""

    accuracy: float  # share of phrases whose box overlaps the true one enough
    interval: list[float]  # 95%
    mean_iou: float
    mean_iou_interval: list[float]
    unparsable: int  # predictions that are no box
    phrases: int
    threshold: float  # of the IoU


def accuracy_at_iou(
    predicted: Sequence[Box | None],
    true: np.ndarray,
    *,
    threshold: float = THRESHOLD,
    groups: np.ndarray | None = None,
    seed: int = 0,
) -> LocalizationResult:
    """Share of phrases whose predicted box overlaps the true one by at least the threshold.

    Args:
        predicted: one box a phrase; None where the model's words could not be read as a box. That counts as wrong, of
            IoU 0, and so does a box with a number that is not finite.
        true: float [phrases, 4].
        threshold: of the IoU, above 0 and at most 1; reached is enough.
        groups: integer [phrases], equal for phrases of one image, which are resampled together; None where each stands
            alone.
        seed: of the bootstrap.

    Raises:
        ValueError: another number of predictions than of true boxes, none at all, a true box that is empty, a threshold
            outside its range.

    Reference: the protocol of RefCOCO, "Acc@0.5": Kazemzadeh et al. 2014; Yu et al. 2016.
    """
    if not 0 < threshold <= 1:
        raise ValueError(f"threshold must be above 0 and at most 1, got {threshold}. The usual choice is 0.5.")
    ious, unparsable = phrase_ious(predicted, true)
    hits = ious >= threshold
    return {
        "accuracy": float(hits.mean()),
        "interval": [float(bound) for bound in hit_rate_interval(hits, groups=groups, seed=seed)],
        "mean_iou": float(ious.mean()),
        "mean_iou_interval": [float(bound) for bound in bootstrap_interval(ious, groups=groups, seed=seed)],
        "unparsable": unparsable,
        "phrases": len(ious),
        "threshold": threshold,
    }


def phrase_ious(predicted: Sequence[Box | None], true: np.ndarray) -> tuple[np.ndarray, int]:
    """IoU of each phrase's boxes, float64 [phrases], 0 for a prediction that is no box; and the number of those.

    Raises:
        ValueError: as `accuracy_at_iou`.
    """
    true = np.asarray(true, np.float64)
    if true.ndim != 2 or true.shape[1] != 4 or len(predicted) != len(true) or not len(true):
        raise ValueError(
            f"one predicted box, or None, is needed for each true box [phrases, 4], got {len(predicted)} for "
            f"{list(true.shape)}."
        )
    sides = true[:, 2:] - true[:, :2]
    if not (sides > 0).all():
        wrong = int(np.flatnonzero(~(sides > 0).all(axis=1))[0])
        raise ValueError(
            f"true box {wrong} is {true[wrong].tolist()}, expected ymin < ymax and xmin < xmax: nothing could overlap "
            "it. Is it x, y, width, height?"
        )
    boxes = np.full(true.shape, np.nan)
    for place, box in enumerate(predicted):
        if box is not None:
            boxes[place] = box
    parsed = np.isfinite(boxes).all(axis=1)
    return np.where(parsed, box_iou(np.where(parsed[:, None], boxes, 0.0), true), 0.0), int(np.count_nonzero(~parsed))


@dataclass(frozen=True)
class RefcocoSplits:
    """Phrases to train on, and the sets they are judged on, no image of which is trained on. `of` makes them.

    Three fifths of the validation and test images of RefCOCO stand in the training sets of RefCOCO, RefCOCO+ and
    RefCOCOg together: a model that is trained on all three must do without them.

    Reference: Wan et al. 2024, "LocCa", arXiv 2403.19596.
    """

    train: tuple[Referral, ...]  # of all sets
    held_out: Mapping[tuple[str, str], tuple[Referral, ...]]  # {(set, split): phrases}
    removed: int  # phrases left out of the training sets
    removed_images: int

    @classmethod
    def of(cls, sets: Mapping[str, Iterable[Referral]]) -> "RefcocoSplits":
        """Takes the images of every held-out split, of whatever set, out of the union of the training sets.

        Args:
            sets: {name, such as "refcoco+": all its phrases}.

        Raises:
            ValueError: a split that is neither "train" nor held out; nothing left to train on where there was
            something.
        """
        train: list[Referral] = []
        held_out: dict[tuple[str, str], list[Referral]] = {}
        for name, referrals in sets.items():
            for referral in referrals:
                if referral.split == "train":
                    train.append(referral)
                elif referral.split in HELD_OUT_SPLITS:
                    held_out.setdefault((name, referral.split), []).append(referral)
                else:
                    raise ValueError(
                        f"{name} has the split {referral.split!r}, expected 'train' or one of "
                        f"{', '.join(HELD_OUT_SPLITS)}."
                    )
        seen = {referral.image_key for referrals in held_out.values() for referral in referrals}
        kept = tuple(referral for referral in train if referral.image_key not in seen)
        if train and not kept:
            raise ValueError(
                f"all {len(train)} training phrases are about images of the held-out splits {sorted(held_out)}: "
                "nothing is left to train on."
            )
        return cls(
            kept,
            {key: tuple(referrals) for key, referrals in held_out.items()},
            len(train) - len(kept),
            len({referral.image_key for referral in train} & seen),
        )
