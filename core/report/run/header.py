"""The top of the page: what was run in one sentence, the headline numbers, the facts; and the whole card at its end."""

import re
from collections.abc import Mapping, Sequence
from typing import Any, TypeGuard

import numpy as np

from diptych.core.evaluation.multilingual import MEAN, RecallByLanguage
from diptych.core.evaluation.retrieval import Recalls
from diptych.core.evaluation.several_labels import SeveralLabelsResult
from diptych.core.evaluation.zero_shot import ZeroShotResult
from diptych.core.report.charts.layout import masthead
from diptych.core.report.charts.markup import Markup, element
from diptych.core.report.charts.numbers import compact, duration, percent, shown
from diptych.core.report.language_names import language_name
from diptych.core.report.run.asked import answer_tile
from diptych.core.report.run.contents import ReportData
from diptych.core.report.run.language import language_tile
from diptych.core.report.run.languages import recall_names
from diptych.core.report.run.training import column
from diptych.core.report.verdict import best_text
from diptych.core.training.card import Card

_SEEN = {
    "classified": " labelled pictures",
    "answers": " labelled texts",
    "answer_scores": " questions about pictures",
    "language": " windows of text",
}
"""What a model saw, by the part of its report that there is."""


def header(data: ReportData) -> Markup:
    """Title, sentence, headline numbers and facts."""
    return element(
        "header",
        masthead(),
        element("h1", data.title),
        element("p", *summary(data), class_="summary"),
        headline(data),
        facts(data),
    )


def summary(data: ReportData) -> list[object]:
    """One sentence of what was run; shorter where the card says less."""
    parts: list[object] = ["A model"]
    parameters, examples, seconds = data.card.get("parameters"), examples_seen(data), wall_seconds(data)
    if is_number(parameters):
        parts += [" of ", shown(parameters, compact(parameters)), " parameters"]
    if examples is not None:
        seen = next((seen for part, seen in _SEEN.items() if getattr(data, part)), " image–text pairs")
        parts += [" that saw ", shown(examples, compact(examples)), seen]
    else:
        parts += [" of texts" if data.language or data.answers else " of images and texts"]
    if seconds is not None:
        parts += [" in ", shown(seconds, duration(seconds))]
    if data.card.get("backend"):
        parts += [f", on {data.card['backend']}"]
    if device(data.card):
        parts += [f" ({device(data.card)})"]
    parts.append(".")
    first = next(iter(data.retrieval.items()), None)
    if first:
        name, results = first
        language = main_language(data, results)
        recall, _ = recall_names(results)
        if language and recall == "recall@1":
            result = results[language]
            of = language_name(language) if language != "und" else ""
            parts += [
                " It finds the right image among ",
                shown(result["gallery"], f"{result['gallery']:,}"),
                f" at once for {percent(result[recall])} of the {of} captions; chance is ",
                percent(1 / result["gallery"]),
                ".",
            ]
    return parts


def headline(data: ReportData) -> Markup | None:
    """The numbers one asks for first, each with its 95% interval or what chance would give."""
    tiles: list[Markup | None] = []
    for place, (name, results) in enumerate(data.retrieval.items()):
        language = main_language(data, results)
        strict, lenient = recall_names(results)
        if language is None or strict is None:
            continue
        spoken = "" if language == "und" else f", {language_name(language)}"
        tiles.append(_recall_tile(f"{strict}{spoken}", name, results[language], strict))
        if place == 0 and lenient:
            tiles.append(_recall_tile(f"{lenient}{spoken}", name, results[language], lenient))
        if place == 0 and "image_to_text" in results[language]:
            tiles.append(_recall_tile(f"{strict}, image to text", name, results[language]["image_to_text"], strict))
        if place == 0 and MEAN in results and len(results) > 2:
            mean = results[MEAN]
            tiles.append(
                _recall_tile(f"{strict}, {mean.get('languages', len(results) - 1)} languages", name, mean, strict)
            )
    tiles += [_class_tile("", name, scored) for name, scored in data.classified.items()]
    tiles += [answer_tile(name, found[0]) for name, found in list(data.answer_scores.items())[:1]]
    tiles += [language_tile(name, found) for name, found in list(data.language.items())[:1]]
    words = "Zero-shot, before training" if data.classified else "Zero-shot"
    tiles += [_class_tile(words, name, found) for name, found in list(data.zero_shot.items())[:1]]
    return element("dl", tiles, class_="tiles") if tiles else None


def facts(data: ReportData) -> Markup | None:
    """Short facts of the run, those that the card holds."""
    card = data.card
    rows: list[tuple[str, object]] = []
    for name, value in (
        ("Backend", card.get("backend")),
        ("Loss", card.get("implementation")),
        ("Device", device(card)),
        ("Seed", card.get("seed")),
    ):
        if value not in (None, "none"):  # a classifier's loss has no implementations
            rows.append((name, str(value)))
    for name, value, unit in (
        ("Parameters", card.get("parameters"), ""),
        ("FLOPs a step", card.get("flops_per_step"), "FLOP"),
        ("Examples seen", examples_seen(data), ""),
    ):
        if is_number(value) and value > 0:  # steps on stored vectors are counted as none
            rows.append((name, shown(value, compact(value, unit))))
    if is_number(card.get("utilisation")):
        rows.append(("Utilisation", shown(card["utilisation"], percent(card["utilisation"]))))
    if best := card.get("best"):
        rows.append(("Best model", best_text(best)))
    seconds = wall_seconds(data)
    if seconds is not None:
        rows.append(("Wall time", shown(seconds, duration(seconds))))
    speed = _middle_speed(data)
    if speed is not None:
        rows.append(("Median speed", shown(speed, f"{compact(round(speed) if speed > 10 else speed)} examples/s")))
    git = card.get("git")
    if isinstance(git, Mapping) and git.get("commit"):
        rows.append(("Git", str(git["commit"])[:10] + (" with changes" if git.get("dirty") else "")))
    versions = card.get("versions")
    if isinstance(versions, Mapping):
        named = [f"{name} {version}" for name, version in versions.items() if version]
        rows.append(("Versions", ", ".join(named)))
    cells = [element("div", element("dt", name), element("dd", value)) for name, value in rows]
    return element("dl", cells, class_="facts") if cells else None


def command(data: ReportData) -> Markup | None:
    """The line that runs it again."""
    text = command_text(data.card)
    return element("pre", element("code", text), class_="command") if text else None


def command_text(card: Card) -> str | None:
    """The line that makes the run of a card again; where its interpreter lies is of no use elsewhere."""
    text = card.get("command")
    if not text:
        return None
    backend = card.get("backend")
    text = re.sub(r"^\S*/(python[\d.]*)(?=\s)", r"\1", str(text))
    prefix = f"KERAS_BACKEND={backend} " if backend and "KERAS_BACKEND" not in text else ""
    return f"{prefix}{text}"


def whole_card(card: Mapping[str, Any]) -> Markup | None:
    """Everything on the card, nested keys joined by dots."""
    rows = [
        element("tr", element("th", name, scope="row"), element("td", "" if value is None else str(value)))
        for name, value in flatten(card)
    ]
    if not rows:
        return None
    table = element("div", element("table", element("tbody", rows), class_="card-table"), class_="scroll")
    return element("details", element("summary", f"The whole card, {len(rows)} entries"), table)


def flatten(card: Mapping[str, Any], prefix: str = "") -> list[tuple[str, object]]:
    """(dotted name, plain value) of everything in a nested mapping; lists of plain values stay whole."""
    rows: list[tuple[str, object]] = []
    for key, value in card.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            rows.extend(flatten(value, f"{name}."))
        elif isinstance(value, Sequence) and not isinstance(value, str):
            if any(isinstance(item, Mapping | list | tuple) for item in value):
                rows.extend(flatten({str(place): item for place, item in enumerate(value)}, f"{name}."))
            else:
                rows.append((name, ", ".join(map(str, value))))
        else:
            rows.append((name, value))
    return rows


def main_language(data: ReportData, results: RecallByLanguage) -> str | None:
    """The language of the headline: that of the samples, English, or the first."""
    wanted = data.samples.main_language if data.samples is not None else "en"
    codes = [code for code in results if code != MEAN]
    return wanted if wanted in codes else next(iter(codes), None)


def device(card: Card) -> str | None:
    """The accelerator that the card names, else the processor and how many of its CPUs were used."""
    machine = card.get("machine")
    if card.get("device") or not isinstance(machine, Mapping) or not machine.get("processor"):
        return card.get("device")
    cpus = machine.get("usable_cpus")
    return f"{machine['processor']}, {cpus} CPUs" if cpus else str(machine["processor"])


def examples_seen(data: ReportData) -> float | None:
    """From the card, else from the last row of the metrics that says it."""
    return _from_card_or_metrics(data, "examples_seen", "examples")


def wall_seconds(data: ReportData) -> float | None:
    """From the card, else from the last row of the metrics that says it."""
    return _from_card_or_metrics(data, "wall_seconds", "seconds")


def is_number(value: object) -> TypeGuard[float]:
    """Whether it is a finite number, and not a truth value."""
    return isinstance(value, int | float | np.number) and not isinstance(value, bool) and bool(np.isfinite(value))


def _from_card_or_metrics(data: ReportData, card_name: str, metrics_name: str) -> float | None:
    if is_number(data.card.get(card_name)):
        return data.card[card_name]
    return next((row[metrics_name] for row in reversed(data.metrics) if is_number(row.get(metrics_name))), None)


def _middle_speed(data: ReportData) -> float | None:
    speeds = column(data.metrics, "examples_per_second")
    speeds = speeds[np.isfinite(speeds)]
    return float(np.median(speeds)) if len(speeds) else None


def _recall_tile(title: str, set_name: str, result: Recalls, recall: str) -> Markup:
    chance = min(1.0, int(recall.partition("@")[2]) / result["gallery"]) if result.get("gallery") else None
    note = f"chance {percent(chance)}" if chance is not None else ""
    return _tile(set_name, title, result[recall], result.get("intervals", {}).get(recall), note)


def _class_tile(over: str, name: str, found: ZeroShotResult | SeveralLabelsResult) -> Markup | None:
    if "accuracy" in found:
        over = over or "Right"
        note = f"largest class {percent(found['chance'])}" if "chance" in found else ""
        return _tile(over, name, found["accuracy"], found.get("interval"), note)
    if found["mean_average_precision"] is None or found["chance"] is None:
        return None
    over, note = over or "Mean average precision", f"chance {percent(found['chance'])}"
    return _tile(over, name, found["mean_average_precision"], None, note)


def _tile(over: str, title: str, share: float, interval: Sequence[float] | None, note: str) -> Markup:
    number, sign = percent(share).removesuffix("%"), element("small", "%")
    within = (
        element("span", f"{percent(interval[0])} to {percent(interval[1])}", class_="interval") if interval else None
    )
    return element(
        "div",
        element("dt", element("small", over), title),
        element(
            "dd", element("data", number, sign, value=repr(float(share))), within, element("span", note, class_="note")
        ),
    )
