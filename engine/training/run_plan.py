"""Plans of whole runs: a recipe with all that follows from it, resolved top down."""

from collections.abc import Mapping
from dataclasses import dataclass

from diptych.core.data.examples.preprocess import Preprocess
from diptych.core.training.recipe import Recipe
from diptych.engine.datasets.data_set import DataSet
from diptych.engine.datasets.open import with_data
from diptych.engine.training.checks import as_begun
from diptych.engine.training.defaults import with_start
from diptych.engine.training.plan import plan_examples, plan_stages, recipe_preprocess
from diptych.engine.training.planned_stage import PlannedStage
from diptych.engine.training.start import Start, start_of, towers_config
from diptych.engine.training.terms.stage_term import Terms
from diptych.models.siglip.config import PairConfig


@dataclass(frozen=True, kw_only=True)
class RunPlan:
    """What a run is going to do.

    Attributes:
        recipe: with what its beginning and its data decide where it said nothing.
        start: what its first stage begins from.
        data_set: what it learns from and is judged by; nothing of it is opened yet.
        preprocess: how pictures and captions become arrays, before the stages add to it.
        config: of the first stage's towers.
        planned, examples: the stages in order, and how the examples of each are made, by name.
    """

    recipe: Recipe
    start: Start
    data_set: DataSet
    preprocess: Preprocess
    config: PairConfig
    planned: Mapping[str, PlannedStage]
    examples: Mapping[str, Preprocess]


def plan_run(recipe: Recipe, terms: Terms) -> RunPlan:
    """The recipe -> its beginning -> its data set -> its towers and their inputs -> its stages.

    Raises:
        FileNotFoundError, ValueError, HubError: for a checkpoint that cannot be begun from, and for options, sizes and
            vocabularies that do not fit together.
    """
    start = start_of(recipe)
    recipe, data_set = with_data(as_begun(with_start(recipe, start, terms)))
    preprocess = recipe_preprocess(recipe, start, data_set)
    config = towers_config(recipe, start, preprocess)
    planned = plan_stages(recipe, config, terms)
    return RunPlan(
        recipe=recipe,
        start=start,
        data_set=data_set,
        preprocess=preprocess,
        config=config,
        planned=planned,
        examples=plan_examples(recipe, planned, preprocess, terms),
    )
