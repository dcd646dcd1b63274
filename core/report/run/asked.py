"""The section of a model that answers prompts: its scores, and pictures with what was asked and answered."""

from dataclasses import replace

import numpy as np

from diptych.core.data.detections import parse_detections
from diptych.core.evaluation.answer_metrics import AnswerScore
from diptych.core.report.charts.layout import lead
from diptych.core.report.charts.markup import Markup, caption_text, element, join
from diptych.core.report.charts.numbers import shown
from diptych.core.report.charts.thumbnails import Thumbnails
from diptych.core.report.detections_picture import with_detections
from diptych.core.report.run.contents import Asked, ReportData


def asked(data: ReportData) -> tuple[str, str, Markup] | None:
    """What the model answers to questions about pictures that it has not seen."""
    if not data.answer_scores:
        return None
    parts = [lead("Answers", "Questions about held-out pictures, which were never trained on.")]
    parts += [_table(name, scores) for name, scores in data.answer_scores.items()]
    if data.asked is not None and len(data.asked.prompts):
        parts.append(gallery(data.asked))
    return "answers", "Answers", join(parts)


def answer_tile(name: str, score: AnswerScore) -> Markup:
    """The number that stands for a model that answers."""
    low, high = score["interval"]
    title = element("dt", element("small", f"Answers, {score['metric']}"), name)
    note = element("span", f"{low:.3f} to {high:.3f}, of {score['questions']:,}", class_="note")
    return element("div", title, element("dd", shown(score["value"], f"{score['value']:.3f}"), note))


def _table(name: str, scores) -> Markup:
    lines = [
        element(
            "tr",
            element("th", score["metric"], scope="row"),
            element("td", shown(score["value"], f"{score['value']:.4f}"), class_="number"),
            element("td", f"{score['interval'][0]:.4f} to {score['interval'][1]:.4f}", class_="number"),
        )
        for score in scores
    ]
    says = f"Of {scores[0]['questions']:,} questions, with 95% intervals."
    table = element("table", element("tbody", lines))
    return element("div", element("h3", name), element("p", says, class_="says"), table, class_="panel half-width")


def gallery(found: Asked) -> Markup:
    """Pictures with what was asked, answered and true; the boxes that an answer names are drawn."""
    boxes = [[replace(one, label="") for one in parse_detections(answer).found] for answer in found.answers]
    drawn = zip(found.thumbnails, boxes, strict=True)
    thumbnails = Thumbnails(np.stack([with_detections(picture, some) for picture, some in drawn]))
    rows = []
    told = zip(found.prompts, found.truths, found.answers, found.right, strict=True)
    for place, (prompt, truth, answer, right) in enumerate(told):
        frame = "right" if right >= 1 else "wrong"
        lines = [
            element("small", "answer ", caption_text(answer or "nothing", limit=80)),
            element("small", "truth ", caption_text(truth, limit=80)),
        ]
        picture = thumbnails.picture(place, f"{prompt}: {answer}, in truth {truth}", frame)
        head = element("p", caption_text(prompt, limit=90), class_="query")
        halves = element("div", element("span", picture, lines, class_="half"), class_="halves")
        rows.append(element("li", head, halves, class_="mistake"))
    return element("div", element("h3", "Asked"), element("ul", rows, class_="mistakes"), class_="panel below")
