"""The results of zero-shot classification: as plain values for JSON, as a table, as a sheet of pictures."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NotRequired, TypedDict

import numpy as np

from diptych.core.data.image import decode
from diptych.core.data.reasons import listed
from diptych.core.data.records import Source
from diptych.core.evaluation.calibration import sigmoid
from diptych.core.evaluation.classification import softmax_probabilities
from diptych.core.report.charts.axes import probability
from diptych.core.report.charts.sheet import square, write_page
from diptych.core.report.zero_shot_page import Guess, Judged, zero_shot_page
from diptych.engine.embedding.image_stream import Item


class LabelScore(TypedDict):
    """How well a label fits an image."""

    label: str
    cosine: float
    softmax: float  # share among all labels
    sigmoid: float | None  # probability of the label by itself; None for models without a bias


class ClassifiedImage(TypedDict):
    """An image and the labels that fit it."""

    key: str
    image: str
    status: str  # "ok", or the reason why it cannot be used
    truth: NotRequired[str]  # the true label, where it is known and the image can be used
    best: NotRequired[list[LabelScore]]  # best first; missing where the image cannot be used


class ZeroShotFound(TypedDict):
    """A zero-shot classification of images, whole."""

    model: str
    templates: list[str]
    labels: list[str]
    skipped: Mapping[str, int]  # images that cannot be used, by reason
    images: list[ClassifiedImage]


def best_labels(cosines: np.ndarray, labels: Sequence[str], encoder: Any, *, top_k: int) -> list[LabelScore]:
    """The labels that fit an image best, best first.

    Args:
        cosines: [labels], of the image with each label.
        labels: [labels].
        encoder: its `logit_scale` and `logit_bias`.
        top_k: how many to give.
    """
    logits = encoder.logit_scale * np.asarray(cosines, np.float64)
    shares = softmax_probabilities(logits[None])[0]
    alone = None if encoder.logit_bias is None else sigmoid(logits + encoder.logit_bias)
    return [
        {
            "label": labels[place],
            "cosine": float(cosines[place]),
            "softmax": float(shares[place]),
            "sigmoid": None if alone is None else float(alone[place]),
        }
        for place in np.argsort(-logits, kind="stable")[:top_k]
    ]


def print_table(found: ZeroShotFound, *, most: int = 40) -> None:
    """The best three labels of each image, softmax in percent, and the sigmoid of the first."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    judged = [image for image in found["images"] if "best" in image]
    known = any("truth" in image for image in judged)
    table = Table(box=None, pad_edge=False)
    for name in ("image", *([""] if known else []), "best label", "softmax", "sigmoid", "then", ""):
        table.add_column(name, justify="right" if name in ("softmax", "sigmoid") else "left", overflow="fold")
    for image in judged[:most]:
        first, *others = image["best"]
        verdict = [_verdict(image)] if known else []
        alone = "–" if first["sigmoid"] is None else probability(first["sigmoid"])
        then = [f"{escape(each['label'])} [dim]{probability(each['softmax'])}[/dim]" for each in others[:2]]
        label = f"[bold]{escape(first['label'])}[/bold]"
        table.add_row(escape(_name(image)), *verdict, label, probability(first["softmax"]), alone, *then)
    console = Console()
    console.print(table)
    if len(judged) > most:
        console.print(f"... and {len(judged) - most:,} more", highlight=False)
    console.print(summary(found), highlight=False, markup=False)


def summary(found: ZeroShotFound) -> str:
    """What was classified, by what and how well, in a sentence or two."""
    judged = [image for image in found["images"] if "best" in image]
    templates = found["templates"]
    sentences = f"{len(templates)} templates" if len(templates) > 1 else f"the template “{templates[0]}”"
    text = f"{len(judged):,} images, {len(found['labels']):,} labels in {sentences}, by {Path(found['model']).name}."
    known = [image["best"][0]["label"] == image["truth"] for image in judged if "truth" in image]
    if known:
        text += f" {sum(known)} of {len(known)} are right."
    if found["skipped"]:
        text += f" Could not be used: {listed(found['skipped'])}."
    return text


def page(path: Path, found: ZeroShotFound, pictures: Sequence[tuple[Source, Item, ClassifiedImage]]) -> Path:
    """Writes the sheet.

    Args:
        path: of the HTML file.
        found: everything, as it is written to JSON.
        pictures: the images to show: where each is read from, and its part of `found`.
    """
    judged = [
        Judged(
            name=_name(image),
            picture=_thumbnail(source, item),
            guesses=[
                Guess(label=each["label"], softmax=each["softmax"], sigmoid=each["sigmoid"]) for each in image["best"]
            ],
            truth=image.get("truth"),
        )
        for source, item, image in pictures
    ]
    total = sum("best" in image for image in found["images"])
    text = summary(found) + (f" The first {len(judged):,} are shown." if len(judged) < total else "")
    return write_page(path, zero_shot_page("Zero-shot classification", text, judged))


def _thumbnail(source: Source, item: Item) -> np.ndarray:
    return square(decode(source.read(source.record(item.record).images[item.number])))


def _name(image: ClassifiedImage) -> str:
    return image.get("truth") or Path(image["key"]).name


def _verdict(image: ClassifiedImage) -> str:
    if "truth" not in image:
        return ""
    return "[green]✓[/green]" if image["best"][0]["label"] == image["truth"] else "[red]✗[/red]"
