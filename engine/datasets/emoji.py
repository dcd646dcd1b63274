"""The embedded emoji: drawings by twelve designers, named in 36 languages; one designer is kept to be judged by."""

import numpy as np

from diptych.core.data.emoji import (
    GROUPS,
    HELD_OUT_DESIGNER,
    LICENCE,
    TOKENIZER_PATH,
    EmojiSource,
    evaluation_set,
    group_prompts,
)
from diptych.core.data.records import Source
from diptych.core.data.sources.open import EMBEDDED, open_source
from diptych.core.evaluation.pair_set import Classes
from diptych.core.training.recipe import Data
from diptych.engine.datasets.data_set import DataSet, Sources
from diptych.engine.datasets.emoji_fairness import fairness_sets
from diptych.engine.datasets.own import HELD_OUT, open_captioned


def emoji(data: Data) -> DataSet:
    """Judged on drawings by a designer never trained on, of concepts that were ("new drawings") and that were not ("new
    concepts").
    """

    def sources(seed: int) -> Sources:
        if data.val_data is not None:
            return Sources(train=open_source(EMBEDDED), held_out={HELD_OUT: open_captioned(data.val_data, data)})
        return Sources(train=open_source(EMBEDDED), held_out=evaluation_sources())

    return DataSet(
        name=f"emoji by all designers but {HELD_OUT_DESIGNER}",
        sources=sources,
        tokenizer=TOKENIZER_PATH,
        context_length=12,
        captions_per_image=6,
        english_share=0.15,
        augment=True,
        opening_share=3 / 8,
        most_evaluated=None if data.val_data is None else 2_000,
        classes=emoji_groups,
        fairness_sets=fairness_sets,
        licence=LICENCE,
        example_queries=("red apple", "schwarzes Herz", "トラの顔", "ज्वालामुखी"),
    )


def evaluation_sources() -> dict[str, Source]:
    """The held-out designer's drawings, by name: of concepts that are trained on, and of others."""
    return {"New drawings": evaluation_set("train"), "New concepts": evaluation_set("held_out")}


def emoji_groups(source: Source) -> Classes | None:
    """The nine groups of the emoji standard; a group's prompts are the English names of its concepts in the training
    split.
    """
    if not isinstance(source, EmojiSource):
        return None
    names = group_prompts()
    groups = [source.concept(index).group for index in range(len(source))]
    return Classes(
        name="groups",
        names=[group.replace("-", " & ", 1) for group in GROUPS],
        prompts=[names[group] for group in GROUPS],
        labels=np.array([GROUPS.index(group) for group in groups], np.int64),
    )
