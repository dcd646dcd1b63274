"""The task of two towers: pictures and texts that find each other."""

from pathlib import Path

from diptych.core.data.examples.preprocess import Preprocess
from diptych.core.evaluation.calibration import fitted_bias
from diptych.core.training.learner import Learner
from diptych.core.training.recipe import Recipe
from diptych.core.training.signals import StopSignals
from diptych.engine.datasets.data_set import DataSet, Sources
from diptych.engine.datasets.open import with_data
from diptych.engine.training.checks import missing_flags
from diptych.engine.training.defaults import with_start
from diptych.engine.training.evaluation import Evaluation, what_warnings_ask
from diptych.engine.training.plan import recipe_preprocess
from diptych.engine.training.planned_stage import PlannedStage
from diptych.engine.training.retention import retention_of
from diptych.engine.training.saved_model import save_trained
from diptych.engine.training.start import Start, anew, described, set_scale_and_bias, start_of, towers_config
from diptych.engine.training.task import Task
from diptych.models.siglip.student import Student


def _judge(
    recipe: Recipe,
    planned: PlannedStage,
    data_set: DataSet,
    sources: Sources,
    preprocess: Preprocess,
    student: Student,
    folder: Path,
    stop: StopSignals,
) -> Evaluation:
    """What evaluates a student, with the retention set of its run."""
    evaluation = Evaluation(recipe, planned, data_set, sources, preprocess, student)
    evaluation.retention = retention_of(recipe, student, preprocess, folder, stop)
    return evaluation


def _settle(learner: Learner, recipe: Recipe, start: Start, evaluation: Evaluation, before: Path) -> str:
    """Gives the loss its scale and bias, and judges what the checkpoint finds and knows."""
    images, texts = evaluation.embed_first()

    def fitted() -> float | None:
        pairs, others = evaluation.pair_scores(images, texts)
        few = not pairs.size or not others.size
        return None if few else fitted_bias(pairs, others, batch_size=recipe.optimization.batch_size)

    whole = start.checkpoint is not None
    changed = set_scale_and_bias(learner.model, recipe, fitted) if whole else ""
    evaluation.judge_before(images, texts).save(before)
    return changed


PAIRS = Task(
    start_of=start_of,
    with_start=with_start,
    with_data=with_data,
    preprocess=recipe_preprocess,
    config=lambda recipe, start, data_set, preprocess: towers_config(recipe, start, preprocess),
    described=described,
    missing_flags=missing_flags,
    judge=_judge,
    warnings_ask=what_warnings_ask,
    anew=lambda recipe, start, config: anew(recipe, start),
    settle=_settle,
    save=save_trained,
)
