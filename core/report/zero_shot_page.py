"""A sheet of pictures, each with the labels that fit it best as bars: what zero-shot classification looks like."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from diptych.core.report.charts.axes import probability
from diptych.core.report.charts.markup import Markup, caption_text, element
from diptych.core.report.charts.numbers import shown
from diptych.core.report.charts.sheet import bar, sheet
from diptych.core.report.charts.thumbnails import Thumbnails


@dataclass(frozen=True, kw_only=True)
class Guess:
    """One label for one picture."""

    label: str
    softmax: float  # share among all labels
    sigmoid: float | None  # probability of the pair by itself; None for a model without a bias


@dataclass(frozen=True, kw_only=True)
class Judged:
    """One picture with its best labels, best first."""

    name: str
    picture: np.ndarray  # uint8 [side, side, 3]
    guesses: Sequence[Guess]
    truth: str | None = None  # the right label, where it is known


def zero_shot_page(title: str, summary: str, judged: Sequence[Judged]) -> str:
    """An HTML document with a card for each picture; the longer bar, in blue, is the softmax, the one below it the
    sigmoid.
    """
    pictures = Thumbnails(np.stack([each.picture for each in judged]), largest=128) if judged else None
    cards = [_card(place, each, pictures) for place, each in enumerate(judged)]
    entries = [element("li", "softmax: share among the labels", class_="image")]
    if any(guess.sigmoid is not None for each in judged for guess in each.guesses):
        entries.append(element("li", "sigmoid: each label by itself", class_="text"))
    legend = element("ul", entries, class_="legend")
    return sheet(title, [summary], [Markup(legend + element("ul", cards, class_="cards"))])


def _card(place: int, judged: Judged, pictures: Thumbnails | None) -> Markup:
    best = judged.guesses[0].label if judged.guesses else ""
    picture = None if pictures is None else pictures.picture(place, f"{judged.name}: {best}")
    verdict: Markup | None = None
    if judged.truth is not None:
        right = judged.truth == best
        verdict = element("span", "✓ " if right else "✗ ", class_="verdict right" if right else "verdict wrong")
    return element(
        "li",
        picture,
        element(
            "div",
            element("h3", element("span", verdict, caption_text(judged.name, limit=60))),
            element("ul", [_guess(rank, guess) for rank, guess in enumerate(judged.guesses)], class_="guesses"),
        ),
        class_="shown",
    )


def _guess(rank: int, guess: Guess) -> Markup:
    numbers = [shown(guess.softmax, probability(guess.softmax))]
    bars = [bar(guess.softmax)]
    if guess.sigmoid is not None:
        numbers += [Markup(" · "), shown(guess.sigmoid, probability(guess.sigmoid))]
        bars.append(bar(guess.sigmoid, "text"))
    return element(
        "li",
        caption_text(guess.label, limit=60),
        element("span", numbers),
        bars,
        class_="guess first" if rank == 0 else "guess",
    )
