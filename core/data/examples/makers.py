"""Makers of fields that a stage or a term of one's own adds to an example, as protocols."""

from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np

from diptych.core.data.batch import ArrayField
from diptych.core.data.records import Caption, Record, Region


class Targets(Protocol):
    """What a decoder learns to write about an example: `captioning.CaptionTargets`."""

    @property
    def declared(self) -> Mapping[str, ArrayField]:
        """The fields that it makes."""
        ...

    def __call__(self, caption: Caption, regions: Sequence[Region], rng: np.random.Generator) -> dict[str, np.ndarray]:
        """The fields of one example."""
        ...

    def fingerprint(self) -> str:
        """A hash of everything that decides them."""
        ...


class Views(Protocol):
    """What self-distillation sees of an example: `views.Views`. Its repr tells all that decides them, as of any
    settings here.
    """

    @property
    def declared(self) -> Mapping[str, ArrayField]:
        """The fields that it makes."""
        ...

    def __call__(self, pixels: np.ndarray, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """The fields of one decoded picture, uint8 [h, w, 3]."""
        ...


class Maker(Protocol):
    """Makes fields of one's own from a record, such as labels. It travels to worker processes; its repr tells all that
    decides them. One that has no use for pixels may say so by `reads_pixels = False`: pictures are then decoded at the
    model's size.
    """

    @property
    def declared(self) -> Mapping[str, ArrayField]:
        """The fields that it makes."""
        ...

    def __call__(self, record: Record, pixels: np.ndarray, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """The fields of one example, of its record and its decoded picture, uint8 [h, w, 3]; raises `BadExample` where
        it cannot.
        """
        ...
