"""The page of an evaluation: bars by language, confusion of classes, few-shot accuracy, and finds."""

from collections.abc import Sequence

from diptych.core.evaluation.few_shot import FewShotResult
from diptych.core.evaluation.judged import Evaluated, LinearProbeResult, RetrievalResult, ZeroShotTaskResult
from diptych.core.evaluation.multilingual import MEAN
from diptych.core.report.charts.axes import Scale, frame, plot_area, probability
from diptych.core.report.charts.layout import HEIGHT, NARROW, lead
from diptych.core.report.charts.markup import Markup, element, isolated, join
from diptych.core.report.charts.numbers import percent, shown
from diptych.core.report.charts.sheet import sheet
from diptych.core.report.charts.style import FIGURES
from diptych.core.report.charts.thumbnails import Thumbnails
from diptych.core.report.run.confusion import confusion_panel
from diptych.core.report.run.contents import ReportData, Samples
from diptych.core.report.run.finds import finds
from diptych.core.report.run.header import headline, whole_card
from diptych.core.report.run.languages import language_bars, recall_names

BARS_WIDTH = 520


def evaluation_page(title: str, evaluation: Evaluated, samples: Samples | None = None) -> str:
    """An HTML document that loads nothing and runs nothing.

    Args:
        title: the headline.
        evaluation: with whole tables of confusion.
        samples: of the first retrieval set, for the galleries.
    """
    results = evaluation["results"]
    retrieved = [result for result in results if result["task"] == "zeroshot_retrieval"]
    classified = [result for result in results if result["task"] == "zeroshot_classification"]
    probed = [result for result in results if result["task"] == "linear_probe"]
    data = ReportData(
        retrieval={result["set"]: result["details"]["by_language"] for result in retrieved},
        zero_shot={result["set"]: result["details"] for result in classified},
        samples=samples,
    )
    found = finds(data, Thumbnails(samples.thumbnails) if samples is not None else None)
    sections = [
        join([element("style", Markup(FIGURES)), headline(data)]),
        *([found[2]] if found else []),
        *map(retrieval_section, retrieved),
        *map(zero_shot_section, classified),
        *map(few_shot_section, probed),
        _everything(evaluation),
    ]
    return sheet(title, _summary(evaluation), sections)


def retrieval_section(result: RetrievalResult) -> Markup:
    """Recall by language, text to image on the left and image to text on the right."""
    data, by_language = result["data"], result["details"]["by_language"]
    languages = [code for code in by_language if code != MEAN]
    backward = {code: by_language[code]["image_to_text"] for code in languages}
    if MEAN in by_language:
        recalls = [name for name in by_language[MEAN] if name.startswith("recall@")]
        backward[MEAN] = {name: result["metrics"][f"text_retrieval_{name}"] for name in recalls}
    strict, lenient = recall_names(by_language)
    legend = [element("li", name, class_=style) for name, style in ((strict, "image"), (lenient, "lenient")) if name]
    panels = [
        element(
            "div",
            element("h3", name),
            element("p", says, class_="says"),
            element("ul", legend, class_="legend"),
            language_bars(results, columns=1, width=BARS_WIDTH, title=f"{name}, recall by language"),
            class_="panel",
        )
        for name, says, results in (
            ("Text to image", f"From a caption to its image among {data['images']:,}.", by_language),
            ("Image to text", "From an image to any of its captions, among all captions of the language.", backward),
        )
    ]
    spoken = f"{len(languages)} languages" if len(languages) > 1 else "one language"
    says = f"{data['images']:,} images and {data['texts']:,} captions in {spoken}. Lines are 95% intervals."
    return join(
        [lead(f"Retrieval: {result['set']}", says), element("div", panels, class_="two-columns") if strict else None]
    )


def zero_shot_section(result: ZeroShotTaskResult) -> Markup:
    """Confusion, accuracy by class, and how true the probabilities are."""
    details = result["details"]
    rows = [
        (name.replace("acc@", "top-"), percent(share["accuracy"]), _within(share["interval"]))
        for name, share in details["top_k"].items()
    ]
    rows.append(("mean of the classes", percent(details["mean_class_accuracy"]), ""))
    rows.append(("largest class", percent(details["chance"]), ""))
    for kind, measured in details["probabilities"].items():
        rows.append((f"{kind}, of the answer", probability(measured["of_answer"]), ""))
        rows.append((f"{kind}, of the true class", probability(measured["of_true_class"]), ""))
        rows.append((f"{kind}, calibration error", percent(measured["calibration_error"]), ""))
    heading = lead(
        f"Zero-shot: {result['set']}",
        f"The class whose prompts fit the image best, of {len(details['class_names']):,}; no classifier was trained.",
    )
    return join([heading, element("div", confusion_panel(details), _numbers(rows), class_="grid-of")])


def few_shot_section(result: LinearProbeResult) -> Markup:
    """Accuracy by the strength of regularisation, and the confusion of the first draw."""
    details = result["details"]
    rows = [
        ("top-1, mean of the draws", percent(details["accuracy"]), _within(details["interval"])),
        *((f"draw {row['seed']}, l2 = {row['l2']:g}", percent(row["accuracy"]), "") for row in details["seeds"]),
        ("with big_vision's l2 = 1,024", percent(details["big_vision_accuracy"]), ""),
        ("mean of the classes", percent(details["mean_class_accuracy"]), ""),
        ("largest class", percent(details["chance"]), ""),
    ]
    regularisation = element(
        "figure",
        element("h3", "Strength of regularisation"),
        element(
            "p",
            "Mean accuracy of the draws for each l2. Dots are what each draw chose, seeing its shots alone.",
            class_="says",
        ),
        regularisation_figure(details),
        class_="panel below",
    )
    heading = lead(
        f"{details['shots']}-shot: {result['set']}",
        f"Least squares on the features of {details['shots']} image{'s' * (details['shots'] > 1)} a class, "
        f"{len(details['seeds'])} draws, judged on "
        f"{details['images']:,} images. The confusion is that of the first draw.",
    )
    panels = [confusion_panel(details["first_seed"]), element("div", _numbers(rows), regularisation)]
    return join([heading, element("div", panels, class_="grid-of")])


def regularisation_figure(details: FewShotResult) -> Markup:
    """Accuracy against l2."""
    l2s = [row["l2"] for row in details["by_l2"]]
    accuracies = [row["accuracy"] for row in details["by_l2"]]
    chosen = [(row["l2"], row["accuracy"]) for row in details["seeds"]]
    highest = max(*accuracies, *(share for _, share in chosen), details["chance"])
    x, y = plot_area(
        NARROW, HEIGHT, Scale("log", min(l2s), max(l2s)), Scale("linear", 0.0, min(1.0, max(highest * 1.1, 0.01)))
    )
    points = [f"{float(x(l2)):.1f},{float(y(share)):.1f}" for l2, share in zip(l2s, accuracies, strict=True)]
    at = f"{float(y(details['chance'])):.1f}"
    marks = [
        element("line", x1=x.start, x2=x.stop, y1=at, y2=at, class_="mark"),
        element("text", "largest class", x=x.stop - 2, y=float(at) - 5, text_anchor="end", class_="tick"),
        element("polyline", points=" ".join(points), class_="line image"),
    ]
    for l2, share in chosen:
        sentence = f"l2 = {l2:g}: {percent(share)}"
        marks.append(
            element(
                "circle",
                element("title", sentence),
                cx=f"{float(x(l2)):.1f}",
                cy=f"{float(y(share)):.1f}",
                r=4,
                class_="dot pair",
            )
        )
    return frame(
        NARROW,
        HEIGHT,
        x,
        y,
        marks,
        title="Few-shot accuracy against the strength of regularisation",
        x_label="l2, logarithmic",
        y_label="accuracy",
        y_percent=True,
    )


def _numbers(rows: Sequence[tuple[str, str, str]]) -> Markup:
    lines = [
        element(
            "tr",
            element("th", name, scope="row"),
            element("td", value, class_="number"),
            element("td", within, class_="number"),
        )
        for name, value, within in rows
    ]
    return element("div", element("table", element("tbody", lines)), class_="panel")


def _within(interval: Sequence[float]) -> str:
    return f"{percent(interval[0])} to {percent(interval[1])}"


def _summary(evaluation: Evaluated) -> list[object]:
    model, sets = evaluation["model"], dict.fromkeys(result["set"] for result in evaluation["results"])
    device = evaluation["device"] or "CPU"
    return [
        f"{isolated(model['name'])}, ",
        shown(model["parameters"], f"{model['parameters']:,}"),
        f" parameters, judged on {', '.join(map(isolated, sets))}, with {evaluation['backend']} ({device}).",
    ]


def _everything(evaluation: Evaluated) -> Markup:
    """Fingerprints, options and versions, folded away."""
    card = {name: value for name, value in evaluation.items() if name != "results"}
    card["data"] = {f"{result['set']}, {result['task']}": result["data"] for result in evaluation["results"]}
    return join([lead("The evaluation", "What was judged, and how."), element("div", whole_card(card), class_="panel")])
