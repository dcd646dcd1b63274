"""Fine-tuning of a GPT for a task: loss and updates against the oracle, what it begins from and what it leaves."""

import keras
import numpy as np
import pytest

from diptych import backends
from diptych.core.training.objectives import Objective
from diptych.core.training.optimizers import OpenAIAdam
from diptych.core.training.schedules import OpenAILinear
from diptych.engine.training.terms.answering import Answering
from diptych.engine.training.terms.language import Language
from diptych.models.siglip.student import Student
from tests.models.examples import numpy_of
from tests.models.gpt.small_double_heads import config_of, sequences_for
from tests.models.gpt.small_gpt import given_values
from tests.oracle.gpt import double_heads, openai_adam
from tests.oracle.optimizers import clip_by_global_norm

RATE, L2, STEPS, BATCH = 1e-2, 0.01, 4, 4


def batches_for(config):
    """Batches with the fields that training adds."""
    for number in range(STEPS):
        fields = sequences_for(config, batch=BATCH, seed=number)
        counted = np.arange(fields["token_ids"].shape[-1]) <= fields["extract"][..., None]
        seeds = np.arange(fields["extract"].size, dtype="int32").reshape(fields["extract"].shape)
        yield fields | {"token_weights": counted.astype("float32"), "dropout_seeds": seeds}


@pytest.mark.parametrize("layout", ["multiple_choice", "similarity"])
def test_updates_are_those_of_the_oracle(layout):
    config = config_of(layout)
    student = given_values(Student(config), seed=8)
    schedule = OpenAILinear(RATE, batch_size=BATCH, total_examples=STEPS * BATCH, warmup_examples=1)
    optimizer = OpenAIAdam(schedule, weight_decay=L2 * RATE)
    objective = Objective({"answering": Answering(), "language": Language()}, {"answering": 1.0, "language": 0.5})
    step = backends.train_step(student, objective, optimizer, clip_norm=1.0)
    weights = {weight.path: np.asarray(numpy_of(weight.value), "float64") for weight in student.weights}
    state: dict = {}
    for number, batch in enumerate(batches_for(config)):
        answer = double_heads(
            weights, batch, depth=2, num_heads=2, choices=bool(config.task.choices), language_weight=0.5
        )
        logs = step(batch)
        for name, expected in (
            ("loss", answer.loss),
            ("answering_loss", answer.task),
            ("language_loss", answer.language),
        ):
            np.testing.assert_allclose(float(keras.ops.convert_to_numpy(logs[name])), expected, rtol=1e-5)
        rate = RATE * min(1, number * BATCH) * (1 - number / STEPS)  # the first is 0, and moves the moments
        weights = openai_adam(weights, clip_by_global_norm(answer.gradients, 1.0), state, rate=rate, l2=L2)
    step.synchronize()
    for weight in student.weights:
        # A bias of keys, and one that all choices share, have gradients of mere rounding: Adam makes whole steps of it.
        if weight.path.endswith("qkv_bias") or (config.task.choices and weight.path == "classifier/bias"):
            continue
        np.testing.assert_allclose(
            numpy_of(weight.value), weights[weight.path], rtol=1e-4, atol=1e-5, err_msg=weight.path
        )
