"""The task of two towers: pictures and texts that find each other."""

from diptych.core.evaluation.calibration import fitted_bias
from diptych.core.training.learner import Learner
from diptych.core.training.recipe import Recipe
from diptych.engine.datasets.open import with_data
from diptych.engine.training.checks import missing_flags
from diptych.engine.training.defaults import with_start
from diptych.engine.training.evaluation import Evaluation
from diptych.engine.training.plan import recipe_preprocess
from diptych.engine.training.saved_model import save_trained
from diptych.engine.training.start import anew, described, set_scale_and_bias, start_of, towers_config
from diptych.engine.training.task import Task


def _settle(learner: Learner, recipe: Recipe, evaluation: Evaluation) -> str:
    """Gives the loss its scale and bias."""

    def fitted() -> float | None:
        pairs, others = evaluation.pair_scores()
        few = not pairs.size or not others.size
        return None if few else fitted_bias(pairs, others, batch_size=recipe.optimization.batch_size)

    return set_scale_and_bias(learner.model, recipe, fitted)


PAIRS = Task(
    start_of=start_of,
    with_start=with_start,
    with_data=with_data,
    preprocess=recipe_preprocess,
    config=lambda recipe, start, data_set, preprocess: towers_config(recipe, start, preprocess),
    described=described,
    missing_flags=missing_flags,
    judge=Evaluation,
    anew=lambda recipe, start, config: anew(recipe, start),
    settle=_settle,
    save=save_trained,
)
