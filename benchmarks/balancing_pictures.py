"""Drawings of things of two teams: a source in which most things go with one team and a few with the other.

A frame in the team's colour says which team it is, where it is there: in most pictures it is not, and the caption says
it all the same, as captions of photographs call people men or women. Things are drawn more or less faintly.
"""

import hashlib
import io
from collections.abc import Sequence
from functools import cache

import numpy as np
from PIL import Image

from diptych.core.data.emoji import EmojiSource
from diptych.core.data.image import decode
from diptych.core.data.records import Caption, Record
from diptych.core.data.sources.word_attributes import WordAttributes

THINGS = ("🍕", "🚗", "🎸", "🏠", "🌵", "🚀", "🌈", "🐶", "🍎", "🔑", "🌻", "🐟")
AMBERS = (0.9,) * 10 + (0.1,) * 2
"""How often each thing is the amber team's."""
FREQUENCIES = (0.07,) * 10 + (0.15,) * 2
TEAMS = {"amber": (255, 180, 0), "violet": (130, 40, 220)}
FRAMED = 0.3
SIDE, DRAWING, FRAME = 24, 18, 3
PAPER = 250  # from here on a pixel of a drawing is taken for its white ground
FAINTEST = 0.3


def names() -> tuple[str, ...]:
    """What the things are called."""
    return tuple(name for name, _ in _drawings(None))


def team_text(team: str) -> str:
    """What stands for a team."""
    return f"the {team} team"


def attributes() -> WordAttributes:
    """Teams and things of a record, from its captions."""
    return WordAttributes({team: [team] for team in TEAMS}, {name: [name] for name in names()})


class TeamSource:
    """Records of one picture and three captions: the thing, the team, and "dog face of the amber team".

    Args:
        records: how many.
        seed: of all of them.
    """

    def __init__(self, records: int, *, seed: int):
        rng = np.random.default_rng(seed)
        self.things = rng.choice(len(THINGS), size=records, p=FREQUENCIES)
        self.teams = (rng.random(records) >= np.take(AMBERS, self.things)).astype(int)
        self.framed = rng.random(records) < FRAMED
        self._records, self._seed = records, seed

    def __len__(self) -> int:
        return self._records

    def record(self, index: int) -> Record:
        """Its key is its place."""
        thing, team = names()[self.things[index]], team_text(list(TEAMS)[self.teams[index]])
        captions = tuple(Caption(text, "en") for text in (thing, team, f"{thing} of {team}"))
        return Record(str(index), (index,), captions)

    def pixels(self, reference: int) -> np.ndarray:
        """uint8 [SIDE, SIDE, 3], by one of the training designers."""
        rng = np.random.default_rng((self._seed, reference))
        _, drawings = _drawings(None)[self.things[reference]]
        drawing = drawings[rng.integers(len(drawings))]
        return drawn(rng, drawing, self.teams[reference] if self.framed[reference] else None)

    def read(self, reference: int) -> bytes:
        """The picture as a PNG file."""
        file = io.BytesIO()
        Image.fromarray(self.pixels(reference)).save(file, "PNG")
        return file.getvalue()

    def fingerprint(self) -> str:
        """Of the arguments."""
        return hashlib.sha256(f"teams {self._records} {self._seed}".encode()).hexdigest()


def held_out_pictures(designer: str, team: int | None, *, each: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Pictures by one designer, `each` of every thing, all with a team's frame or none, and which thing each shows.

    Those of one seed differ in the frame alone.
    """
    things = np.repeat(np.arange(len(THINGS)), each)
    drawings = _drawings((designer,))
    pictures = [
        drawn(np.random.default_rng((seed, place)), drawings[thing][1][0], team) for place, thing in enumerate(things)
    ]
    return np.stack(pictures), things


def drawn(rng: np.random.Generator, drawing: np.ndarray, team: int | None) -> np.ndarray:
    """A drawing on a grey ground, within a team's frame or none."""
    picture = np.empty((SIDE, SIDE, 3))
    picture[:] = rng.integers(90, 220) + rng.integers(-25, 26, 3)
    shade, strength, noise = rng.integers(-20, 1, 3), rng.uniform(FAINTEST, 1), rng.normal(0, 4, picture.shape)
    inner = slice(FRAME, FRAME + DRAWING)
    ground = picture[inner, inner].copy()
    if team is not None:
        picture[:] = np.array(list(TEAMS.values())[team]) + shade
    ink = (drawing < PAPER).any(axis=-1, keepdims=True)
    picture[inner, inner] = np.where(ink, strength * drawing + (1 - strength) * ground, ground)
    return (picture + noise).clip(0, 255).astype(np.uint8)


@cache
def _drawings(designers: Sequence[str] | None) -> tuple[tuple[str, tuple[np.ndarray, ...]], ...]:
    """Name and drawings of each thing, uint8 [DRAWING, DRAWING, 3], by some designers; by default those of training."""
    source = EmojiSource("all", designers, ("en",), keywords=False)
    place = {source.concept(index).emoji.rstrip("\ufe0f"): index for index in range(len(source))}
    found = []
    for thing in THINGS:
        record = source.record(place[thing])
        pictures = [Image.fromarray(decode(source.read(reference))) for reference in record.images]
        small = tuple(np.asarray(picture.resize((DRAWING, DRAWING), Image.Resampling.BILINEAR)) for picture in pictures)
        found.append((record.captions[0].text, small))
    return tuple(found)
