"""Plans of whole runs: a recipe with all that follows from it, resolved top down."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from diptych.core.training.recipe import Recipe
from diptych.engine.datasets.data_set import DataSet
from diptych.engine.training.checks import as_begun
from diptych.engine.training.plan import plan_examples, plan_stages
from diptych.engine.training.planned_stage import PlannedStage
from diptych.engine.training.start import Start
from diptych.engine.training.task import Task
from diptych.engine.training.tasks import task_of
from diptych.engine.training.terms.stage_term import Terms


@dataclass(frozen=True, kw_only=True)
class RunPlan:
    """What a run is going to do.

    Attributes:
        task: what kind of model it trains.
        recipe: with what its beginning and its data decide where it said nothing.
        start: what its first stage begins from.
        data_set: what it learns from and is judged by; nothing of it is opened yet.
        preprocess: how records become arrays, before the stages add to it.
        config: of the first stage's model.
        planned, examples: the stages in order, and how the examples of each are made, by name.
    """

    task: Task
    recipe: Recipe
    start: Start
    data_set: DataSet
    preprocess: Any
    config: Any
    planned: Mapping[str, PlannedStage]
    examples: Mapping[str, Any]


def plan_run(recipe: Recipe, terms: Terms) -> RunPlan:
    """The recipe -> its task -> its beginning -> its data set -> its towers and their inputs -> its stages.

    Raises:
        FileNotFoundError, ValueError, HubError: for a checkpoint that cannot be begun from, and for options, sizes and
            vocabularies that do not fit together.
    """
    task = task_of(recipe)
    start = task.start_of(recipe)
    recipe, data_set = task.with_data(as_begun(task.with_start(recipe, start, terms)))
    preprocess = task.preprocess(recipe, start, data_set)
    config = task.config(recipe, start, data_set, preprocess)
    planned = plan_stages(recipe, config, terms)
    return RunPlan(
        task=task,
        recipe=recipe,
        start=start,
        data_set=data_set,
        preprocess=preprocess,
        config=config,
        planned=planned,
        examples=plan_examples(recipe, planned, preprocess, terms, task.of_stage),
    )
