"""The section of a task on texts: its metrics beside what needs no model, and what was answered wrongly."""

from collections.abc import Sequence

from diptych.core.evaluation.answering import AnswersResult, WrongAnswer
from diptych.core.report.answers_text import answer_rows, judged_text
from diptych.core.report.charts.layout import lead
from diptych.core.report.charts.markup import Markup, caption_text, element, isolated, join
from diptych.core.report.charts.numbers import percent, shown
from diptych.core.report.run.contents import ReportData

LONGEST_SHOWN = 300
"""Characters of a text."""


def answers(data: ReportData) -> tuple[str, str, Markup] | None:
    """What a model answers on each set of held-out examples."""
    if not data.answers:
        return None
    says = "Held-out examples, which were never trained on, with 95% intervals over the examples."
    parts = [lead("Answers", says), *(_scores(name, result) for name, result in data.answers.items())]
    if data.wrong_answers:
        parts.append(_wrong(data.wrong_answers))
    return "answers", "Answers", join(parts)


def _scores(name: str, result: AnswersResult) -> Markup:
    rows = answer_rows(result)
    metrics = list(result["metrics"])
    head = element("tr", element("td"), [element("th", one, scope="col", class_="number") for one in metrics])
    lines = [
        element(
            "tr",
            element("th", what, scope="row"),
            [element("td", shown(scored[one]["value"], judged_text(scored[one])), class_="number") for one in metrics],
        )
        for what, scored in rows
    ]
    table = element("table", element("thead", head), element("tbody", lines))
    return element(
        "div",
        element("h3", f"{isolated(name)}: {result['examples']:,} examples"),
        element("div", table, class_="scroll"),
        class_="panel",
    )


def _wrong(wrong: Sequence[WrongAnswer]) -> Markup:
    items = [
        element(
            "li",
            element("p", [caption_text(text, limit=LONGEST_SHOWN) for text in one["texts"]], class_="query"),
            element("p", "answer ", caption_text(one["answer"], limit=LONGEST_SHOWN), " ", percent(one["probability"])),
            element("p", "truth ", caption_text(one["truth"], limit=LONGEST_SHOWN)),
        )
        for one in wrong
    ]
    return element("div", element("h3", "The surest wrong answers"), element("ul", items), class_="panel below")
