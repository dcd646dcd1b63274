"""Outputs, loss and all gradients: every backend agrees with the oracle, and with every other."""

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.agreement.compare import check_answer, check_values, named
from tests.agreement.oracle_side import answer_and_tolerances, well_conditioned_problem
from tests.agreement.strategies import agreement_settings, batch_shapes, conditionings, configs
from tests.oracle.examples import draw_problem
from tests.oracle.siglip import weight_shapes


def _check(pool, config, dtype, batch_shape, drawn):
    for conditioning in drawn:
        weights, batch = well_conditioned_problem(config, dtype=dtype, **batch_shape, **conditioning)
        for loss in ("sigmoid", "softmax"):
            expected, allowed = answer_and_tolerances(config, weights, batch, loss=loss, dtype=dtype)
            replies = pool.ask("evaluate", config=config, weights=weights, batch=batch, loss=loss, dtype=dtype)
            for backend, reply in replies.items():
                check_answer(reply, expected, allowed, who=f"{backend}, {loss}, {dtype}")
            for first, second in combinations(replies, 2):
                check_values(
                    named(replies[first]), named(replies[second]), allowed, who=f"{first} and {second}, {loss}"
                )


@agreement_settings(examples=6)
@given(config=configs(), batch_shape=batch_shapes(), drawn=st.lists(conditionings(), min_size=3, max_size=3))
def test_float32_agrees(pool, config, batch_shape, drawn):
    _check(pool, config, "float32", batch_shape, drawn)


# Gradients of two images or of eight dimensions cancel to less than the three digits that bfloat16 keeps.
@agreement_settings(examples=3)
@given(
    config=configs(smallest_width=24),
    batch_shape=batch_shapes(smallest=8),
    drawn=st.lists(conditionings(), min_size=3, max_size=3),
)
def test_bfloat16_compute_agrees(pool, config, batch_shape, drawn):
    _check(pool, config, "mixed_bfloat16", batch_shape, drawn)


@agreement_settings(examples=4)
@given(config=configs(), seed=st.integers(0, 2**31 - 1))
def test_the_same_seed_gives_the_same_bits(pool, config, seed):
    replies = pool.ask("initial_weights", config=config, seed=seed)
    first, *others = replies.values()
    assert {path: value.shape for path, value in first.items()} == weight_shapes(config)
    for other in others:
        assert list(other) == list(first)
        for path, value in first.items():
            assert value.dtype == other[path].dtype == np.float32
            assert value.tobytes() == other[path].tobytes(), path


def test_another_seed_gives_other_weights(pool):
    config = {
        "vision": {"width": 8, "num_heads": 1, "depth": 1, "mlp_dim": 7, "patch_size": 4, "image_size": 8},
        "text": {"width": 8, "num_heads": 1, "depth": 1, "mlp_dim": 7, "vocab_size": 5, "context_length": 2},
    }
    one, other = (pool.ask("initial_weights", config=config, seed=seed) for seed in (0, 1))
    drawn = [path for path in one[pool.backends[0]] if path.endswith(("kernel", "embedding", "probe"))]
    assert len(drawn) > 10
    for backend in pool.backends:
        assert not [path for path in drawn if np.array_equal(one[backend][path], other[backend][path])]


def test_weights_of_another_model_are_refused(pool):
    config = {
        "vision": {"width": 8, "num_heads": 1, "depth": 1, "mlp_dim": 7, "patch_size": 4, "image_size": 8,
            "pooling": "map"},
        "text": {
            "width": 8, "num_heads": 1, "depth": 1, "mlp_dim": 7, "vocab_size": 5, "context_length": 2,
            "pooling": "last",
        },
    }  # fmt: skip
    weights, batch = draw_problem(config, seed=0, batch_size=2, logit_scale=5.0)
    del weights["text/encoder/norm/scale"]
    with pytest.raises(RuntimeError, match="Only in the model: \\['text/encoder/norm/scale'\\]"):
        pool.ask("evaluate", config=config, weights=weights, batch=batch)
