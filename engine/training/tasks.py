"""The task of a recipe, by the losses that its stages weigh."""

from diptych.core.training.recipe import Recipe
from diptych.engine.training.answering_task import ANSWERS
from diptych.engine.training.classifier_task import CLASSES
from diptych.engine.training.pair_task import PAIRS
from diptych.engine.training.task import Task


def task_of(recipe: Recipe) -> Task:
    """Raises ValueError for a recipe of both kinds."""
    if recipe.weighs("answering"):
        return ANSWERS
    if not recipe.weighs("classification"):
        return PAIRS
    if mixed := sorted({name for stage in recipe.stages for name in stage.losses} - {"classification"}):
        raise ValueError(
            f"The loss classification trains an image tower with a head, and {mixed[0]} trains two towers: no model "
            "has both. Give each a run of its own, the second from the first one's model by --pretrained."
        )
    return CLASSES
