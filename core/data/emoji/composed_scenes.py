"""Scenes whose compositions are split: which things stand together, and how many of them, in training or never."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np

from diptych.core.data.emoji.concepts import Concept
from diptych.core.data.emoji.scenes import SceneSource
from diptych.core.data.emoji.selection import Drawable, drawables
from diptych.core.data.emoji.sprites import Sprite

DIGITS = {f"3{digit}-20e3": str(digit) for digit in range(10)}
"""The hexcodes of keycaps, and what is written on them."""
FLAGS = "flags"
"""The group that is left out: few designers' flags can be cut out, and others would show things never trained on."""
NEW_SHARE = 5
"""One set of things in so many is new."""

_MOST_CASTS = 1_000


@dataclass(frozen=True, kw_only=True)
class ComposedScenes(SceneSource):
    """Scenes of trained compositions, or of new ones, which training never shows.

    A composition is which things are in a scene, wherever they stand: of several, one in `NEW_SHARE` is new, by hash,
    and a thing alone never is. Where the first thing has copies, a composition is a thing and how many there are of it:
    one number of each thing is new, the numbers taking turns, whatever stands around; of two things with one copy each
    both count.

    Attributes:
        copies: least and most copies of the first thing.
        digits: scenes of keycaps with digits, in place of `concepts`.
        compositions: "trained" or "new".
    """

    copies: tuple[int, int] = (1, 1)
    digits: bool = False
    compositions: Literal["trained", "new"] = "trained"

    def __post_init__(self):
        super().__post_init__()
        if not 1 <= self.copies[0] <= self.copies[1] <= 9:
            raise ValueError(f"copies must be (least, most) with 1 <= least <= most <= 9, got {self.copies}")
        if self.compositions not in ("trained", "new"):
            raise ValueError(f'compositions must be "trained" or "new", got {self.compositions!r}')
        if self.compositions == "new" and self.copies[1] == self.objects[1] == 1:
            raise ValueError("a thing alone is no composition that could be new: give two objects or copies")

    @cached_property
    def _drawables(self) -> tuple[Drawable, ...]:
        if not self.digits:
            return tuple(one for one in drawables(self._emoji, self.concepts) if one.concept.group != FLAGS)
        return tuple(one for one in drawables(self._emoji) if one.concept.hexcode in DIGITS)

    def _cast(self, rng: np.random.Generator) -> list[tuple[Concept, str, Sprite]]:
        """Different things, of which the first has copies, in a composition of those that are wanted."""
        least, most = self.copies
        for _ in range(_MOST_CASTS):
            cast, count = super()._cast(rng), int(rng.integers(least, most + 1))
            names = [concept.hexcode for concept, _, _ in cast]
            counted = names[:1] if count > 1 else names
            found = {is_new(names)} if most == 1 else {self._is_new_number(name, count) for name in counted}
            if found == {self.compositions == "new"}:
                return [*cast[:1] * count, *cast[1:]]
        raise ValueError(f"no composition of {self.concepts} concepts and {self.copies} copies is {self.compositions}.")

    def _is_new_number(self, hexcode: str, count: int) -> bool:
        least, most = self.copies
        return count == least + self._places[hexcode] % (most + 1 - least)

    @cached_property
    def _places(self) -> dict[str, int]:
        return {one.concept.hexcode: place for place, one in enumerate(self._drawables)}


def is_new(things: Sequence[str]) -> bool:
    """Whether things, by their hexcodes in any order, never stand together in training."""
    if len(things) < 2:
        return False
    return int(hashlib.sha1(" ".join(sorted(things)).encode()).hexdigest(), 16) % NEW_SHARE == 0
