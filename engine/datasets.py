"""Which pairs a recipe trains on and which it is judged by."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from diptych.core.data.emoji import (
    GROUPS,
    HELD_OUT_DESIGNER,
    TOKENIZER_PATH,
    EmojiSource,
    concepts,
    evaluation_set,
)
from diptych.core.data.emoji.concepts import SCENE_TOKENIZER_PATH
from diptych.core.data.emoji.scenes import SceneSource, scene_evaluation_set
from diptych.core.data.examples.augmentation import Augmentation
from diptych.core.data.examples.preprocess import Preprocess
from diptych.core.data.records import Source
from diptych.core.data.sources.open import EMBEDDED, NOISY_SCENES, SCENES, WIDE_SCENES, open_source
from diptych.core.data.sources.subset import Subset
from diptych.core.evaluation.pair_set import Classes, PairSet, read_pairs
from diptych.core.training.recipe import Data

MOST_EVALUATED = 2_000
TRAINING_SCENES, EVALUATION_SCENES = 1_000_000, 500
SCENE_SETTINGS: dict[str, Any] = {
    "concepts": 27,
    "objects": (1, 2),
    "scale": (0.35, 0.65),
    "size": (64, 64),
    "grounds": ("flat", "gradient"),
}
"""Scenes that tiny towers learn in minutes: three things of each group of the emoji standard, one or two of them, large, on calm grounds."""
SCENE_DESIGNERS = ("noto", "emojione", "fluent_flat", "fxemoji")
SCENE_SHAPES: dict[str, tuple[float, float] | None] = {SCENES: None, WIDE_SCENES: (0.2, 5.0), NOISY_SCENES: None}
"""Name of the data -> range of the pictures' width against their height; None for squares."""
WRONG_CAPTIONS = {NOISY_SCENES: 0.5}
"""Name of the data -> share of training pictures that have another's captions."""
EVALUATION_SEED = 1 << 32  # apart from any that training takes by default


@dataclass(frozen=True, kw_only=True)
class Pairs:
    """A source to train on, and named sources to evaluate on; `emoji` says that the latter have groups and concepts."""

    name: str
    train: Source
    held_out: dict[str, Source]
    emoji: bool

    def describe(self) -> str:
        """One line for people."""
        sets = ", ".join(f"{len(source):,} {name.lower()}" for name, source in self.held_out.items())
        return f"Data: {self.name}, {len(self.train):,} records to train on; judged on {sets}"

    def evaluation_sets(self, preprocess: Preprocess, *, sequence_length: int | None = None) -> list[PairSet]:
        """The held-out sources, decoded; the first one makes the headline. NaFlex towers need a sequence length."""
        return [
            read_pairs(
                source,
                preprocess,
                name=name,
                most_records=None if self.emoji else MOST_EVALUATED,
                classes=emoji_groups(source) if isinstance(source, EmojiSource) else None,
                sequence_length=sequence_length,
            )
            for name, source in self.held_out.items()
        ]


def open_pairs(data: Data) -> Pairs:
    """Opens what the recipe names.

    The embedded emoji are judged on drawings by a designer never trained on, of concepts that were ("new drawings") and of
    concepts that were not ("new concepts"). Other data are judged on --val-data, or on a fraction held out by key.
    """
    drawn, aspects = data.train_data in SCENE_SHAPES, SCENE_SHAPES.get(data.train_data)
    if drawn:
        source: Source = training_scenes(aspects=aspects, wrong_captions=WRONG_CAPTIONS.get(data.train_data, 0.0))
    else:
        source = open_source(data.train_data)
    if data.val_data is not None:
        held_out = {"Held-out pairs": open_source(data.val_data)}
    elif drawn:
        held_out = {"New scenes": evaluation_scenes(aspects=aspects)}
    elif data.train_data == EMBEDDED:
        held_out = {"New drawings": evaluation_set("train"), "New concepts": evaluation_set("held_out")}
    else:
        held_out = {"Held-out pairs": Subset(source, fraction=data.val_fraction, held_out=True)}
        source = Subset(source, fraction=data.val_fraction, held_out=False)
        if not len(held_out["Held-out pairs"]):
            raise ValueError(
                f"No record of {data.train_data} falls into the held-out {data.val_fraction:.0%}. Raise --val-fraction or "
                "give --val-data."
            )
    name = f"emoji by all designers but {HELD_OUT_DESIGNER}" if data.train_data == EMBEDDED else data.train_data
    return Pairs(
        name=name, train=source, held_out=held_out, emoji=data.train_data == EMBEDDED and data.val_data is None
    )


def training_scenes(**settings: Any) -> SceneSource:
    """Scenes of four designers' drawings; `settings` as for `SceneSource`."""
    return SceneSource(**{"length": TRAINING_SCENES, "designers": SCENE_DESIGNERS, **SCENE_SETTINGS, **settings})


def evaluation_scenes(**settings: Any) -> SceneSource:
    """Scenes of the held-out designer's drawings of the concepts that training scenes show; `settings` as for `SceneSource`."""
    return scene_evaluation_set(**{"length": EVALUATION_SCENES, "seed": EVALUATION_SEED, **SCENE_SETTINGS, **settings})


def default_tokenizer(data: Data) -> Path:
    """The vocabulary that goes with the data where none is named."""
    return SCENE_TOKENIZER_PATH if data.train_data in SCENE_SHAPES else TOKENIZER_PATH


def augmentation_for(data: Data, image_size: int) -> Augmentation | None:
    """The random changes of training pictures."""
    return Augmentation() if data.augment else None


def emoji_groups(source: EmojiSource) -> Classes:
    """The nine groups of the emoji standard; a group's prompts are the English names of its concepts in the training split."""
    names: dict[str, list[str]] = {group: [] for group in GROUPS}
    for concept in concepts():
        if concept.split == "train":
            names[concept.group].append(concept.names["en"])
    groups = [source.concept(index).group for index in range(len(source))]
    return Classes(
        name="groups",
        names=[group.replace("-", " & ", 1) for group in GROUPS],
        prompts=[names[group] for group in GROUPS],
        labels=np.array([GROUPS.index(group) for group in groups], np.int64),
    )
