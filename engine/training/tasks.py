"""The task of a recipe, by the losses that its stages weigh."""

from collections.abc import Mapping

from diptych.core.training.recipe import Recipe
from diptych.engine.training.answering_task import ANSWERS
from diptych.engine.training.classifier_task import CLASSES
from diptych.engine.training.language_task import LANGUAGE
from diptych.engine.training.pair_task import PAIRS
from diptych.engine.training.prompted_task import PROMPTED
from diptych.engine.training.task import Task

ALONE: Mapping[str, tuple[Task, str, tuple[str, ...]]] = {
    "classification": (CLASSES, "an image tower with a head", ()),
    "answering": (ANSWERS, "a language model with a head", ("language",)),
    "language": (LANGUAGE, "a language model", ()),
    "suffix": (PROMPTED, "a PaliGemma", ()),
}
"""Losses beside which no other may stand, or certain ones: the task of each, what it trains, and those."""


def task_of(recipe: Recipe) -> Task:
    """Raises ValueError for a recipe of several kinds."""
    losses = {name for stage in recipe.stages for name in stage.losses}
    alone = next((name for name in ALONE if name in losses), None)
    if alone is None:
        return PAIRS
    task, trained, beside = ALONE[alone]
    if mixed := sorted(losses - {alone, *beside}):
        other = ALONE[mixed[0]][1] if mixed[0] in ALONE else "two towers"
        raise ValueError(
            f"The loss {alone} trains {trained}, and {mixed[0]} trains {other}: no model has both. Give each a run of "
            "its own, the second from the first one's model by --pretrained."
        )
    return task
