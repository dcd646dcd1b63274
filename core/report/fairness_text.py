"""Measurements of evenness as text that reads well on a terminal."""

from collections.abc import Sequence

from diptych.core.evaluation.fairness_results import FairnessResult
from diptych.core.evaluation.grouped import GroupedAccuracy
from diptych.core.report.charts.numbers import percent
from diptych.core.report.tables import interval_text, text_table

MOST_GROUPS = 12


def fairness_text(results: Sequence[FairnessResult]) -> str:
    """Everything that a measurement prints at its end."""
    return "\n\n".join(part for result in results for part in _parts(result))


def _parts(result: FairnessResult) -> list[str]:
    zero_shot, images = result["zero_shot"], result["data"]["images"]
    parts = [
        f"{result['set']}: {images:,} pictures, {percent(zero_shot['accuracy'])} told right among "
        f"{zero_shot['classes']:,} classes ({interval_text(zero_shot['interval'])})"
    ]
    grouped = [*result["by_group"], *([result["by_language"]] if "by_language" in result else [])]
    parts += [grouped_text(one) for one in grouped]
    if "few_shot" in result:
        told = result["few_shot"]
        parts.append(
            f"{result['place']}, from {told['shots']} pictures of each: {percent(told['accuracy'])} of "
            f"{told['images']:,} pictures told right ({interval_text(told['interval'])}), largest "
            f"{percent(told['chance'])}"
        )
    rows = [
        [
            " / ".join(one["texts"]),
            percent(0.5 + one["bias"]),
            f"{100 * one['bias']:+.1f}",
            interval_text(one["interval"]),
        ]
        for one in result["representation"]
    ]
    if rows:
        seen = result["representation"][0]["images"]
        title = f"Whom the model sees in {seen:,} pictures (0 is even)"
        parts.append(f"{title}\n{text_table(['texts', 'the first', 'bias', '95%'], rows)}")
    if "association" in result:
        found = result["association"]
        a, b = result.get("people", ["A", "B"])
        parts.append(
            f"{a} ({found['images_a']:,}) against {b} ({found['images_b']:,}), what they are taken for: the share of a "
            f"label differs by {percent(found['mean'])} on average, by {percent(found['largest'])} at most"
        )
    return parts


def grouped_text(found: GroupedAccuracy) -> str:
    """A table of groups, the best first; of many the best and the worst."""
    groups = found["groups"]
    shown = groups if len(groups) <= MOST_GROUPS else [*groups[: MOST_GROUPS // 2], None, *groups[-MOST_GROUPS // 2 :]]
    rows = [
        ["...", "", "", ""]
        if one is None
        else [one["group"], percent(one["accuracy"]), interval_text(one["interval"]), f"{one['images']:,}"]
        for one in shown
    ]
    table = text_table([found["attribute"], "right", "95%", "pictures"], rows)
    left = [f"{len(found['too_small'])} groups are too small" if found["too_small"] else ""]
    left.append(f"of {found['unknown']:,} pictures the group is not known" if found["unknown"] else "")
    says = f"best minus worst {percent(found['disparity'])} ({interval_text(found['interval'])}), by chance below " + (
        percent(found["by_chance"])
    )
    return f"{table}\n{'; '.join(filter(None, [says, *left]))}"
