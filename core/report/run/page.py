"""The page from top to bottom: one function a section, each None where its data is missing."""

import base64
import hashlib

from diptych.core.report.charts.layout import HEIGHT, NARROW, lead
from diptych.core.report.charts.markup import Markup, element, join
from diptych.core.report.charts.numbers import percent, shown
from diptych.core.report.charts.script import SCRIPT
from diptych.core.report.charts.style import COLOURS, FIGURES, PAGE
from diptych.core.report.charts.thumbnails import Thumbnails
from diptych.core.report.run.answers import answers
from diptych.core.report.run.asked import asked
from diptych.core.report.run.before_after import before_and_after
from diptych.core.report.run.classes import classified, zero_shot_classes
from diptych.core.report.run.contents import ReportData
from diptych.core.report.run.finds import finds
from diptych.core.report.run.header import command, header, whole_card
from diptych.core.report.run.language import language
from diptych.core.report.run.languages import language_bars, recall_names
from diptych.core.report.run.scores import scores
from diptych.core.report.run.training import evaluation_figure, loss_figure, training_figures


def render(data: ReportData) -> str:
    """The report as one HTML document that loads nothing and may only run its own script."""
    thumbnails = Thumbnails(data.samples.thumbnails) if data.samples is not None else None
    sections = [
        section
        for section in (
            answers(data),
            asked(data),
            before_and_after(data, thumbnails),
            finds(data, thumbnails),
            _languages(data),
            _training(data),
            scores(data, thumbnails),
            language(data),
            classified(data),
            zero_shot_classes(data),
            _health(data),
            _run(data),
        )
        if section is not None
    ]
    links = [element("li", element("a", title, href=f"#{name}")) for name, title, _ in sections]
    body = [
        header(data),
        element("nav", element("ul", links), aria_label="Sections") if links else None,
        element("main", [element("section", content, id=name) for name, _, content in sections]),
        element("footer", "Made by diptych. This file is complete in itself and works offline."),
        element("script", Markup(SCRIPT)),
    ]
    digest = base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode()
    policy = (
        f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'; base-uri 'none'"
    )
    head = [
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=policy),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"),
        element("title", f"{data.title} · diptych"),
        element("style", Markup(COLOURS + FIGURES + PAGE)),
    ]
    return "<!doctype html>\n" + element("html", element("head", head), element("body", body), lang="en") + "\n"


def _languages(data: ReportData) -> tuple[str, str, Markup] | None:
    panels = []
    for place, (name, results) in enumerate(data.retrieval.items()):
        strict, lenient = recall_names(results)
        if strict is None:
            continue
        title = f"Text-to-image recall by language, {name}"
        wide = element("div", language_bars(results, columns=2, title=title), class_="two-columns wide")
        narrow = element("div", language_bars(results, columns=1, width=350, title=title), class_="narrow")
        legend = [element("li", strict, class_="image")]
        if lenient:
            legend.append(element("li", lenient, class_="lenient"))
        gallery = next(iter(results.values())).get("gallery")
        says = f"{gallery:,} images to choose from. Lines are 95% intervals." if gallery else "Lines are 95% intervals."
        content = [
            element("h3", name),
            element("p", says, class_="says"),
            element("ul", legend, class_="legend"),
            wide,
            narrow,
        ]
        panels.append(element("div", content, class_="panel below" if place else "panel"))
    if not panels:
        return None
    heading = lead("Languages", "How often a caption finds its image, for each language of the captions.")
    return "languages", "Languages", join([heading, panels])


def _training(data: ReportData) -> tuple[str, str, Markup] | None:
    parts = []
    if loss_figure(data.metrics, width=NARROW, height=HEIGHT, log=False) is not None:
        figures = []
        for kind, log in (("on-linear", False), ("on-log", True)):
            for size, width, height in (("wide", 1100, 300), ("narrow", NARROW, 240)):
                opening = data.opening_examples
                figure = loss_figure(data.metrics, width=width, height=height, log=log, opening=opening)
                figures.append(element("div", element("div", figure, class_=size), class_=kind))
        switch = element(
            "span",
            element("label", "linear", for_="loss-linear"),
            element("label", "log–log", for_="loss-log"),
            class_="switch",
        )
        parts += [
            element("input", type="radio", name="loss-axis", id="loss-linear", class_="choice", checked=True),
            element("input", type="radio", name="loss-axis", id="loss-log", class_="choice"),
            element(
                "figure",
                element("h3", "Loss", switch),
                element("p", "Each step faint, a moving average bold.", class_="says"),
                figures,
                class_="panel",
            ),
        ]
    wide = evaluation_figure(data.metrics, width=1100, height=300)
    if wide is not None:
        narrow = evaluation_figure(data.metrics, width=NARROW, height=260)
        parts.append(
            element(
                "figure",
                element("h3", "Quality during training"),
                element("p", "Recall and accuracy on data that is not trained on.", class_="says"),
                element("div", wide, class_="wide"),
                element("div", narrow, class_="narrow"),
                class_="panel below",
            )
        )
    small = [
        element("figure", element("h3", title), element("p", says, class_="says"), figure, class_="panel")
        for title, says, figure in training_figures(data.metrics, width=NARROW, height=HEIGHT)
    ]
    if small:
        parts.append(element("div", small, class_="grid-of", style="margin-top:14px"))
    if not parts:
        return None
    return "training", "Training", join([lead("Training", "Over the examples seen, resumed parts included."), parts])


def _health(data: ReportData) -> tuple[str, str, Markup] | None:
    if data.examples_read is None and not data.skipped and data.captions_judged is None:
        return None
    skipped = sum(data.skipped.values())
    rows: list[tuple[str, int, int | None]] = []
    if data.examples_read is not None:
        rows.append(("Examples read", data.examples_read, None))
    rows.append(("Examples skipped", skipped, data.examples_read))
    rows += [
        (f"– {reason.replace('_', ' ')}", count, data.examples_read)
        for reason, count in sorted(data.skipped.items(), key=lambda item: -item[1])
    ]
    if data.captions_judged is not None:
        rows.append(("Captions judged", data.captions_judged, None))
    if data.captions_clipped is not None:
        rows.append(("– longer than the context, so cut", data.captions_clipped, data.captions_judged))
    lines = [
        element(
            "tr",
            element("th", name, scope="row"),
            element("td", shown(count, f"{count:,}"), class_="number"),
            element("td", percent(count / of) if of else "", class_="number"),
        )
        for name, count, of in rows
    ]
    heading = lead("Data", "What was read, and what was left out for which reason.")
    return (
        "data",
        "Data",
        join([heading, element("div", element("table", element("tbody", lines)), class_="panel half-width")]),
    )


def _run(data: ReportData) -> tuple[str, str, Markup] | None:
    line, card = command(data), whole_card(data.card)
    if line is None and card is None:
        return None
    heading = lead("The run", "The line that makes it again, and everything that was resolved when it started.")
    return "run", "The run", join([heading, line, element("div", card, class_="panel") if card else None])
