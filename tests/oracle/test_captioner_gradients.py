"""The captioning decoder's hand-derived gradients are those that finite differences give."""

import numpy as np
import pytest

from tests.oracle.captioner import captioner, cross_entropy, masked_attention
from tests.oracle.captioner_examples import draw_captioner_problem, weight_shapes
from tests.oracle.finite_differences import check_gradient

CONFIG = {
    "width": 6, "depth": 2, "mlp_dim": 7, "num_heads": 2, "vocab_size": 9, "context_length": 5, "encoder_width": 4,
    "use_bias": False, "tie_embeddings": False,
}  # fmt: skip
CONFIGS = {
    "reference": CONFIG,
    "biases": CONFIG | {"use_bias": True, "depth": 1, "num_heads": 3},
    "tied": CONFIG | {"tie_embeddings": True},
}


@pytest.mark.parametrize("name", CONFIGS)
def test_gradient_of_the_whole_decoder(name):
    config = CONFIGS[name]
    weights, batch = draw_captioner_problem(config, seed=3, batch_size=3, tasks=2, length=4)
    assert 0 < batch["parallel"].sum() < batch["parallel"].size
    assert not batch["encoder_mask"].all()
    answer = captioner(config, weights, batch)
    assert set(answer.gradients) == set(weight_shapes(config))
    assert all(np.any(gradient) for gradient in answer.gradients.values())

    def loss(point):
        image = point["encoder_tokens"]
        rest = {path: value for path, value in point.items() if path != "encoder_tokens"}
        return captioner(config, rest, batch | {"encoder_tokens": image}).loss

    point = weights | {"encoder_tokens": batch["encoder_tokens"]}
    gradients = answer.gradients | {"encoder_tokens": answer.encoder_tokens}
    check_gradient(loss, point, gradients, np.random.default_rng(4))


def test_gradient_of_the_cross_entropy():
    rng = np.random.default_rng(1)
    point = {"hidden": rng.normal(size=(5, 4)), "kernel": rng.normal(size=(4, 7)), "bias": rng.normal(size=7)}
    labels, dy = rng.integers(0, 7, 5), rng.normal(size=5)
    _, backward = cross_entropy(**point, labels=labels)
    gradients = dict(zip(point, backward(dy), strict=True))
    check_gradient(lambda point: float(dy @ cross_entropy(**point, labels=labels)[0]), point, gradients, rng, entries=5)


def test_gradient_of_masked_attention():
    rng = np.random.default_rng(2)
    point = {"query": rng.normal(size=(2, 3, 2, 4))}
    point |= {name: rng.normal(size=(2, 5, 2, 4)) for name in ("key", "value")}
    mask = rng.random((2, 1, 3, 5)) < 0.6
    mask[..., 0] = True
    y, backward = masked_attention(**point, mask=mask)
    dy = rng.normal(size=y.shape)
    gradients = dict(zip(point, backward(dy), strict=True))
    check_gradient(
        lambda point: float(np.sum(dy * masked_attention(**point, mask=mask)[0])), point, gradients, rng, entries=5
    )


def test_differences_refuse_a_wrong_gradient():
    weights, batch = draw_captioner_problem(CONFIG, seed=3, batch_size=2, tasks=2)
    right = captioner(CONFIG, weights, batch).gradients
    path = "block_01/image_attention/key_value_kernel"
    for wrong in (np.zeros_like(right[path]), -right[path], right[path] * np.nan, right[path] * 1.001):
        with pytest.raises(AssertionError):
            check_gradient(
                lambda point: captioner(CONFIG, point, batch).loss,
                weights,
                right | {path: wrong},
                np.random.default_rng(4),
            )
