"""The contents of a report, which a recipe fills. Every part may be missing; the page leaves its section out."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np

from diptych.core.evaluation.answer_metrics import AnswerScore
from diptych.core.evaluation.answering import AnswersResult, WrongAnswer
from diptych.core.evaluation.classification import ClassificationResult
from diptych.core.evaluation.language import LanguageResult
from diptych.core.evaluation.multilingual import RecallByLanguage
from diptych.core.evaluation.several_labels import SeveralLabelsResult
from diptych.core.evaluation.zero_shot import ZeroShotResult
from diptych.core.training.card import Card
from diptych.core.training.metrics import MetricsRow


@dataclass(frozen=True, kw_only=True)
class Samples:
    """Embedded images and captions of an evaluation set, for galleries, histograms and the similarity matrix.

    An image and a caption belong together when their labels are equal: one image can have captions in many languages.
    """

    image_embeddings: np.ndarray  # float32 [images, width], L2-normalised
    text_embeddings: np.ndarray  # float32 [texts, width], L2-normalised
    image_labels: np.ndarray  # int64 [images]
    text_labels: np.ndarray  # int64 [texts]
    captions: Sequence[str]  # [texts], as written by people, escaped by the report
    languages: Sequence[str]  # [texts], codes such as "de", "zh"; "und" where unknown
    thumbnails: np.ndarray  # uint8 [images, height, width, 3], 32 to 96 pixels is plenty
    logit_scale: float  # exp of the weight log_logit_scale
    logit_bias: float | None = 0.0  # None for a softmax model, which has no probability of a pair
    batch_size: int = 256  # images in a training batch: the base rate of pairs is one in so many
    main_language: str = "en"  # of the matrix, the histograms and most gallery rows; the most frequent one if absent
    name: str = "evaluation set"  # what the images are, such as "drawings of a held-out designer"

    def __post_init__(self) -> None:
        images, texts = len(self.image_embeddings), len(self.text_embeddings)
        expected: dict[str, tuple[np.ndarray | Sequence[str], int]] = {
            "image_labels": (self.image_labels, images),
            "thumbnails": (self.thumbnails, images),
            "text_labels": (self.text_labels, texts),
            "captions": (self.captions, texts),
            "languages": (self.languages, texts),
        }
        for name, (values, length) in expected.items():
            if len(values) != length:
                raise ValueError(
                    f"Samples.{name} must have {length} entries, one for each "
                    f"{'image' if length is images and name in ('image_labels', 'thumbnails') else 'text'}, got "
                    f"{len(values)}."
                )
        if self.thumbnails.ndim != 4 or self.thumbnails.shape[-1] != 3 or self.thumbnails.dtype != np.uint8:
            raise ValueError(
                f"Samples.thumbnails must be uint8 [images, height, width, 3], got {self.thumbnails.dtype} "
                f"{self.thumbnails.shape}."
            )

    def as_before(self, earlier: "Earlier") -> Self:
        """The same images and captions as they were embedded before training."""
        return dataclasses.replace(
            self,
            image_embeddings=earlier.image_embeddings,
            text_embeddings=earlier.text_embeddings,
            logit_scale=earlier.logit_scale,
            logit_bias=earlier.logit_bias,
        )

    def in_language(self, language: str | None = None) -> np.ndarray:
        """Indices of the texts in a language, of the main one by default: int64 [texts of that language]."""
        languages = np.asarray(self.languages)
        if language is None:
            language = self.main_language
            if language not in self.languages:
                codes, counts = np.unique(languages, return_counts=True)
                language = str(codes[counts.argmax()])
        return np.flatnonzero(languages == language)


@dataclass(frozen=True, kw_only=True)
class Earlier:
    """What the images and captions of `Samples` were embedded to before training, row for row."""

    image_embeddings: np.ndarray  # float32 [images, width], L2-normalised
    text_embeddings: np.ndarray  # float32 [texts, width], L2-normalised
    logit_scale: float
    logit_bias: float | None


@dataclass(frozen=True, kw_only=True)
class WrongAnswers:
    """Pictures that a classifier was wrong about, the surest answers first."""

    thumbnails: np.ndarray  # uint8 [shown, height, width, 3]
    keys: Sequence[str]  # [shown], what the data call them
    truths: Sequence[str]  # [shown], classes
    answers: Sequence[str]  # [shown], classes
    probabilities: Sequence[float]  # [shown], of the answers
    of_truths: Sequence[float]  # [shown], of the true classes
    count: int  # of all wrong answers


@dataclass(frozen=True, kw_only=True)
class Asked:
    """Pictures that a model was asked about, with what it answered."""

    thumbnails: np.ndarray  # uint8 [shown, height, width, 3]
    prompts: Sequence[str]  # [shown]
    truths: Sequence[str]  # [shown], several true answers with " | " between them
    answers: Sequence[str]  # [shown]
    right: Sequence[float]  # [shown], by the first metric


@dataclass(frozen=True, kw_only=True)
class ReportData:
    """Everything `write_report` shows."""

    title: str = "SigLIP"  # of the run
    card: Card = field(default_factory=dict)
    # All of it is shown. These keys, where present, make the header: command, seed, backend, implementation, device,
    # parameters, flops_per_step, utilisation (0 to 1), examples_seen, wall_seconds, versions, git, config.
    metrics: Sequence[MetricsRow] = ()  # in order; only "step" or "examples" is needed
    retrieval: Mapping[str, RecallByLanguage] = field(default_factory=dict)
    # By the name of the set, such as "New drawings"; the first set makes the headline.
    zero_shot: Mapping[str, ZeroShotResult | SeveralLabelsResult] = field(default_factory=dict)
    # What words alone find, by name; beside a classifier before it was trained, by the name of the set.
    classified: Mapping[str, ClassificationResult | SeveralLabelsResult] = field(default_factory=dict)
    # What a classifier scored, by the name of the set.
    answers: Mapping[str, AnswersResult] = field(default_factory=dict)
    # What a model scored that answers a task on texts, by the name of the set.
    wrong_answers: Sequence[WrongAnswer] = ()  # of the first of these sets, the surest first
    wrong: WrongAnswers | None = None
    answer_scores: Mapping[str, Sequence[AnswerScore]] = field(default_factory=dict)
    # Of a model that answers prompts about pictures, by the name of the set, a score for each metric.
    asked: Asked | None = None  # some of the first set
    language: Mapping[str, LanguageResult] = field(default_factory=dict)
    # What a language model scored, by the name of the set; the first set makes the headline.
    written: Sequence[Sequence[str]] = ()  # (prompt, what it wrote behind it)
    samples: Samples | None = None
    opening_examples: int | None = None  # after which pictures no longer come with one caption in one language alone
    before: Earlier | None = None  # of the samples, for runs that began from a checkpoint
    changes: Mapping[str, Sequence[float]] = field(default_factory=dict)  # {number: (before training, after)}
    skipped: Mapping[str, int] = field(default_factory=dict)  # {reason: examples left out}
    examples_read: int | None = None  # with those that were skipped
    captions_judged: int | None = None
    captions_clipped: int | None = None  # captions longer than the context

    def save(self, path: str | Path) -> None:
        """Write everything to one .npz without pickles, from which `load` restores it and the report can be made
        again.
        """
        arrays: dict[str, Any] = {}
        plain = {part.name: getattr(self, part.name) for part in dataclasses.fields(self) if part.name not in NESTED}
        for name, (kind, prefix) in NESTED.items():
            if (nested := getattr(self, name)) is None:
                continue
            values = {part.name: getattr(nested, part.name) for part in dataclasses.fields(kind)}
            arrays |= {prefix + part: value for part, value in values.items() if isinstance(value, np.ndarray)}
            plain[name] = {part: value for part, value in values.items() if not isinstance(value, np.ndarray)}
        text = json.dumps(plain, ensure_ascii=True, default=_plain)
        np.savez_compressed(path, plain=np.frombuffer(text.encode(), dtype=np.uint8), **arrays)

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read what `save` wrote.

        Raises:
            FileNotFoundError, ValueError: no such file, or not a file of `save`.
        """
        with np.load(path, allow_pickle=False) as stored:
            if "plain" not in stored:
                raise ValueError(f"{path} is not the data of a report: it holds {sorted(stored)}, and no 'plain'.")
            plain = json.loads(stored["plain"].tobytes())
            arrays = {name: stored[name] for name in stored.files if name != "plain"}
        for name, (kind, prefix) in NESTED.items():
            if name in plain:
                own = {part.name: prefix + part.name for part in dataclasses.fields(kind)}
                of_kind = {part: arrays[stored] for part, stored in own.items() if stored in arrays}
                plain[name] = kind(**plain[name], **of_kind)
        return cls(**plain)


NESTED: dict[str, tuple[type, str]] = {
    "samples": (Samples, ""),
    "before": (Earlier, "before_"),
    "wrong": (WrongAnswers, "wrong_"),
    "asked": (Asked, "asked_"),
}
"""Parts of a report that hold arrays, and how the names of these begin in its file."""


def _plain(value: object) -> object:
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Sequence):
        return list(value)
    raise TypeError(
        f"a {type(value).__name__} cannot be stored with a report, got {value!r}. Use numbers, text, lists, dicts."
    )
