"""The results of an evaluation as text: a table a set for retrieval, and one of all classifications."""

from collections.abc import Sequence

from diptych.core.evaluation.judged import (
    JudgedData,
    LinearProbeResult,
    RetrievalResult,
    TaskResult,
    ZeroShotTaskResult,
)
from diptych.core.evaluation.multilingual import MEAN
from diptych.core.evaluation.retrieval import Recalls
from diptych.core.report.charts.numbers import percent
from diptych.core.report.tables import interval_text, language_title, text_table


def evaluation_text(results: Sequence[TaskResult]) -> str:
    """Everything that an evaluation prints at its end: lines of about 110 columns for the usual recalls, without a
    newline at the end.
    """
    parts = [retrieval_text(result) for result in results if result["task"] == "zeroshot_retrieval"]
    classified = [result for result in results if result["task"] != "zeroshot_retrieval"]
    return "\n\n".join([*parts, classification_text(classified)] if classified else parts)


def retrieval_text(result: RetrievalResult) -> str:
    """Recall both ways by language, the mean first, then the best at text to image, chance at the end."""
    by_language, data = result["details"]["by_language"], result["data"]
    recalls = [name for name in next(iter(by_language.values())) if name.startswith("recall@")]
    shown = [name.replace("recall@", "@") for name in recalls]
    codes = sorted((code for code in by_language if code != MEAN), key=lambda code: -by_language[code][recalls[0]])
    header = ["language", *_columns("text to image", shown), *_columns("image to text", shown), "captions"]
    rows = []
    if MEAN in by_language:
        forward = by_language[MEAN]
        backward = {name: result["metrics"][f"text_retrieval_{name}"] for name in recalls}
        cells = [*_recalls(forward, recalls), *_recalls(backward, recalls)]
        rows.append([f"mean of {forward['languages']}", *cells, f"{forward['queries']:,}"])
    for code in codes:
        forward = by_language[code]
        cells = [*_recalls(forward, recalls), *_recalls(forward["image_to_text"], recalls)]
        rows.append([_language(code), *cells, f"{forward['queries']:,}"])
    first = by_language[codes[0]]
    chances = [percent(min(1.0, int(name.partition("@")[2]) / first["gallery"])) for name in recalls]
    rows.append(["chance", *_with_gap(chances), *([""] * (len(recalls) + 1)), ""])
    title = f"{result['set']}: {data['images']:,} images, {data['texts']:,} captions{_skipped(data)}"
    return f"{title}\n{text_table(header, rows)}"


def classification_text(results: Sequence[ZeroShotTaskResult | LinearProbeResult]) -> str:
    """One row a zero-shot or few-shot classification."""
    rows = []
    for result in results:
        metrics = result["metrics"]
        if result["task"] == "linear_probe":
            name, accuracy, top_5 = f"{result['details']['shots']}-shot", metrics["lp_acc1"], ""
            interval, by_class = result["intervals"]["lp_acc1"], metrics["lp_mean_per_class_recall"]
        else:
            name, accuracy, top_5 = "zero-shot", metrics["acc1"], percent(metrics["acc5"]) if "acc5" in metrics else ""
            interval, by_class = result["intervals"]["acc1"], metrics["mean_per_class_recall"]
        rows.append(
            [
                f"{result['set']}{_skipped(result['data'])}",
                name,
                percent(accuracy),
                interval_text(interval),
                top_5,
                percent(by_class),
                percent(result["details"]["chance"]),
                f"{result['data']['classes']:,}",
                f"{result['data']['images']:,}",
            ]
        )
    header = ["classification", "", "top-1", "95%", "top-5", "mean of classes", "largest class", "classes", "images"]
    return text_table(header, rows)


def _columns(direction: str, shown: Sequence[str]) -> list[str]:
    """Headers of one direction: its name before the first recall, the interval after it."""
    return [f"{direction} {shown[0]}", "95%", *shown[1:]]


def _recalls(result: Recalls, recalls: Sequence[str]) -> list[str]:
    interval = interval_text(result.get("intervals", {}).get(recalls[0]))
    return [percent(result[recalls[0]]), interval, *(percent(result[name]) for name in recalls[1:])]


def _with_gap(cells: Sequence[str]) -> list[str]:
    return [cells[0], "", *cells[1:]]


def _language(code: str) -> str:
    if code == "und":
        return "all"
    return language_title(code)


def _skipped(data: JudgedData) -> str:
    skipped = sum(data["skipped_images"].values()) + sum(data.get("skipped_texts", {}).values())
    return f" ({skipped:,} that could not be used)" if skipped else ""
