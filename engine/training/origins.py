"""The checkpoints that towers begin from, each with all that comes with it."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from diptych.core.data.examples.naflex import NaFlex
from diptych.core.data.pixels import FixedSize
from diptych.core.data.processor.files import read_pixels
from diptych.core.data.processor.processor import Processor
from diptych.core.training.recipe import Recipe
from diptych.core.weights.hub import preset_folder
from diptych.models import ClassifierConfig, PaliGemmaConfig
from diptych.models.checkpoints import Checkpoint, TowerName, read_checkpoint, stored_tower, stored_values, towers_of
from diptych.models.presets import PRESETS
from diptych.models.pretrained import build_model, trained_preset
from diptych.models.siglip.model import image_tower, text_tower


@dataclass(frozen=True, kw_only=True)
class Origin:
    """A checkpoint that a tower begins from, or both.

    Attributes:
        name: as it was given.
        checkpoint: what lies there.
        pixels: how it takes pictures; None where that is not said.
        folder: of its vocabulary; None where there is none, or its text tower is not asked for.
    """

    name: str
    checkpoint: Checkpoint
    pixels: FixedSize | NaFlex | None = None
    folder: Path | None = None

    @property
    def config(self) -> Any:
        """Of its towers, as they lie there: of a pair or, where the image tower alone is asked for, of a classifier."""
        return self.checkpoint.config

    def weights(self) -> Iterator[tuple[str, np.ndarray]]:
        """Those of both towers, with scale and bias, by path."""
        return stored_values(self.name, self.checkpoint, build_model)

    def tower_weights(self, tower: TowerName) -> Iterator[tuple[str, np.ndarray]]:
        """Those of one tower, by path."""
        build = partial(image_tower, self.config.vision) if tower == "image" else partial(text_tower, self.config.text)
        return stored_tower(self.name, self.checkpoint, tower, partial(build, name=tower))


def origin_of(name: str, flag: str, recipe: Recipe) -> Origin:
    """The checkpoint that a flag names, for both towers or for one.

    Raises:
        FileNotFoundError, ValueError, HubError: for a checkpoint that is not there or cannot be read, and for a text
            tower whose vocabulary neither it nor --tokenizer brings.
    """
    preset = trained_preset(name)
    path = preset_folder(preset, known=PRESETS)
    checkpoint, folder = read_checkpoint(path), path if path.is_dir() else path.parent
    if "image" not in towers_of(checkpoint.config):
        raise ValueError(f"{flag} {name} is a {checkpoint.config.describes}, which has no tower for pictures.")
    if flag != "--pretrained-image" and isinstance(checkpoint.config, PaliGemmaConfig):
        raise ValueError(f"{flag} {name} is a PaliGemma, of which only the image tower fits: use --pretrained-image.")
    if flag != "--pretrained-image" and isinstance(checkpoint.config, ClassifierConfig):
        raise ValueError(
            f"{flag} {name} is a classifier, which has no text tower. Give its image tower by --pretrained-image."
        )
    if flag == "--pretrained-image":
        return Origin(name=name, checkpoint=checkpoint, pixels=_pixels(folder))
    try:
        processor = Processor.from_preset(preset)
    except FileNotFoundError as error:
        if recipe.data.tokenizer is None:
            raise ValueError(
                f"{flag} {name} brings no vocabulary ({error}). Give the one it was trained with by --tokenizer."
            ) from error
        return Origin(name=name, checkpoint=checkpoint, pixels=_pixels(folder))
    return Origin(name=name, checkpoint=checkpoint, pixels=processor.pixels, folder=folder)


def _pixels(folder: Path) -> FixedSize | NaFlex | None:
    try:
        return read_pixels(folder)
    except FileNotFoundError:
        return None
