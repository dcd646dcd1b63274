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
from tests.oracle.siglip import LOG_LOGIT_SCALE, siglip, weight_shapes


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


OTHER_TOWERS = {
    # 22 px are padded by 2 and 3 for the first convolution, 6 px by 0 and 1 in the second stage.
    "bit": {"stage_depths": (1, 2), "width": 8, "num_groups": 4, "image_size": 22, "pre_activation": False},
    "bit, pre-activation": {
        "stage_depths": (2, 1), "width": 8, "num_groups": 8, "image_size": 22, "pre_activation": True,
        "variance_epsilon": 1e-8, "embed_dim": 16,
    },
    "the ViT baseline's": {
        "width": 16, "depth": 1, "mlp_dim": 24, "num_heads": 2, "patch_size": 4, "image_size": 14, "pooling": "gap",
        "positions": "sincos2d", "representation_width": 20,
    },
}  # fmt: skip


@pytest.mark.parametrize("name", OTHER_TOWERS)
def test_other_image_towers_agree(pool, name):
    """To 1e-5 of the norm of each embedding and gradient; in that of the scale, a sum, the pairs cancel."""
    vision = OTHER_TOWERS[name]
    text = {"width": 8, "num_heads": 1, "depth": 1, "mlp_dim": 7, "vocab_size": 5, "context_length": 2}
    config = {"vision": vision, "text": text | {"pooling": "last", "embed_dim": output_width(vision)}}
    weights, batch = draw_problem(config, seed=2, batch_size=6, logit_scale=5.0)
    expected = siglip(config, weights, batch).named()
    allowed = dict.fromkeys(expected, 1e-5) | {LOG_LOGIT_SCALE: 1e-4}
    for backend, reply in pool.ask("evaluate", config=config, weights=weights, batch=batch).items():
        check_answer(reply, expected, allowed, who=backend)


def output_width(vision: dict) -> int:
    widest = 4 * vision["width"] * 2 ** (len(vision.get("stage_depths", ())) - 1)
    return vision.get("embed_dim") or vision.get("representation_width") or widest


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
