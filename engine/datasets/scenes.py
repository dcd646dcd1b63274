"""The embedded scenes: pictures composed of emoji, whose captions name their things and whose boxes are known."""

from typing import Any

import numpy as np

from diptych.core.data.emoji.concepts import LICENCE, SCENE_TOKENIZER_PATH
from diptych.core.data.emoji.scenes import SEPARATOR, SceneSource, scene_evaluation_set
from diptych.core.evaluation.pair_set import PairSet
from diptych.core.training.recipe import Data
from diptych.engine.datasets.data_set import DataSet, Sources
from diptych.engine.datasets.own import HELD_OUT, open_captioned

TRAINING_SCENES, EVALUATION_SCENES = 1_000_000, 500
SETTINGS: dict[str, Any] = {
    "concepts": 27,
    "objects": (1, 2),
    "scale": (0.35, 0.65),
    "size": (64, 64),
    "grounds": ("flat", "gradient"),
}
"""Scenes that tiny towers learn in minutes: three things of each group of the emoji standard, one or two of them,
large, on calm grounds.
"""
DESIGNERS = ("noto", "emojione", "fluent_flat", "fxemoji")
EVALUATION_SEED = 1 << 32  # apart from any that training takes by default
WIDE = (0.2, 5.0)
WRONG_CAPTIONS = 0.5


def scenes(data: Data, *, aspects: tuple[float, float] | None = None, wrong_captions: float = 0.0) -> DataSet:
    """Judged on scenes of drawings by a designer never trained on.

    Args:
        aspects: range of the pictures' width against their height; None for squares.
        wrong_captions: share of training pictures that have another's captions.
    """

    def sources(seed: int) -> Sources:
        train = training_scenes(aspects=aspects, wrong_captions=wrong_captions)
        if data.val_data is not None:
            return Sources(train=train, held_out={HELD_OUT: open_captioned(data.val_data, data)})
        return Sources(train=train, held_out={"New scenes": evaluation_scenes(aspects=aspects)})

    return DataSet(
        name=data.train_data,
        sources=sources,
        tokenizer=SCENE_TOKENIZER_PATH,
        context_length=16,
        english_share=0.5,
        alike=same_words,
        shows_scenes=data.val_data is None,
        aspects=aspects,
        licence=LICENCE,
    )


def wide_scenes(data: Data) -> DataSet:
    """Scenes of extreme aspect."""
    return scenes(data, aspects=WIDE)


def noisy_scenes(data: Data) -> DataSet:
    """Scenes of which half have another's captions."""
    return scenes(data, wrong_captions=WRONG_CAPTIONS)


def training_scenes(**settings: Any) -> SceneSource:
    """Scenes of four designers' drawings; `settings` as for `SceneSource`."""
    return SceneSource(**{"length": TRAINING_SCENES, "designers": DESIGNERS, **SETTINGS, **settings})


def evaluation_scenes(**settings: Any) -> SceneSource:
    """Scenes of the held-out designer's drawings of the concepts that training scenes show, and of three flags that the
    designers of those have not drawn; `settings` as for `SceneSource`.
    """
    return scene_evaluation_set(**{"length": EVALUATION_SCENES, "seed": EVALUATION_SEED, **SETTINGS, **settings})


def same_words(pairs: PairSet) -> np.ndarray:
    """A label for each picture, int64; pictures that a language describes by the same words in any order have one
    label.

    Among some hundred scenes of a few dozen things several show the same ones, and any of those is right.
    """
    words = {
        int(pairs.caption_labels[place]): tuple(sorted(pairs.captions[place].split(SEPARATOR)))
        for place in pairs.in_language(pairs.languages[0])
    }
    known: dict[object, int] = {}
    return np.array([known.setdefault(words.get(place, place), len(known)) for place in range(len(pairs.images))])
