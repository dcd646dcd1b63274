"""The section of classes: accuracy by class, confusion, and what was answered wrongly."""

from diptych.core.evaluation.several_labels import SeveralLabelsResult
from diptych.core.evaluation.zero_shot import ZeroShotResult
from diptych.core.report.charts.axes import probability
from diptych.core.report.charts.layout import lead
from diptych.core.report.charts.markup import Markup, caption_text, element, isolated, join
from diptych.core.report.charts.numbers import percent, shown
from diptych.core.report.charts.thumbnails import Thumbnails
from diptych.core.report.run.confusion import confusion_panel
from diptych.core.report.run.contents import ReportData, WrongAnswers

FOLDED_FROM = 30
"""Rows from which a table of classes is folded."""

Section = tuple[str, str, Markup]


def zero_shot_classes(data: ReportData) -> Section | None:
    """Classes that were found by words; beside a classifier, before it was trained."""
    if not data.zero_shot:
        return None
    panels = [panel for name, result in data.zero_shot.items() for panel in _panels(name, result)]
    if data.classified:
        says = "What the names of the classes found on the same pictures, before the first step."
        return "zero-shot", "Zero-shot", join([lead("Zero-shot, before training", says), _grid(panels)])
    heading = lead("Zero-shot classes", "The class whose prompts fit the image best; no classifier was trained.")
    return "classes", "Classes", join([heading, _grid(panels)])


def classified(data: ReportData) -> Section | None:
    """What a classifier answers on each set of held-out pictures."""
    if not data.classified:
        return None
    panels = [panel for name, result in data.classified.items() for panel in _panels(name, result)]
    parts = [lead("Classes", "Held-out pictures, which were never trained on."), _grid(panels)]
    if data.wrong is not None and data.wrong.count:
        parts.append(wrong_gallery(data.wrong))
    return "classes", "Classes", join(parts)


def wrong_gallery(wrong: WrongAnswers) -> Markup:
    """Pictures with the class that was answered and the one that is true, each with its probability."""
    thumbnails = Thumbnails(wrong.thumbnails)
    rows = []
    for place, (key, truth, answer) in enumerate(zip(wrong.keys, wrong.truths, wrong.answers, strict=True)):
        said, true = wrong.probabilities[place], wrong.of_truths[place]
        lines = [
            element("small", "answer ", caption_text(answer, limit=40), " ", shown(said, probability(said))),
            element("small", "truth ", caption_text(truth, limit=40), " ", shown(true, probability(true))),
        ]
        picture = thumbnails.picture(place, f"{key}: {answer}, in truth {truth}", "wrong")
        head = element("p", caption_text(key, limit=60), class_="query")
        halves = element("div", element("span", picture, lines, class_="half"), class_="halves")
        rows.append(element("li", head, halves, class_="mistake"))
    says = f"The surest {len(rows):,} of {wrong.count:,} wrong answers."
    return element(
        "div",
        element("h3", "Wrong answers"),
        element("p", says, class_="says"),
        element("ul", rows, class_="mistakes"),
        class_="panel below",
    )


def _panels(name: str, result: ZeroShotResult | SeveralLabelsResult) -> list[Markup]:
    return _single(name, result) if "confusion" in result else _several(name, result)


def _single(name: str, result: ZeroShotResult) -> list[Markup]:
    rows = [
        _row(class_name, share, sum(row) + none)
        for class_name, share, row, none in zip(
            result["class_names"], result["per_class"], result["confusion"], result["no_answer"], strict=True
        )
    ]
    says = f"Mean over classes {percent(result['mean_class_accuracy'])}."
    return [
        confusion_panel(result, f"{isolated(name)}: {percent(result['accuracy'])} right"),
        element(
            "div", element("h3", "By class"), element("p", says, class_="says"), _table("right", rows), class_="panel"
        ),
    ]


def _several(name: str, result: SeveralLabelsResult) -> list[Markup]:
    rows = [
        _row(class_name, share, images)
        for class_name, share, images in zip(
            result["class_names"], result["per_class"], result["images_per_class"], strict=True
        )
    ]
    numbers = [
        ("mean average precision", result["mean_average_precision"]),
        ("precision", result["precision"]),
        ("recall", result["recall"]),
        ("F1", result["f1"]),
        ("all labels right", result["all_right"]),
        ("average precision of a coin", result["chance"]),
    ]
    lines = [
        element("tr", element("th", what, scope="row"), element("td", _share(share), class_="number"))
        for what, share in numbers
    ]
    says = "A label is answered where its probability is above one half."
    return [
        element(
            "div",
            element("h3", name),
            element("p", says, class_="says"),
            element("table", element("tbody", lines)),
            class_="panel",
        ),
        element("div", element("h3", "By label"), _table("average precision", rows), class_="panel"),
    ]


def _row(name: str, share: float | None, images: int) -> Markup:
    return element(
        "tr",
        element("th", name, scope="row"),
        element("td", _share(share), class_="number"),
        element("td", f"{images:,}", class_="number"),
    )


def _table(what: str, rows: list[Markup]) -> Markup:
    """A row a class; folded where there are many."""
    head = [element("th", "class"), *(element("th", name, class_="number") for name in (what, "images"))]
    table = element("table", element("thead", element("tr", head)), element("tbody", rows))
    if len(rows) < FOLDED_FROM:
        return table
    summary = element("summary", f"All {len(rows):,} classes")
    return element("details", summary, element("div", table, class_="scroll"))


def _share(share: float | None) -> object:
    return "–" if share is None else shown(share, percent(share))


def _grid(panels: list[Markup]) -> Markup:
    return element("div", panels, class_="grid-of")
