"""Results as plain text that reads well on a terminal and in a file."""

from collections.abc import Mapping, Sequence

from diptych.core.evaluation.classification import ClassificationResult
from diptych.core.evaluation.multilingual import MEAN, RecallByLanguage
from diptych.core.evaluation.several_labels import SeveralLabelsResult
from diptych.core.evaluation.zero_shot import ZeroShotResult
from diptych.core.report.language_names import language_name

_HARDEST_SHOWN = 5


def results_text(retrieval: Mapping[str, RecallByLanguage], zero_shot: Mapping[str, ZeroShotResult]) -> str:
    """Everything a run prints at its end: recall by language for each set, then zero-shot accuracy.

    Args:
        retrieval: by the name of the set.
        zero_shot: by name.

    Returns:
        Lines of at most 80 columns for the usual recalls, without colour and without a newline at the end.
    """
    parts = [retrieval_table(name, results) for name, results in retrieval.items() if results]
    parts += [
        f"zero-shot, {name}: {_percent(result['accuracy'])} of {result['images']:,} images "
        f"({interval_text(result['interval'])}), largest class {_percent(result['chance'])}"
        for name, result in zero_shot.items()
    ]
    return "\n\n".join(parts)


def headline(result: ClassificationResult | SeveralLabelsResult) -> str:
    """The number that stands for a classification where there is place for one."""
    if "accuracy" in result:
        return f"{_percent(result['accuracy'])} right"
    return f"{_percent(result['mean_average_precision'] or 0.0)} mean average precision"


def classified_text(
    scored: Mapping[str, ClassificationResult | SeveralLabelsResult],
    zero_shot: Mapping[str, ClassificationResult | SeveralLabelsResult],
) -> str:
    """What a classifier scored on each set, a line each, and the classes that it finds hardest.

    Args:
        scored: by the name of the set.
        zero_shot: the same by words alone, before it was trained; empty where that cannot be.
    """
    lines = []
    for name, result in scored.items():
        within = before = ""
        if "accuracy" in result:
            within = f" ({interval_text(result['interval'])}), largest class {_percent(result['chance'])}"
        if name in zero_shot:
            before = f"; zero-shot, before the first step, {headline(zero_shot[name])}"
        lines.append(f"{name}: {headline(result)} of {result['images']:,} pictures{within}{before}")
        known = [(share, name) for name, share in zip(result["class_names"], result["per_class"], strict=True)]
        hardest = sorted((share, name) for share, name in known if share is not None)[:_HARDEST_SHOWN]
        lines.append("  hardest: " + ", ".join(f"{name} {_percent(share)}" for share, name in hardest))
    return "\n".join(lines)


def retrieval_table(name: str, results: RecallByLanguage) -> str:
    """Recall by language, best first, with 95% intervals.

    Args:
        name: of the set.
        results: by language.
    """
    recalls = [key for key in next(iter(results.values())) if key.startswith("recall@")]
    codes = sorted((code for code in results if code != MEAN), key=lambda code: -results[code][recalls[0]])
    codes = [MEAN, *codes] if MEAN in results and len(codes) > 1 else codes
    gallery = next(iter(results.values()))["gallery"]
    header = ["language", *(cell for recall in recalls for cell in (recall, "95%")), "queries"]
    rows = []
    for code in codes:
        result = results[code]
        shown = f"mean of {result.get('languages', len(codes) - 1)}" if code == MEAN else language_title(code)
        cells = [
            cell
            for recall in recalls
            for cell in (_percent(result[recall]), interval_text(result.get("intervals", {}).get(recall)))
        ]
        rows.append([shown, *cells, f"{result['queries']:,}"])
    chances = [_percent(min(1.0, int(recall.partition("@")[2]) / gallery)) for recall in recalls]
    rows.append(["chance", *(cell for chance in chances for cell in (chance, "")), ""])
    return f"{name}: text to image among {gallery:,} images\n{text_table(header, rows)}"


def text_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns of equal width, the first to the left and the others to the right, under a line.

    Raises:
        ValueError: a row with more or fewer cells than the header.
    """
    for row in rows:
        if len(row) != len(header):
            raise ValueError(f"every row needs {len(header)} cells, as the header has, got {len(row)}: {list(row)}.")
    widths = [max(len(line[place]) for line in [header, *rows]) for place in range(len(header))]
    lines = [header, ["-" * width for width in widths], *rows]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if place else cell.ljust(width)
            for place, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def language_title(code: str) -> str:
    """The name of a language with its code: "German (de)"."""
    name = language_name(code)
    return name if name == code else f"{name} ({code})"


def _percent(share: float) -> str:
    return f"{100 * share:.1f}%" if share >= 0.00995 or share == 0 else f"{100 * share:.2f}%"


def interval_text(bounds: Sequence[float] | None) -> str:
    """An interval of shares in percent: "12.0-14.5"; nothing for none."""
    return f"{100 * bounds[0]:.1f}-{100 * bounds[1]:.1f}" if bounds else ""
