"""Captions from a trained decoder: what pictures show, where a phrase is, what a box holds.

Command:   python -m recipes.caption --model runs/siglip2/trunk/model
Own:       python -m recipes.caption --images photo.jpg --find "red apple" --describe "0.1 0.2 0.6 0.9"
Sampling:  python -m recipes.caption --temperature 1 --top-p 0.9

The model is the folder of a stage of `recipes.siglip2`, which keeps its decoder beside the towers. Without pictures it
looks at scenes by a designer it never saw, finds every thing in them and tells how well. Prints the answers, and writes
results.json and a page of pictures with boxes, results.html.
"""

import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NotRequired, TypedDict

import numpy as np

from diptych.core.data.image import decode
from diptych.core.data.ledger import Skipped, reasons_with_names, visit
from diptych.core.data.records import Box
from diptych.core.data.sources.small import FileSource
from diptych.core.evaluation.localization import LocalizationResult, accuracy_at_iou
from diptych.core.files.json_objects import write_json
from diptych.core.report.box_gallery import STYLE, Located, box_gallery
from diptych.core.report.charts.markup import Markup, element
from diptych.core.report.charts.sheet import sheet
from diptych.core.report.ledger_text import tell_left_out
from diptych.engine.command_line import parse
from diptych.engine.failures import exit_status
from diptych.engine.training.targets_file import read_targets

SCENES_SHOWN = 24
WHOLE = (0.0, 0.0, 1.0, 1.0)


@dataclass(frozen=True, kw_only=True)
class Caption:
    """Which pictures, and what to ask."""

    model: Path = Path("runs/siglip2/trunk/model")
    """A stage's model folder, with captioner.json in it."""
    images: tuple[Path, ...] = ()
    """Pictures; by default scenes of emoji by the held-out designer."""
    find: tuple[str, ...] = ()
    """Phrases to find in each picture."""
    describe: tuple[str, ...] = ()
    """Boxes to describe in each picture: "ymin xmin ymax xmax" as shares of its sides, 0 to 1."""
    temperature: float | None = None
    """Draw words at this temperature; by default the likeliest are taken."""
    top_p: float = 0.9
    """Share of the probability that words are drawn from, where a temperature is given."""
    output: Path = Path("runs/caption/results.json")
    """Answers; the page is written beside it, as .html."""


class FoundBox(TypedDict):
    """A phrase, and where the decoder says that it is."""

    text: str
    box: Box | None  # None where the decoder's words could not be read as a box


class DescribedBox(TypedDict):
    """A box, and what the decoder says is in it."""

    box: Box
    text: str


class Answer(TypedDict):
    """What the decoder says about a picture."""

    picture: str  # its name
    caption: str
    found: list[FoundBox]
    described: list[DescribedBox]


class Answered(TypedDict):
    """Everything that was asked and answered."""

    options: dict[str, str]
    answers: list[Answer]
    localization: NotRequired[LocalizationResult]  # of phrases whose box is known


def box_of(text: str) -> tuple[float, float, float, float]:
    """A box as it is typed.

    Raises:
        ValueError: for anything but four numbers in [0, 1], corners in order.
    """
    try:
        ymin, xmin, ymax, xmax = map(float, text.replace(",", " ").split())
    except ValueError:
        raise ValueError(f'--describe takes boxes like "0.1 0.2 0.6 0.9", got {text!r}.') from None
    if not (0 <= ymin < ymax <= 1 and 0 <= xmin < xmax <= 1):
        raise ValueError(f"A box is ymin xmin ymax xmax in [0, 1] with ymin < ymax and xmin < xmax, got {text!r}.")
    return ymin, xmin, ymax, xmax


def caption(options: Caption) -> int:
    """Asks, prints, writes; returns the exit status."""
    from diptych.engine.embedding.picture_features import PictureFeatures, Writer
    from diptych.models import from_preset
    from diptych.models.captioner.model import Captioner

    targets = read_targets(options.model)
    boxes = [box_of(text) for text in options.describe]
    writer = Writer(PictureFeatures(from_preset(options.model)), Captioner.from_folder(options.model), targets)
    names, pictures, phrases = _pictures(options)

    def ask(question, arguments, places=None):
        return writer(question, pictures, arguments, places, temperature=options.temperature, top_p=options.top_p)

    captions = ask("caption", [{}] * len(pictures))
    places = [place for place, _, _ in phrases]
    found = ask("find", [{"text": text} for _, text, _ in phrases], places) if phrases else []
    described = [(place, box) for place in range(len(pictures)) for box in boxes]
    told = (
        ask("describe", [{"box": box} for _, box in described], [place for place, _ in described]) if described else []
    )
    answers: list[Answer] = [
        {
            "picture": name,
            "caption": captions[place],
            "found": [
                {"text": text, "box": box}
                for (where, text, _), box in zip(phrases, found, strict=True)
                if where == place
            ],
            "described": [
                {"box": box, "text": text} for (where, box), text in zip(described, told, strict=True) if where == place
            ],
        }
        for place, name in enumerate(names)
    ]
    for answer in answers:
        print(f"{answer['picture']}: {answer['caption']}")
        for each in answer["found"]:
            box = " ".join(f"{value:.2f}" for value in each["box"]) if each["box"] else "no box"
            print(f"  {each['text']}: {box}")
        for told_of in answer["described"]:
            print(f"  {' '.join(map(str, told_of['box']))}: {told_of['text']}")
    results: Answered = {"options": {k: str(v) for k, v in asdict(options).items()}, "answers": answers}
    known = [(box, truth) for (_, _, truth), box in zip(phrases, found, strict=True) if truth is not None]
    if known:
        results["localization"] = accuracy_at_iou([box for box, _ in known], np.array([truth for _, truth in known]))
        print(f"Acc@0.5 of {len(known)} phrases: {results['localization']['accuracy']:.1%}")
    options.output.parent.mkdir(parents=True, exist_ok=True)
    write_json(options.output, results)
    located = [
        Located(picture=pictures[place], phrase=text, true=truth or box or WHOLE, predicted=box)
        for (place, text, truth), box in zip(phrases, found, strict=True)
    ]
    page = _page(answers, located)
    html = options.output.with_suffix(".html")
    html.write_text(page, encoding="utf-8")
    print(f"Page: {html.resolve().as_uri()}")
    return 0


def _pictures(options: Caption) -> tuple[list[str], Sequence[np.ndarray], list[tuple[int, str, Box | None]]]:
    """Names, pixels, and (picture, phrase, true box or None) of what is to be found."""
    if options.images:
        source, skipped = FileSource(options.images), list[Skipped]()
        found = list(visit(source, lambda record: decode(source.read(record.key)), skipped=skipped))
        if not found:
            raise ValueError(f"none of {len(source):,} pictures could be used: {reasons_with_names(skipped)}.")
        if skipped:
            tell_left_out([source.ledger])
        pictures = [picture for _, picture in found]
        phrases: list[tuple[int, str, Box | None]] = [
            (place, text, None) for place in range(len(pictures)) for text in options.find
        ]
        return [source.paths[index] for index, _ in found], pictures, phrases
    from diptych.engine.datasets.scenes import evaluation_scenes
    from diptych.engine.judging.dense.scenes import read_scenes

    scenes = read_scenes(evaluation_scenes(), SCENES_SHOWN)
    phrases = []
    phrases += [(phrase.scene, phrase.text, phrase.box) for phrase in scenes.phrases]
    phrases += [(place, text, None) for place in range(len(scenes)) for text in options.find]
    return [f"scene {place}: {text}" for place, text in enumerate(scenes.captions)], scenes.pixels, phrases


def _page(answers: Sequence[Answer], located: list[Located]) -> str:
    rows = [
        element(
            "li",
            element("b", answer["picture"]),
            f" — {answer['caption']}",
            *[f"; {' '.join(map(str, each['box']))}: {each['text']}" for each in answer["described"]],
        )
        for answer in answers
    ]
    sections = [Markup(element("h2", "Captions") + element("ul", rows))]
    if located:
        sections.append(Markup(element("style", Markup(STYLE)) + box_gallery(located)))
    summary = "Captions that the decoder writes, and the boxes in which it finds things."
    return sheet("What the decoder says", [summary], sections)


def main(arguments: list[str] | None = None) -> int:
    """Runs the recipe with the command line's options; returns the exit status."""
    options = parse(Caption(), arguments, program="python -m recipes.caption", description=__doc__)
    return exit_status(lambda: caption(options), options)


if __name__ == "__main__":
    sys.exit(main())
