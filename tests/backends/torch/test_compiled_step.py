"""A compiled step is the eager step: the same losses, gradients, averages and centres, for every shape of batches."""

import os

import keras
import numpy as np
import pytest

from diptych import backends
from diptych.core.training.ema import Ema
from diptych.core.training.optimizers import AdamW
from tests.engine.training.small_student import ALL, batch, objective, student

# Everything but the writing of machine code, which takes a minute.
COMPILER = "inductor" if os.environ.get("DIPTYCH_THOROUGH") else "aot_eager"


def trained(compiler, sizes, **arguments):
    """Logs of each step, and all that the steps changed."""
    model = student()
    goal, teacher = objective(model, ALL, 0.9)
    optimizer, average = AdamW(1e-2, epsilon=1e-2), Ema(model.trainable_variables, decay=0.9)
    step = backends.train_step(
        model, goal, optimizer, teacher=teacher, ema=average, clip_norm=1.0, compiler=compiler, **arguments
    )
    logs = [step(batch(seed, size)) for seed, size in enumerate(sizes)]
    kept = {variable.path: variable for variable in model.weights} | average.named() | goal.variables
    kept |= {f"teacher/{name}": variable for name, variable in teacher.named().items()}
    numbers = [{name: float(keras.ops.convert_to_numpy(x)) for name, x in log.items()} for log in logs]
    return numbers, {name: np.array(keras.ops.convert_to_numpy(v.value)) for name, v in kept.items()}, step


@pytest.mark.parametrize(("sizes", "pieces"), [((8, 8, 4, 8), 1), ((8, 8), 2)])
def test_it_trains_as_the_eager_step_does(sizes, pieces):
    eager, compiled = (trained(compiler, sizes, micro_batches=pieces) for compiler in (None, COMPILER))
    assert (eager[2].compilations, compiled[2].compilations) == (0, len(set(sizes)))
    for one, other in zip(eager[0], compiled[0], strict=True):
        assert one.keys() == other.keys()
        for name, value in one.items():
            assert other[name] == pytest.approx(value, rel=1e-4, abs=1e-6), name
    for name, value in eager[1].items():
        np.testing.assert_allclose(compiled[1][name], value, rtol=1e-4, atol=1e-6, err_msg=name)
