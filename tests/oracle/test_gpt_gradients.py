"""The hand-derived gradients of GPT-1's two losses are those that finite differences give."""

import numpy as np
import pytest

from tests.oracle.finite_differences import check_gradient
from tests.oracle.gpt import double_heads

WIDTH, VOCABULARY, LENGTH = 4, 7, 5


def problem(*, choices: bool, seed: int = 0):
    rng = np.random.default_rng(seed)
    shapes = {
        "decoder/token_embedding/embedding": (VOCABULARY, WIDTH),
        "decoder/position_embedding/embedding": (LENGTH + 1, WIDTH),
        "classifier/kernel": (WIDTH, 1 if choices else 3),
        "classifier/bias": (1 if choices else 3,),
    }
    for part, shape in {"attention/qkv": (WIDTH, 3 * WIDTH), "attention/out": (WIDTH, WIDTH), "mlp/in": (WIDTH, 6),
                        "mlp/out": (6, WIDTH)}.items():  # fmt: skip
        shapes |= {f"decoder/block_00/{part}_kernel": shape, f"decoder/block_00/{part}_bias": shape[1:]}
    for norm in ("attention_norm", "mlp_norm"):
        shapes |= {f"decoder/block_00/{norm}/{kind}": (WIDTH,) for kind in ("scale", "bias")}
    batch = {
        "token_ids": rng.integers(0, VOCABULARY, (3, 2, LENGTH)),
        "extract": rng.integers(1, LENGTH, (3, 2)),
        "target": rng.dirichlet(np.ones(2 if choices else 3), 3),
    }
    return {path: rng.normal(size=shape) for path, shape in shapes.items()}, batch


@pytest.mark.parametrize("choices", [True, False])
def test_gradients_of_both_losses(choices):
    weights, batch = problem(choices=choices)
    options = {"depth": 1, "num_heads": 2, "choices": choices, "language_weight": 0.5}
    answer = double_heads(weights, batch, **options)
    assert answer.loss == pytest.approx(answer.task + 0.5 * answer.language)
    # A bias that all choices share changes none of their probabilities.
    assert all(np.any(gradient) for path, gradient in answer.gradients.items() if path != "classifier/bias")
    check_gradient(
        lambda point: double_heads(point, batch, **options).loss, weights, answer.gradients, np.random.default_rng(1)
    )
