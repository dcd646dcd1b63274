"""Weights after 1 and after 20 steps of the training step: every backend agrees with the oracle."""

import numpy as np
from hypothesis import example, given
from hypothesis import strategies as st

from tests.agreement.compare import check_training
from tests.agreement.oracle_side import trajectory, well_conditioned_problem
from tests.agreement.strategies import agreement_settings, conditionings, configs, optimizers
from tests.oracle.examples import draw_batch
from tests.oracle.siglip import LOGIT_BIAS
from tests.tolerances import LIMITS

STEPS, BATCHES = 20, 5

CONFIG = {
    "vision": {
        "width": 40, "num_heads": 5, "depth": 1, "mlp_dim": 33, "pooling": "map", "patch_size": 4, "image_size": 14,
        "embed_dim": None,
    },
    "text": {
        "width": 24, "num_heads": 2, "depth": 1, "mlp_dim": 33, "pooling": "last", "vocab_size": 50,
        "context_length": 7,
        "embed_dim": 40,
    },
    "init_logit_scale": 10.0,
    "init_logit_bias": -10.0,
}  # fmt: skip


def draw_run(config, conditioning, *, dtype="float32", batch_size=8, captions=1) -> tuple[dict, list[dict]]:
    """Weights, and twenty batches: five that come around, so that tokens come and go."""
    weights, first = well_conditioned_problem(
        config, dtype=dtype, batch_size=batch_size, captions=captions, **conditioning
    )
    rng = np.random.default_rng(conditioning["seed"] + 1)
    batches = [first] + [draw_batch(config, rng, batch_size=batch_size, captions=captions) for _ in range(BATCHES - 1)]
    return weights, [batches[step % BATCHES] for step in range(STEPS)]


def _check(pool, config, dtype, loss, conditioning, micro_batches, **training):
    weights, batches = draw_run(config, conditioning, dtype=dtype)
    training |= {"loss": loss, "dtype": dtype, "keep": (1, STEPS)}
    expected = trajectory(config, weights, batches, **training)
    request = {"config": config, "weights": weights, "batches": batches, "micro_batches": micro_batches}
    for backend, reply in pool.ask("train", **request, **training).items():
        check_training(reply, expected, LIMITS[dtype], who=f"{backend}, {dtype}, {loss}")


ADAFACTOR = {"name": "adafactor", "learning_rate": 1e-3, "weight_decay": 1e-2, "beta_2_cap": 0.95}
LION = {"name": "lion", "learning_rate": 1e-4, "weight_decay": 1e-3}
SIMPLE = {"seed": 7, "logit_scale": 5.0, "share": 0.35}


@agreement_settings(examples=3)
@given(
    config=configs(largest_depth=1),
    conditioning=conditionings(),
    optimizer=optimizers(),
    loss=st.sampled_from(["sigmoid", "softmax"]),
    clip_norm=st.sampled_from([None, 0.1]),
    ema_decay=st.sampled_from([None, 0.9]),
    micro_batches=st.sampled_from([1, 2]),
)
@example(CONFIG, SIMPLE, ADAFACTOR, "sigmoid", 0.1, 0.9, 1)
@example(CONFIG, SIMPLE, LION, "softmax", None, None, 2)
def test_float32_training_agrees(pool, config, conditioning, optimizer, loss, clip_norm, ema_decay, micro_batches):
    training = {"optimizer": optimizer, "clip_norm": clip_norm, "ema_decay": ema_decay}
    _check(pool, config, "float32", loss, conditioning, micro_batches, **training)


@agreement_settings(examples=1)
@given(config=configs(largest_depth=1), conditioning=conditionings(), optimizer=optimizers())
def test_bfloat16_training_agrees(pool, config, conditioning, optimizer):
    _check(pool, config, "mixed_bfloat16", "sigmoid", conditioning, 1, optimizer=optimizer, clip_norm=1.0)


def test_a_step_that_is_not_finite_changes_nothing(pool):
    weights, batches = draw_run(CONFIG, SIMPLE)
    weights[LOGIT_BIAS] = np.asarray(np.nan, np.float32)
    training = {"optimizer": ADAFACTOR, "clip_norm": 0.1, "ema_decay": 0.9, "loss": "sigmoid", "keep": (1,)}
    for reply in pool.ask("train", config=CONFIG, weights=weights, batches=batches[:1], **training).values():
        assert reply["logs"][0]["finite"] == 0
        for path, value in weights.items():
            np.testing.assert_array_equal(reply["weights"][1][path], value)
            np.testing.assert_array_equal(reply["averages"][path], value)
