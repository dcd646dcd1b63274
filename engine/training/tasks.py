"""The task of a recipe, by the losses that its stages weigh."""

from collections.abc import Mapping

from diptych.core.training.recipe import Recipe
from diptych.engine.training.classifier_task import CLASSES
from diptych.engine.training.language_task import LANGUAGE
from diptych.engine.training.pair_task import PAIRS
from diptych.engine.training.prompted_task import PROMPTED
from diptych.engine.training.task import Task

ALONE: Mapping[str, tuple[Task, str]] = {
    "classification": (CLASSES, "an image tower with a head"),
    "language": (LANGUAGE, "a language model"),
    "suffix": (PROMPTED, "a PaliGemma"),
}
"""Losses that no other may stand beside: the task of each, and what it trains."""


def task_of(recipe: Recipe) -> Task:
    """Raises ValueError for a recipe of several kinds."""
    losses = {name for stage in recipe.stages for name in stage.losses}
    alone = next((name for name in ALONE if name in losses), None)
    if alone is None:
        return PAIRS
    task, trained = ALONE[alone]
    if mixed := sorted(losses - {alone}):
        other = ALONE[mixed[0]][1] if mixed[0] in ALONE else "two towers"
        raise ValueError(
            f"The loss {alone} trains {trained}, and {mixed[0]} trains {other}: no model has both. Give each a run of "
            "its own, the second from the first one's model by --pretrained."
        )
    return task
