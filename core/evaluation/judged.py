"""Results of judging a model on data sets, task by task: the shape of what `recipes.evaluate` writes."""

from collections.abc import Mapping
from typing import Literal, NotRequired, TypedDict

from diptych.core.evaluation.classification import ClassificationResult
from diptych.core.evaluation.few_shot import FewShotResult
from diptych.core.evaluation.multilingual import RecallByLanguage


class JudgedData(TypedDict):
    """The data of a result."""

    fingerprint: str
    records: int
    images: int  # that were judged
    skipped_images: Mapping[str, int]  # by reason
    texts: NotRequired[int]  # of retrieval, as the next
    skipped_texts: NotRequired[Mapping[str, int]]
    classes: NotRequired[int]  # of classification
    shots_from: NotRequired[str]  # the set that shots were drawn from, where it is another
    shots_fingerprint: NotRequired[str]


class _Result(TypedDict):
    dataset: str
    set: str
    data: JudgedData
    metrics: dict[str, float]  # under clip-benchmark's names
    intervals: dict[str, list[float]]  # 95%, of some of the metrics


class RetrievalDetails(TypedDict):
    """Recalls both ways."""

    by_language: RecallByLanguage


class RetrievalResult(_Result):
    """How well images and texts of a set find each other."""

    task: Literal["zeroshot_retrieval"]
    details: RetrievalDetails


class PromptedResult(ClassificationResult):
    """A classification by words, and the words."""

    templates: NotRequired[list[str]]  # not for classes that are kinds of things, as the next
    canonicalize: NotRequired[bool]


class ZeroShotTaskResult(_Result):
    """How often the class whose prompts fit an image best is the right one."""

    task: Literal["zeroshot_classification"]
    details: PromptedResult


class LinearProbeResult(_Result):
    """How often a linear classifier of a few images a class is right."""

    task: Literal["linear_probe"]
    details: FewShotResult


TaskResult = RetrievalResult | ZeroShotTaskResult | LinearProbeResult


class JudgedModel(TypedDict):
    """The model that was judged."""

    name: str
    fingerprint: str
    parameters: int
    dim: int
    logit_scale: float
    logit_bias: float | None


class Header(TypedDict):
    """By what a result was found, and with what: the beginning of each that a command stores."""

    format: str
    version: int
    options: object  # of the command, in JSON's types
    backend: str
    device: str | None
    versions: dict[str, str | None]


class Evaluated(Header):
    """An evaluation, whole."""

    model: JudgedModel
    results: list[TaskResult]
