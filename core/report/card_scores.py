"""The scores of a run or of a judged model as one flat list, whatever kind of model it is, for a model card."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from diptych.core.evaluation.judged import Evaluated
from diptych.core.evaluation.multilingual import MEAN
from diptych.core.report.charts.numbers import percent, significant
from diptych.core.report.language_names import language_name
from diptych.core.training.results import Scores

RETRIEVAL, ZERO_SHOT, CLASSIFICATION = "image-text-retrieval", "zero-shot-image-classification", "image-classification"
LANGUAGE, ANSWERS, ASKED = "text-generation", "text-classification", "image-text-to-text"
"""Tasks under the hub's names; for retrieval it has none."""

_SHARES = ("recall@", "acc", "mean_average_precision", "f1", "exact", "vqa", "okvqa", "relaxed", "anls", "boxes")


@dataclass(frozen=True, kw_only=True)
class Score:
    """One number.

    Attributes:
        task: under the hub's name.
        data: the set it is of.
        metric: such as "recall@1".
        value: as it was found.
        interval: 95%; None where none is known.
        chance: what guessing, or always naming the largest class, gives; None where that is not known.
        examples: over how many, and of what: "1,700 captions".
        language: of the texts, a code; None for no language or all of them.
        headline: whether it stands in the card's metadata, too.
    """

    task: str
    data: str
    metric: str
    value: float
    interval: Sequence[float] | None
    chance: float | None
    examples: str
    language: str | None = None
    headline: bool = True

    @property
    def measured(self) -> str:
        """What was measured, for people."""
        spoken = {None: "", MEAN: ", mean of languages"}.get(self.language, f", {language_name(self.language or '')}")
        return f"{self.data}{spoken}"

    def shown(self, value: float) -> str:
        """A value of this metric, for people."""
        return percent(value) if self.metric.startswith(_SHARES) else significant(value, 4)


def run_scores(scores: Scores) -> list[Score]:
    """What a stage scored, as `results.json` has it (`engine.training.results`)."""
    found: list[Score] = []
    for name, by_language in scores.get("retrieval", {}).items():
        found += _retrieval(name, by_language)
    for name, result in scores.get("zero_shot", {}).items():
        found += _classified(ZERO_SHOT, name, result)
    for name, result in scores.get("classification", {}).items():
        found += _classified(CLASSIFICATION, name, result)
    for name, result in scores.get("language", {}).items():
        found.append(
            Score(
                task=LANGUAGE,
                data=name,
                metric="bits_per_byte",
                value=result["bits_per_byte"],
                interval=None,
                chance=None,
                examples=f"{result['tokens']:,} tokens",
            )
        )
    for name, result in scores.get("answers", {}).items():
        found += _answers(name, result)
    return found


def judged_scores(evaluation: Evaluated) -> list[Score]:
    """What `recipes.evaluate` found."""
    found: list[Score] = []
    for result in evaluation["results"]:
        if result["task"] == "zeroshot_retrieval":
            found += _retrieval(result["set"], result["details"]["by_language"])
        elif result["task"] == "zeroshot_classification":
            found += _classified(ZERO_SHOT, result["set"], result["details"])
        else:
            found.append(
                Score(
                    task=CLASSIFICATION,
                    data=f"{result['set']}, {result['details']['shots']} shots a class",
                    metric="accuracy",
                    value=result["metrics"]["lp_acc1"],
                    interval=result["intervals"].get("lp_acc1"),
                    chance=result["details"]["chance"],
                    examples=f"{result['data']['images']:,} pictures",
                )
            )
    return found


def languages_of(scores: Sequence[Score]) -> list[str]:
    """The languages that were judged, by their codes, in alphabetical order."""
    known = {score.language for score in scores if score.language not in (None, MEAN, "und")}
    return sorted(str(code) for code in known)


def _retrieval(name: str, by_language: Mapping[str, Any]) -> Iterator[Score]:
    """Both directions of each language, the mean of all first."""
    several = MEAN in by_language and len(by_language) > 2
    order = ([MEAN] if several else []) + [code for code in by_language if code != MEAN]
    main = {MEAN, "en"} if "en" in order else {MEAN, order[-1] if several else "", *order[:1]}
    for code in order:
        result, language = by_language[code], None if code == "und" else code
        ways = [("", result, "captions")]
        if "image_to_text" in result:
            ways.append((", image to text", result["image_to_text"], "pictures"))
        for way, recalls, what in ways:
            for metric in [key for key in recalls if key.startswith("recall@")]:
                chance = (
                    min(1.0, int(metric.partition("@")[2]) / recalls["gallery"]) if recalls.get("gallery") else None
                )
                yield Score(
                    task=RETRIEVAL,
                    data=name + way,
                    metric=metric,
                    value=recalls[metric],
                    interval=recalls.get("intervals", {}).get(metric),
                    chance=None if way else chance,
                    examples=f"{recalls['queries']:,} {what}",
                    language=language,
                    headline=code in main or language is None,
                )


def _classified(task: str, name: str, result: Mapping[str, Any]) -> Iterator[Score]:
    metric = "accuracy" if "accuracy" in result else "mean_average_precision"
    if result.get(metric) is not None:
        yield Score(
            task=task,
            data=name,
            metric=metric,
            value=result[metric],
            interval=result.get("interval"),
            chance=result.get("chance"),
            examples=f"{result['images']:,} pictures, {len(result['class_names']):,} classes",
        )


def _answers(name: str, result: Any) -> Iterator[Score]:
    """Of a model that answers a task on texts, or prompts about pictures."""
    if isinstance(result, Mapping):
        task, count, judged = ANSWERS, f"{result['examples']:,} texts", list(result["metrics"].items())
    else:
        count = f"{result[0]['questions']:,} questions" if result else ""
        task, judged = ASKED, [(score["metric"], score) for score in result]
    for metric, score in judged:
        yield Score(
            task=task,
            data=name,
            metric=metric,
            value=score["value"],
            interval=score.get("interval"),
            chance=None,
            examples=count,
        )
