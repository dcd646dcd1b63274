"""A run that begins from a checkpoint, in a worker: what its steps were given, and what they made of the weights."""

from pathlib import Path

import numpy as np

from diptych.core.training.run_folder import RunFolder
from diptych.core.training.signals import StopSignals
from diptych.engine.command_line import parse_recipe
from diptych.engine.training.build import build_learner
from diptych.engine.training.run_plan import plan_run
from diptych.engine.training.staged_run import begin
from diptych.engine.training.terms import TERMS
from diptych.recipes.siglip import siglip


class _Recorded:
    """A step that keeps what it was called with."""

    def __init__(self, step):
        self._step, self.batches = step, []

    def __call__(self, batch: dict, asks: tuple[float, ...]) -> dict:
        self.batches.append({name: np.array(value) for name, value in batch.items()})
        return self._step(batch, asks)

    def __getattr__(self, name: str):
        return getattr(self._step, name)


def fine_tune(*, checkpoint: str, photos: str, folder: str, flags: list[str]) -> dict:
    """The steps' batches and learning rates in order, and the weights after them by path."""
    arguments = ["--pretrained", checkpoint, "--train-data", photos, "--run-dir", folder, "--no-tensorboard", *flags]
    plan = plan_run(parse_recipe(siglip(), arguments, program="siglip", description=""), TERMS)
    (planned,) = plan.planned.values()
    source = plan.data_set.sources(0).train
    with RunFolder(Path(folder)) as run_folder, StopSignals() as stop:
        learner = build_learner(plan.recipe, planned, plan.examples["training"], source, run_folder, TERMS)
        begin(learner, plan.start.weights(), planned)
        learner.step = _Recorded(learner.step)
        learner.train(stop)
        rates = [learner.optimizer.rate_at(update) for update in range(learner.updates_done)]
        weights = {path: np.array(variable) for path, variable in _arrays(learner.groups()["weights"]).items()}
    return {"batches": learner.step.batches, "rates": rates, "weights": weights}


def _arrays(variables) -> dict[str, np.ndarray]:
    import keras

    return {path: keras.ops.convert_to_numpy(variable.value) for path, variable in variables.items()}
