"""The shape of what `recipes.fairness` writes."""

from typing import NotRequired, TypedDict

from diptych.core.evaluation.fairness import AssociationBias, RepresentationBias
from diptych.core.evaluation.few_shot import FewShotResult
from diptych.core.evaluation.grouped import GroupedAccuracy
from diptych.core.evaluation.judged import Header, JudgedData, JudgedModel


class Accuracy(TypedDict):
    """The share of pictures whose best class is right."""

    accuracy: float
    interval: list[float]  # 95%
    classes: int


class PairBias(RepresentationBias):
    """Whom one pair of texts sees."""

    texts: list[str]


class FairnessResult(TypedDict):
    """All that is measured on one set."""

    set: str
    data: JudgedData
    zero_shot: Accuracy
    by_group: list[GroupedAccuracy]
    by_language: NotRequired[GroupedAccuracy]  # of the prompts
    few_shot: NotRequired[FewShotResult]  # which place a picture is from
    place: NotRequired[str]
    representation: list[PairBias]
    association: NotRequired[AssociationBias]
    people: NotRequired[list[str]]


class Measured(Header):
    """A measurement, whole."""

    model: JudgedModel
    results: list[FairnessResult]
