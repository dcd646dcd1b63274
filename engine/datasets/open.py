"""The data set that a recipe asks for, and the recipe with all that follows from it."""

from collections.abc import Callable, Mapping
from dataclasses import replace

from diptych.core.data.sources.open import EMBEDDED, LINES, NOISY_SCENES, SCENES, WIDE_SCENES
from diptych.core.training.recipe import Data, Recipe
from diptych.engine.datasets.data_set import DataSet
from diptych.engine.datasets.emoji import emoji
from diptych.engine.datasets.lines import lines
from diptych.engine.datasets.own import own
from diptych.engine.datasets.scenes import noisy_scenes, scenes, wide_scenes

DATA_SETS: Mapping[str, Callable[[Data], DataSet]] = {
    EMBEDDED: emoji,
    SCENES: scenes,
    WIDE_SCENES: wide_scenes,
    NOISY_SCENES: noisy_scenes,
    LINES: lines,
}
"""Data sets by name; anything else is somebody's own."""


def known_data_set(name: str) -> DataSet | None:
    """The data set that diptych knows by a name, None for another."""
    return DATA_SETS[name](Data(train_data=name)) if name in DATA_SETS else None


def with_data(recipe: Recipe) -> tuple[Recipe, DataSet]:
    """The data set that a recipe names, and the recipe with what the data decides where it said nothing."""
    data = recipe.data
    if data.balance is not None and data.train_data in DATA_SETS:
        raise ValueError(f"--balance chooses among records of your own data; {data.train_data} has none to leave out.")
    data_set = DATA_SETS.get(data.train_data, own)(data)
    opening = int(recipe.optimization.examples * data_set.opening_share)
    resolved = replace(
        data,
        context_length=data.context_length or data_set.context_length,
        captions_per_image=data.captions_per_image or data_set.captions_per_image,
        english_share=data_set.english_share if data.english_share is None else data.english_share,
        augment=data_set.augment if data.augment is None else data.augment,
        opening_examples=opening if data.opening_examples is None else data.opening_examples,
    )
    return replace(recipe, data=resolved), data_set
