"""The gallery of a search: each query with what was found for it, best first."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from diptych.core.report.charts.axes import probability
from diptych.core.report.charts.markup import Markup, caption_text, element
from diptych.core.report.charts.numbers import shown
from diptych.core.report.charts.sheet import bar, sheet
from diptych.core.report.charts.thumbnails import Thumbnails
from diptych.core.report.language_names import language_name


@dataclass(frozen=True, kw_only=True)
class Hit:
    """One thing found."""

    cosine: float
    pair_probability: float | None  # None where the model has no opinion: a picture compared with a picture
    caption: str
    language: str  # "und" where unknown
    where: str  # file or key, for the person who wants to find it
    picture: np.ndarray | None = None  # uint8 [side, side, 3]; None for a caption, or where it cannot be read any more


@dataclass(frozen=True, kw_only=True)
class Answered:
    """A query, either a text or a picture, and its hits."""

    text: str
    picture: np.ndarray | None = None
    hits: Sequence[Hit]


def search_page(title: str, summary: str, answers: Sequence[Answered], *, captions: bool = False) -> str:
    """An HTML document.

    Args:
        title: the headline.
        summary: what was searched, in a sentence.
        answers: one section each.
        captions: whether captions were searched rather than images.
    """
    hits = [hit for answer in answers for hit in answer.hits]
    explained = (
        "In bold the probability that text and picture belong together, by the model's sigmoid; beside it the cosine."
        if any(hit.pair_probability is not None for hit in hits)
        else "The number is the cosine."
    )
    return sheet(title, [summary, " ", explained], [_section(answer, captions) for answer in answers])


def _section(answer: Answered, captions: bool) -> Markup:
    asked = [
        None if answer.picture is None else Thumbnails(answer.picture[None]).picture(0, answer.text),
        element("h2", caption_text(answer.text, limit=200)),
    ]
    there = {rank: hit.picture for rank, hit in enumerate(answer.hits) if hit.picture is not None}
    pictures = Thumbnails(np.stack(list(there.values())), largest=160) if there else None
    places = {rank: place for place, rank in enumerate(there)}
    hits = [_hit(rank, hit, pictures, places.get(rank), captions) for rank, hit in enumerate(answer.hits)]
    nothing = element("p", "Nothing was found.", class_="lead")
    return Markup(element("div", asked, class_="asked") + (element("ul", hits, class_="hits") if hits else nothing))


def _hit(rank: int, hit: Hit, pictures: Thumbnails | None, picture: int | None, captions: bool) -> Markup:
    described = f"{rank + 1}: {hit.caption or hit.where}, cosine {hit.cosine:.3f}"
    image: Markup | None
    if pictures is not None and picture is not None:
        image = pictures.picture(picture, described)
    else:
        image = None if captions else element("span", f"not to be read: {hit.where}", class_="lost", title=described)
    likely = hit.pair_probability
    cosine = shown(hit.cosine, f"{round(hit.cosine, 3) + 0.0:.3f}".replace("-", "−"))
    figures = [element("b", cosine)] if likely is None else [element("b", shown(likely, probability(likely))), cosine]
    language = None if hit.language == "und" or not captions else language_name(hit.language)
    return element(
        "li",
        image,
        element("div", figures, class_="figures"),
        bar(max(hit.cosine, 0) if likely is None else likely, "text" if likely is None else "image"),
        element("p", caption_text(hit.caption, limit=90) if hit.caption else hit.where, title=hit.where),
        element("span", language, class_="chip") if language else None,
        class_="hit",
    )
