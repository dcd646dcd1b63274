"""The page from top to bottom: one function a section, each None where its data is missing."""

import base64
import hashlib

import numpy as np

from diptych.core.evaluation.calibration import calibrate
from diptych.core.evaluation.report.contents import ReportData
from diptych.core.evaluation.report.gallery import (
    caption_gallery,
    choose_queries,
    image_gallery,
    mistake_gallery,
    nearest_captions,
    nearest_images,
    sure_mistakes,
)
from diptych.core.evaluation.report.header import command, header, whole_card
from diptych.core.evaluation.report.languages import language_bars, recall_names
from diptych.core.evaluation.report.markup import Markup, element, join
from diptych.core.evaluation.report.matrix import confusion_figure, similarity_matrix
from diptych.core.evaluation.report.numbers import percent, shown, significant
from diptych.core.evaluation.report.scores import clouds_figure, histogram_figure, matched, reliability_figure
from diptych.core.evaluation.report.script import SCRIPT
from diptych.core.evaluation.report.style import COLOURS, FIGURES, PAGE
from diptych.core.evaluation.report.thumbnails import Thumbnails
from diptych.core.evaluation.report.training import evaluation_figure, loss_figure, training_figures

NARROW, HEIGHT = 360, 236


def render(data: ReportData) -> str:
    """The report as one HTML document that loads nothing and may only run its own script."""
    thumbnails = Thumbnails(data.samples.thumbnails) if data.samples is not None else None
    sections = [
        section
        for section in (
            _finds(data, thumbnails),
            _languages(data),
            _training(data),
            _scores(data, thumbnails),
            _classes(data),
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


def _finds(data: ReportData, thumbnails: Thumbnails | None) -> tuple[str, str, Markup] | None:
    samples = data.samples
    if samples is None or not np.isin(samples.text_labels, samples.image_labels).any():
        return None
    queries = choose_queries(samples, in_main=6, in_others=8)
    answers = nearest_images(samples, queries, count=8)
    parts = [
        _lead(
            "What it finds",
            f"Random captions and their eight nearest images among {len(samples.image_embeddings):,} ({samples.name}). "
            "A green frame marks the right one. The choice is random, not picked.",
        ),
        element("div", image_gallery(samples, thumbnails, answers), class_="panel"),
    ]
    images, _ = matched(samples, limit=6, seed=1)
    among = samples.in_language()
    in_main = nearest_captions(samples, images.tolist(), among, count=5)
    panels = [
        element("h3", "Image to text"),
        element("p", f"The five nearest of {len(among):,} captions.", class_="says"),
        caption_gallery(samples, thumbnails, in_main, with_language=False),
    ]
    if len(set(samples.languages)) > 1:
        more, _ = matched(samples, limit=9, seed=1)
        anywhere = nearest_captions(samples, more[6:].tolist(), np.arange(len(samples.captions)), count=5)
        panels += [
            element(
                "p",
                f"And of {len(samples.captions):,} captions in any language:",
                class_="says",
                style="margin:14px 0 10px",
            ),
            caption_gallery(samples, thumbnails, anywhere, with_language=True),
        ]
    parts.append(element("div", panels, class_="panel below"))
    mistakes = sure_mistakes(samples, count=8)
    if mistakes:
        panels = [
            element("h3", "Surest mistakes"),
            element("p", "Wrong first answers of the largest cosine, with the probability of a pair.", class_="says"),
            mistake_gallery(samples, thumbnails, mistakes),
        ]
        parts.append(element("div", panels, class_="panel below"))
    return "finds", "What it finds", join(parts)


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
    lead = _lead("Languages", "How often a caption finds its image, for each language of the captions.")
    return "languages", "Languages", join([lead, panels])


def _training(data: ReportData) -> tuple[str, str, Markup] | None:
    parts = []
    if loss_figure(data.metrics, width=NARROW, height=HEIGHT, log=False) is not None:
        figures = []
        for kind, log in (("on-linear", False), ("on-log", True)):
            for size, width, height in (("wide", 1100, 300), ("narrow", NARROW, 240)):
                figure = loss_figure(data.metrics, width=width, height=height, log=log)
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
                element("p", "Recall and zero-shot accuracy on data that is not trained on.", class_="says"),
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
    return "training", "Training", join([_lead("Training", "Over the examples seen, resumed parts included."), parts])


def _scores(data: ReportData, thumbnails: Thumbnails | None) -> tuple[str, str, Markup] | None:
    samples = data.samples
    if samples is None:
        return None
    images, texts = matched(samples, limit=24, seed=2)
    if not len(images):
        return None
    measured = calibrate(
        samples.image_embeddings,
        samples.text_embeddings[samples.in_language()],
        samples.image_labels,
        samples.text_labels[samples.in_language()],
        logit_scale=samples.logit_scale,
        logit_bias=samples.logit_bias,
        batch_size=samples.batch_size,
    )
    clouds, cloud_numbers = clouds_figure(samples, width=NARROW, height=300)
    reliability, size = measured["reliability"], measured["batch_size"]
    matrix = element(
        "figure",
        element("h3", "Similarity"),
        element("p", "Random pairs: each row a caption, each column an image, its own on the diagonal.", class_="says"),
        element("div", similarity_matrix(samples, thumbnails, images, texts, cell=24, names=164), class_="wide"),
        element(
            "div", similarity_matrix(samples, thumbnails, images[:10], texts[:10], cell=24, names=112), class_="narrow"
        ),
        class_="panel wide2",
    )
    numbers = [
        ("Scale t", samples.logit_scale, significant(samples.logit_scale), "factor of the cosines"),
        ("Bias b", samples.logit_bias, significant(samples.logit_bias), "added to the scaled cosines"),
        ("Mean cosine of pairs", cloud_numbers["pair_cosine"], f"{cloud_numbers['pair_cosine']:.3f}", samples.name),
        (
            "AUC",
            measured["auc"],
            f"{measured['auc']:.4f}" if measured["auc"] is not None else "–",
            "a pair scores above a non-pair",
        ),
        (
            "Calibration error",
            reliability["ece"],
            percent(reliability["ece"]),
            f"base rate {percent(reliability['base_rate'])}",
        ),
        (
            "Modality gap",
            cloud_numbers["gap"],
            f"{cloud_numbers['gap']:.3f}",
            "distance between the mean image and the mean caption",
        ),
    ]
    listed = [
        element("div", element("dt", name), element("dd", shown(value, text), element("p", says, class_="says")))
        for name, value, text, says in numbers
        if value is not None
    ]
    panels = [
        matrix,
        element(
            "div",
            element("h3", "In numbers"),
            element("p", "Of this evaluation set.", class_="says"),
            element("dl", listed, class_="numbers"),
            class_="panel",
        ),
        _figure(
            "Logits",
            [("pair", "pairs"), ("other", "non-pairs")],
            histogram_figure(measured["histograms"], width=NARROW, height=300),
            f"All cells of random grids of {size} by {size}. The dashed line is a probability of one half.",
        ),
        _figure(
            "Reliability",
            [("pair", "measured"), ("dotted", "at most, no pair seen")],
            reliability_figure(reliability, width=NARROW, height=300),
            f"On the dashed line a probability is true. In a grid of {size} only one cell in {size} is a pair, so both axes are even "
            "in log-odds.",
        ),
        _figure(
            "Two clouds",
            [("image", "images"), ("text", "captions")],
            clouds,
            f"Pairs are joined. The plane holds {percent(cloud_numbers['variance'])} of the variance.",
        ),
    ]
    lead = _lead("Scores", "Is the probability that the model gives to a pair a true one?")
    return "scores", "Scores", join([lead, element("div", panels, class_="grid-of")])


def _classes(data: ReportData) -> tuple[str, str, Markup] | None:
    if not data.zero_shot:
        return None
    panels = []
    for name, result in data.zero_shot.items():
        rows = [
            element(
                "tr",
                element("th", class_name, scope="row"),
                element("td", shown(share, percent(share)) if share is not None else "–", class_="number"),
                element("td", f"{sum(row) + none:,}", class_="number"),
            )
            for class_name, share, row, none in zip(
                result["class_names"], result["per_class"], result["confusion"], result["no_answer"], strict=True
            )
        ]
        head = element(
            "tr",
            element("th", "class"),
            element("th", "right", class_="number"),
            element("th", "images", class_="number"),
        )
        panels += [
            element(
                "figure",
                element("h3", f"{name}: {percent(result['accuracy'])} right"),
                element("p", "Percent of the images of a row that were taken for a column.", class_="says"),
                confusion_figure(result, cell=max(16, min(40, 360 // len(result["class_names"])))),
                class_="panel wide2",
            ),
            element(
                "div",
                element("h3", "By class"),
                element("p", f"Mean over classes {percent(result['mean_class_accuracy'])}.", class_="says"),
                element("table", element("thead", head), element("tbody", rows)),
                class_="panel",
            ),
        ]
    lead = _lead("Zero-shot classes", "The class whose name lies nearest to the image; no classifier was trained.")
    return "classes", "Classes", join([lead, element("div", panels, class_="grid-of")])


def _health(data: ReportData) -> tuple[str, str, Markup] | None:
    if data.examples_read is None and not data.skipped and data.captions_read is None:
        return None
    skipped = sum(data.skipped.values())
    rows = []
    if data.examples_read is not None:
        rows.append(("Examples read", data.examples_read, None))
    rows.append(("Examples skipped", skipped, data.examples_read))
    rows += [
        (f"– {reason.replace('_', ' ')}", count, data.examples_read)
        for reason, count in sorted(data.skipped.items(), key=lambda item: -item[1])
    ]
    if data.captions_read is not None:
        rows.append(("Captions read", data.captions_read, None))
    if data.captions_clipped is not None:
        rows.append(("Captions longer than the context", data.captions_clipped, data.captions_read))
    lines = [
        element(
            "tr",
            element("th", name, scope="row"),
            element("td", shown(count, f"{count:,}"), class_="number"),
            element("td", percent(count / of) if of else "", class_="number"),
        )
        for name, count, of in rows
    ]
    lead = _lead("Data", "What was read, and what was left out for which reason.")
    return (
        "data",
        "Data",
        join([lead, element("div", element("table", element("tbody", lines)), class_="panel half-width")]),
    )


def _run(data: ReportData) -> tuple[str, str, Markup] | None:
    line, card = command(data), whole_card(data.card)
    if line is None and card is None:
        return None
    lead = _lead("The run", "The line that makes it again, and everything that was resolved when it started.")
    return "run", "The run", join([lead, line, element("div", card, class_="panel") if card else None])


def _figure(title: str, legend: list[tuple[str, str]], figure: Markup, says: str) -> Markup:
    entries = [element("li", name, class_=style) for style, name in legend]
    return element(
        "figure",
        element("h3", title),
        element("ul", entries, class_="legend"),
        figure,
        element("figcaption", says),
        class_="panel",
    )


def _lead(title: str, says: str) -> Markup:
    return join([element("h2", title), element("p", says, class_="lead")])
