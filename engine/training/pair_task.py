"""The task of two towers: pictures and texts that find each other."""

from pathlib import Path
from typing import Any

from diptych.core.evaluation.calibration import fitted_bias
from diptych.core.training.learner import Learner
from diptych.core.training.recipe import Recipe
from diptych.core.training.signals import StopSignals
from diptych.engine.datasets.open import with_data
from diptych.engine.training.before import BEFORE
from diptych.engine.training.checks import missing_flags
from diptych.engine.training.defaults import with_start
from diptych.engine.training.evaluation import Evaluation
from diptych.engine.training.opening import opening_over, opening_planned
from diptych.engine.training.plan import pictures_of_stage, recipe_preprocess
from diptych.engine.training.retention import retention_of
from diptych.engine.training.saved_model import save_trained
from diptych.engine.training.start import Start, anew, described, set_scale_and_bias, start_of, towers_config
from diptych.engine.training.task import Task
from diptych.engine.training.terms.contrastive import implementation_name


def _judge(*judged: Any, folder: Path, beginning: Path, stop: StopSignals) -> Evaluation:
    recipe, *_, preprocess, student = judged
    evaluation = Evaluation(*judged)
    evaluation.retention = retention_of(recipe, student, preprocess, folder, stop)
    evaluation.kept_before = beginning / BEFORE
    return evaluation


def _settle(learner: Learner, recipe: Recipe, start: Start, evaluation: Evaluation) -> str:
    """Gives the loss its scale and bias, where they were a checkpoint's."""
    images, texts = evaluation.embed_first()

    def fitted() -> float | None:
        pairs, others = evaluation.pair_scores(images, texts)
        few = not pairs.size or not others.size
        bias = None if few else fitted_bias(pairs, others, batch_size=recipe.optimization.batch_size)
        return learner.placement.told(bias)[0]

    changed = set_scale_and_bias(learner.model, recipe, fitted) if start.checkpoint is not None else ""
    if learner.placement.writes:
        evaluation.judge_before(images, texts)
    return changed


PAIRS = Task(
    start_of=start_of,
    with_start=with_start,
    with_data=with_data,
    preprocess=recipe_preprocess,
    of_stage=pictures_of_stage,
    config=lambda recipe, start, data_set, preprocess: towers_config(recipe, start, preprocess),
    described=described,
    missing_flags=missing_flags,
    judge=_judge,
    anew=lambda recipe, start, config: anew(recipe, start),
    settle=_settle,
    save=save_trained,
    implementation=implementation_name,
    opening=opening_planned,
    turns=opening_over,
)
