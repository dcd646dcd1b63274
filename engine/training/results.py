"""The shapes of what stages score, as results.json has it (`core.training.results`)."""

from collections.abc import Mapping
from typing import NotRequired, TypedDict

from diptych.core.evaluation.answer_metrics import AnswerScore
from diptych.core.evaluation.answering import AnswersResult
from diptych.core.evaluation.classification import ClassificationResult
from diptych.core.evaluation.language import LanguageResult
from diptych.core.evaluation.multilingual import RecallByLanguage
from diptych.core.evaluation.several_labels import SeveralLabelsResult
from diptych.core.evaluation.zero_shot import ZeroShotResult
from diptych.core.report.dense_page import DenseResults
from diptych.core.training.best import BestEvaluation


class Ending(TypedDict):
    """How a stage ended."""

    examples_seen: int  # by its weights
    examples_planned: int
    stopped_early: bool
    best: BestEvaluation | None


class Retained(TypedDict):
    """What a checkpoint should not forget: the headlines of the retention set, none where there is no such set."""

    before: Mapping[str, float]  # the first step
    after: Mapping[str, float]  # the last one


class JudgedStage(TypedDict):
    """What is known of a stage of any kind of model."""

    compilations: int  # of its step
    before: dict[str, float]  # what the evaluation before the first step found
    warnings: list[str]


class PairResults(JudgedStage):
    """What two towers scored."""

    retrieval: dict[str, RecallByLanguage]  # by the name of the set
    zero_shot: dict[str, ZeroShotResult]  # by the names of classes and set
    recall_by_length: dict[str, float | None]  # recall@1 of the first set by number of patches
    retention: NotRequired[Retained]
    dense: NotRequired[DenseResults]  # with a report on embedded scenes


class LanguageResults(JudgedStage):
    """What a language model scored."""

    language: dict[str, LanguageResult]  # by the name of the set
    samples: list[tuple[str, str]]  # a prompt, and what the model wrote behind it


class ClassifierResults(JudgedStage):
    """What a classifier scored."""

    classification: dict[str, ClassificationResult | SeveralLabelsResult]  # by the name of the set
    zero_shot_before: Mapping[str, ClassificationResult | SeveralLabelsResult]  # the first step, by words alone


class AnsweringResults(JudgedStage):
    """What a model that answers a task scored."""

    answers: dict[str, AnswersResult]  # by the name of the set


class PromptedResults(JudgedStage):
    """What a model scored that answers prompts about pictures."""

    answers: dict[str, list[AnswerScore]]  # by the name of the set, a score for each metric
    asked: list[dict[str, str]]  # some questions of the first set, with prompt, truth and answer
