"""The measures of written answers by name, over a set of questions, with intervals."""

from collections.abc import Callable, Sequence
from typing import TypedDict

import numpy as np

from diptych.core.data.detections import parse_detections
from diptych.core.data.regions import box_iou
from diptych.core.evaluation.answers import anls, exact_match, plain_vqa_accuracy, relaxed_match, vqa_accuracy
from diptych.core.evaluation.cider import cider
from diptych.core.evaluation.intervals import bootstrap_interval
from diptych.core.evaluation.localization import THRESHOLD

_ONE_BY_ONE: dict[str, Callable[[str, Sequence[str]], float]] = {
    "exact": lambda answer, truths: max(exact_match(answer, truth) for truth in truths),
    "vqa": vqa_accuracy,
    "okvqa": plain_vqa_accuracy,
    "relaxed": lambda answer, truths: max(relaxed_match(answer, truth) for truth in truths),
    "anls": anls,
    "boxes": lambda answer, truths: max(_same_box(answer, truth) for truth in truths),
    "exact_or_box": lambda answer, truths: max(_same(answer, truth) for truth in truths),
}
METRICS = (*_ONE_BY_ONE, "cider")
"""exact: the answer is one of the true ones. vqa, okvqa: agreement with ten people, with VQA's normalisation and
without. relaxed: numbers within 5% (ChartQA). anls: by edits (DocVQA). boxes: the first box overlaps the true answer's
by half (RefCOCO). exact_or_box: as boxes where the true answer has one, else exactly. cider: captions."""


class AnswerScore(TypedDict):
    """One measure of a set of answers, JSON-ready."""

    metric: str
    value: float  # the mean over questions; of cider from 0 to 10
    interval: list[float]  # 95%, over questions
    questions: int


def answer_score(
    metric: str, answers: Sequence[str], truths: Sequence[Sequence[str]], *, lower_case: bool = False
) -> tuple[AnswerScore, np.ndarray]:
    """The score of a set of answers, and each one's, float64 [questions].

    Args:
        metric: of `METRICS`.
        lower_case: whether all are brought to lower case before, as DocVQA, ChartQA and captions are judged.

    Raises:
        ValueError: for another metric, no answers, or other numbers of them than of truths.
    """
    if metric not in METRICS or not answers or len(answers) != len(truths):
        raise ValueError(
            f"a metric of {', '.join(METRICS)} is needed, and true answers for one or more answers; got {metric!r} for "
            f"{len(answers)} answers and {len(truths)} of theirs."
        )
    if lower_case:
        answers, truths = [one.lower() for one in answers], [[one.lower() for one in given] for given in truths]
    if metric == "cider":
        scores = cider(answers, truths)
    else:
        scores = np.array([_ONE_BY_ONE[metric](*pair) for pair in zip(answers, truths, strict=True)])
    interval = [float(bound) for bound in bootstrap_interval(scores)]
    return {"metric": metric, "value": float(scores.mean()), "interval": interval, "questions": len(scores)}, scores


def _same(answer: str, truth: str) -> float:
    """Whether an answer is right: its first box, where the truth has one, or else all of it."""
    return _same_box(answer, truth) if parse_detections(truth).found else exact_match(answer, truth)


def _same_box(answer: str, truth: str) -> float:
    """Whether the first boxes of two answers have an IoU of half or more; raises ValueError for a truth without one."""
    predicted, true = (parse_detections(text).found for text in (answer, truth))
    if not true:
        raise ValueError(f"the true answer {truth!r:.100} has no box, expected four places such as <loc0012>.")
    return float(bool(predicted) and box_iou(np.array(predicted[0].box), np.array(true[0].box)) >= THRESHOLD)
