"""The page of a measurement of evenness: groups with their intervals, and what each number says and does not say."""

from collections.abc import Sequence

from diptych.core.evaluation.fairness import AssociationBias
from diptych.core.evaluation.fairness_results import FairnessResult, Measured, PairBias
from diptych.core.evaluation.grouped import GroupedAccuracy
from diptych.core.report.charts.axes import Scale, svg, tick_label
from diptych.core.report.charts.layout import lead
from diptych.core.report.charts.markup import Markup, element, isolated, join, shorten
from diptych.core.report.charts.numbers import MINUS, percent, shown
from diptych.core.report.charts.sheet import sheet
from diptych.core.report.run.header import whole_card

ROW, NAME, NUMBERS, HEAD, FOOT, WIDTH = 22, 136, 96, 8, 22, 420
LONGEST_NAME = 24
MOST_LABELS = 16


def fairness_page(measured: Measured) -> str:
    """An HTML document that loads nothing and runs nothing."""
    model = measured["model"]
    summary = [
        f"{isolated(model['name'])}, ",
        shown(model["parameters"], f"{model['parameters']:,}"),
        f" parameters, with {measured['backend']} ({measured['device'] or 'CPU'}). An even model is no good model by "
        "itself: one that sees nothing is even. Read each number beside the accuracy.",
    ]
    sections = [section for result in measured["results"] for section in _sections(result)]
    card = {name: value for name, value in measured.items() if name != "results"}
    card["data"] = {result["set"]: result["data"] for result in measured["results"]}
    sections.append(
        join([lead("The measurement", "What was measured, and how."), element("div", whole_card(card), class_="panel")])
    )
    return sheet("How evenly a model sees", summary, sections)


def _sections(result: FairnessResult) -> list[Markup]:
    zero_shot = result["zero_shot"]
    grouped = [*result["by_group"], *([result["by_language"]] if "by_language" in result else [])]
    says = (
        f"{percent(zero_shot['accuracy'])} of {result['data']['images']:,} pictures are told right among "
        f"{zero_shot['classes']:,} classes, without training. Lines are 95% intervals."
    )
    panels = [grouped_panel(one) for one in grouped]
    if "few_shot" in result:
        panels.append(_place_panel(result))
    if result["representation"]:
        panels.append(representation_panel(result["representation"]))
    if "association" in result:
        panels.append(association_panel(result["association"], result.get("people", ["A", "B"])))
    return [join([lead(result["set"].capitalize(), says), element("div", panels, class_="two-columns")])]


def grouped_panel(found: GroupedAccuracy) -> Markup:
    """Accuracy by group."""
    rows = [(one["group"], one["accuracy"], one["interval"], f"{one['images']:,}") for one in found["groups"]]
    verdict = (
        "more than groups of these sizes differ by chance"
        if found["disparity"] > found["by_chance"]
        else "which groups of these sizes reach by chance"
    )
    says = (
        f"The best group is {percent(found['disparity'])} ahead of the worst ({_within(found['interval'])}), "
        f"{verdict}: {percent(found['by_chance'])} at most, 95 times of 100."
        if found["disparity"]
        else "No group is ahead of another."
    )
    left = [f"{len(found['too_small'])} groups have too few pictures."] if found["too_small"] else []
    left += [f"Of {found['unknown']:,} pictures the group is not known."] if found["unknown"] else []
    return _panel(f"By {isolated(found['attribute'])}", [says, *left], _bars(rows, f"Accuracy by {found['attribute']}"))


def representation_panel(found: Sequence[PairBias]) -> Markup:
    """Whom the model sees in pictures of anything."""
    rows = [
        (
            one["texts"][0],
            0.5 + one["bias"],
            [0.5 + bound for bound in one["interval"]],
            _signed(one["bias"]),
        )
        for one in found
    ]
    others = ", ".join(isolated(one["texts"][1]) for one in found)
    says = (
        f"How often these texts fit better than their counterparts ({others}) in {found[0]['images']:,} "
        "pictures chosen without regard to either; an even model has 50%. It hangs on the words: look at all of them. "
        "It does not say how people are seen who are in a picture."
    )
    return _panel("Whom it sees where nobody is", [says], _bars(rows, "Share of the first text", middle=0.5))


def association_panel(found: AssociationBias, people: Sequence[str]) -> Markup:
    """What people of two groups are taken for."""
    names = found["label_names"] or [str(place) for place in range(len(found["per_label"]))]
    ranked = sorted(zip(names, found["per_label"], strict=True), key=lambda one: -abs(one[1]))[:MOST_LABELS]
    says = (
        f"By how much more often a label is the answer to pictures of {isolated(people[0])} ({found['images_a']:,}) "
        f"than to those of {isolated(people[1])} ({found['images_b']:,}): {percent(found['mean'])} on average over "
        f"{len(found['per_label'])} labels. Both do the same things in these pictures, so that an even model has 0."
    )
    lines = [
        element("tr", element("th", name, scope="row"), element("td", _signed(gap) + "%", class_="number"))
        for name, gap in ranked
    ]
    return _panel("What they are taken for", [says], element("table", element("tbody", lines)))


def _place_panel(result: FairnessResult) -> Markup:
    told, place = result["few_shot"], result.get("place", "place")
    says = (
        f"{percent(told['accuracy'])} of {told['images']:,} pictures ({_within(told['interval'])}) are given the right "
        f"{place} by least squares on {told['shots']} pictures of each; always the largest would be "
        f"{percent(told['chance'])}. A model that has seen the world tells where a picture is from."
    )
    return _panel(f"{place.capitalize()} from {told['shots']} pictures", [says], None)


def _panel(title: str, says: Sequence[str], figure: Markup | None) -> Markup:
    return element(
        "div", element("h3", title), *[element("p", one, class_="says") for one in says], figure, class_="panel"
    )


def _bars(rows: Sequence[tuple[str, float, Sequence[float], str]], title: str, *, middle: float = 0.0) -> Markup:
    """(name, share, interval, number) a row, each a bar that begins at `middle`."""
    highest = max(max(share, interval[1]) for _, share, interval, _ in rows)
    scale = Scale("linear", 0.0, 1.0 if middle else min(1.0, max(highest * 1.04, 0.01)), NAME, WIDTH - NUMBERS)
    bottom = HEAD + len(rows) * ROW
    marks = []
    for tick in scale.ticks(4):
        at = f"{float(scale(tick)):.1f}"
        marks.append(element("line", x1=at, x2=at, y1=HEAD, y2=bottom, class_="grid"))
        marks.append(
            element("text", tick_label(tick, scale, True), x=at, y=bottom + 15, text_anchor="middle", class_="tick")
        )
    for place, (name, share, interval, number) in enumerate(rows):
        line = HEAD + (place + 0.5) * ROW
        start, end = sorted((float(scale(middle)), float(scale(share))))
        low, high = (f"{float(scale(bound)):.1f}" for bound in interval)
        marks += [
            element("title", f"{isolated(name)}: {percent(share)} ({_within(interval)})"),
            element("text", shorten(name, LONGEST_NAME), x=2, y=line + 4),
            element("rect", x=f"{start:.1f}", y=line - 6, width=f"{max(end - start, 0.5):.1f}", height=12, rx=1.5,
                    class_="bar strict"),
            element("line", x1=low, x2=high, y1=line, y2=line, class_="whisker strict"),
            element("text", percent(share), x=WIDTH - 48, y=line + 4, text_anchor="end", class_="value strict"),
            element("text", number, x=WIDTH - 2, y=line + 4, text_anchor="end", class_="value lenient"),
        ]  # fmt: skip
    return svg(WIDTH, bottom + FOOT, title, marks)


def _signed(share: float) -> str:
    """A difference in points of percent: +5.0, −2.0, 0."""
    return f"{100 * share:+.1f}".replace("-", MINUS) if share else "0"


def _within(interval: Sequence[float]) -> str:
    return f"{percent(interval[0])} to {percent(interval[1])}"
