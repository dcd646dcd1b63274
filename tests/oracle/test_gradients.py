"""Every hand-derived gradient is the one that finite differences give."""

from functools import partial

import numpy as np
import pytest

from tests.oracle.attention import attention, softmax
from tests.oracle.bit import convolution, group_norm, maximum, standardize
from tests.oracle.contrastive import normalize, sigmoid_loss, softmax_contrastive_loss
from tests.oracle.examples import draw_problem
from tests.oracle.finite_differences import check_gradient
from tests.oracle.gelu import gelu
from tests.oracle.layer_norm import layer_norm
from tests.oracle.linear import linear
from tests.oracle.siglip import LOGIT_BIAS, siglip, weight_shapes

# name: (function of arrays, shapes of its arguments)
FUNCTIONS = {
    "linear": (linear, {"x": (2, 3, 4), "kernel": (4, 5), "bias": (5,)}),
    "layer_norm": (layer_norm, {"x": (2, 3, 6), "scale": (6,), "bias": (6,)}),
    "gelu": (gelu, {"x": (3, 5)}),
    "softmax": (softmax, {"x": (2, 3, 4)}),
    "attention": (attention, {"query": (2, 3, 2, 4), "key": (2, 5, 2, 4), "value": (2, 5, 2, 4)}),
    "normalize": (normalize, {"x": (3, 5)}),
    "convolution": (partial(convolution, stride=2), {"x": (2, 6, 5, 3), "kernel": (3, 3, 3, 2)}),
    "symmetric convolution": (partial(convolution, stride=2, same=False), {"x": (2, 6, 5, 3), "kernel": (3, 3, 3, 2)}),
    "standardize": (partial(standardize, epsilon=0.1, in_root=False), {"kernel": (3, 3, 2, 2)}),
    "standardize, epsilon in the root": (partial(standardize, epsilon=0.1, in_root=True), {"kernel": (3, 3, 2, 2)}),
    "group_norm": (partial(group_norm, groups=2, epsilon=0.1), {"x": (2, 3, 2, 6), "scale": (6,), "bias": (6,)}),
    "maximum": (partial(maximum, same=True), {"x": (2, 6, 5, 3)}),
    "maximum with zeros around": (partial(maximum, same=False), {"x": (2, 6, 5, 3)}),
}


def vision(**changes):
    return {
        "width": 6,
        "depth": 2,
        "mlp_dim": 7,
        "num_heads": 2,
        "patch_size": 3,
        "image_size": 8,
        "pooling": "map",
    } | changes


def text(**changes):
    return {
        "width": 4, "depth": 1, "mlp_dim": 5, "num_heads": 1, "vocab_size": 7, "context_length": 3, "pooling": "last",
        "embed_dim": 6,
    } | changes  # fmt: skip


def bit(**changes):
    return {"stage_depths": (1, 2), "width": 2, "num_groups": 1, "image_size": 10, "pre_activation": False} | changes


CONFIGS = {
    "map and last": {"vision": vision(), "text": text()},
    "gap and first, both projected": {
        "vision": vision(pooling="gap", embed_dim=5, image_size=6),
        "text": text(pooling="first", embed_dim=5, num_heads=2),
    },
    "cls and gap": {"vision": vision(pooling="cls", num_heads=3), "text": text(pooling="gap", depth=2)},
    "map and map, no projection": {"vision": vision(width=4), "text": text(pooling="map", embed_dim=None)},
    "fixed positions, tanh and projection": {
        "vision": vision(width=8, pooling="gap", positions="sincos2d", representation_width=5, embed_dim=6),
        "text": text(),
    },
    "bit": {"vision": bit(), "text": text(embed_dim=16)},
    "bit, pre-activation": {"vision": bit(pre_activation=True, embed_dim=6), "text": text()},
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_gradient_of_each_part(name):
    function, shapes = FUNCTIONS[name]
    rng = np.random.default_rng(1)
    arguments = {argument: rng.normal(size=shape) for argument, shape in shapes.items()}
    y, backward = function(**arguments)
    dy = rng.normal(size=y.shape)
    gradients = backward(dy)
    gradients = dict(zip(arguments, gradients if isinstance(gradients, tuple) else (gradients,), strict=True))
    check_gradient(lambda point: float(np.sum(dy * function(**point)[0])), arguments, gradients, rng, entries=5)


@pytest.mark.parametrize("loss", ["sigmoid", "softmax"])
def test_gradient_of_the_losses(loss):
    rng = np.random.default_rng(2)
    point = {"image": rng.normal(size=(5, 4)), "text": rng.normal(size=(5, 4)), "logit_scale": np.asarray(1.7)}
    function = softmax_contrastive_loss
    if loss == "sigmoid":
        point["logit_bias"] = np.asarray(-0.6)
        function = sigmoid_loss

    def value(point):
        arguments = dict(point)
        return function(arguments.pop("image"), arguments.pop("text"), **arguments)[0]

    _, gradients = function(point["image"], point["text"], **{k: v for k, v in point.items() if k.startswith("logit")})
    check_gradient(value, point, dict(zip(point, gradients, strict=True)), rng, entries=5)


@pytest.mark.parametrize("offset", [0, 1, -2, 9])
def test_gradient_of_a_part_of_the_sigmoid_loss(offset):
    rng = np.random.default_rng(5)
    point = {"image": rng.normal(size=(5, 4)), "text": rng.normal(size=(3, 4))}
    point |= {"logit_scale": np.asarray(1.7), "logit_bias": np.asarray(-0.6)}

    def function(point):
        return sigmoid_loss(**point, offset=offset, denominator=11)

    check_gradient(
        lambda point: function(point)[0], point, dict(zip(point, function(point)[1], strict=True)), rng, entries=5
    )


@pytest.mark.parametrize("loss", ["sigmoid", "softmax"])
@pytest.mark.parametrize("name", CONFIGS)
def test_gradient_of_the_whole_model(name, loss):
    config = CONFIGS[name]
    weights, batch = draw_problem(config, seed=3, batch_size=4, logit_scale=3.0, captions=len(name) % 2 + 1)
    answer = siglip(config, weights, batch, loss=loss)
    assert list(answer.gradients) == list(weight_shapes(config))
    check_gradient(
        lambda point: siglip(config, point, batch, loss=loss).loss, weights, answer.gradients, np.random.default_rng(4)
    )


def test_differences_refuse_a_wrong_gradient():
    config = CONFIGS["map and last"]
    weights, batch = draw_problem(config, seed=3, batch_size=4, logit_scale=3.0)
    right = siglip(config, weights, batch).gradients
    path = "image/encoder/block_01/attention/qkv_kernel"
    for wrong in (np.zeros_like(right[path]), -right[path], right[path] * np.nan, right[path] * 1.001):
        with pytest.raises(AssertionError):
            check_gradient(
                lambda point: siglip(config, point, batch).loss,
                weights,
                right | {path: wrong},
                np.random.default_rng(4),
            )


def test_drawn_bias_gives_positives_and_negatives_their_share():
    config = CONFIGS["map and last"]
    for share in (0.2, 0.5, 0.8):
        weights, batch = draw_problem(config, seed=5, batch_size=6, logit_scale=8.0, share=share)
        answer = siglip(config, weights, batch)
        count, logits = 6, 8.0 * answer.image_embedding @ answer.text_embedding[:, 0].T + weights[LOGIT_BIAS]
        negatives = sum(1 / (1 + np.exp(-logits[i, j])) for i in range(count) for j in range(count) if i != j)
        positives = sum(1 / (1 + np.exp(logits[i, i])) for i in range(count))
        assert abs(negatives / (negatives + positives) - share) < 1e-5
