"""Weights and batches drawn from a seed, conditioned so that every weight and both kinds of pairs have a say.

A model fresh from its initialisers hides mistakes: biases are 0, scales 1, and at SigLIP's first bias the negatives
carry about a hundredth of the gradient. So kernels are drawn at unit gain, biases and scales around theirs, and the
logit bias is chosen by the share of the gradient that negatives shall carry.
"""

import math

import numpy as np

from tests.oracle.contrastive import sigmoid
from tests.oracle.siglip import LOG_LOGIT_SCALE, LOGIT_BIAS, siglip, weight_shapes


def draw_batch(config, rng: np.random.Generator, *, batch_size: int, captions: int = 1) -> dict[str, np.ndarray]:
    """uint8 images scattered around a colour of their own, int32 tokens `[b, c, n]` uniform over the vocabulary."""
    vision, text = config["vision"], config["text"]
    size = vision["image_size"]
    colour = rng.uniform(60, 195, (batch_size, 1, 1, 3))
    image = np.clip(colour + rng.uniform(-100, 100, (batch_size, size, size, 3)), 0, 255)
    token_ids = rng.integers(0, text["vocab_size"], (batch_size, captions, text["context_length"]))
    return {"image": image.astype(np.uint8), "text": token_ids.astype(np.int32)}


def draw_weights(config, rng: np.random.Generator, *, logit_scale: float) -> dict[str, np.ndarray]:
    """float32 weights by path, with t = `logit_scale` and a bias of 0."""
    weights = {path: _draw_weight(path, shape, rng) for path, shape in weight_shapes(config).items()}
    weights |= {LOG_LOGIT_SCALE: np.asarray(math.log(logit_scale)), LOGIT_BIAS: np.asarray(0.0)}
    return {path: value.astype(np.float32) for path, value in weights.items()}


def _draw_weight(path, shape, rng):
    if path.endswith("kernel"):
        return rng.normal(0.0, 1.0 / math.sqrt(math.prod(shape[:-1])), shape)
    if path.endswith("scale"):
        return rng.normal(1.0, 0.1, shape)
    return rng.normal(0.0, 1.0 if path.endswith(("token_embedding/embedding", "probe")) else 0.2, shape)


def negatives_share(cosines: np.ndarray, *, logit_scale: float, logit_bias: float) -> float:
    """The part of Σ |dL/dl| that comes from pairs off the diagonal, in (0, 1), for cosines `[c, b, b]`."""
    logits = logit_scale * cosines + logit_bias
    diagonal = np.diagonal(logits, axis1=1, axis2=2)
    positives = sigmoid(-diagonal).sum()
    negatives = sigmoid(logits).sum() - sigmoid(diagonal).sum()
    return negatives / (negatives + positives)


def bias_for_share(cosines: np.ndarray, *, logit_scale: float, share: float) -> float:
    """The logit bias at which negatives carry `share` of the gradient: found by halving, as the share grows with the
    bias.
    """
    low, high = -logit_scale - 40.0, logit_scale + 40.0
    for _ in range(60):
        middle = 0.5 * (low + high)
        if negatives_share(cosines, logit_scale=logit_scale, logit_bias=middle) < share:
            low = middle
        else:
            high = middle
    return 0.5 * (low + high)


def draw_problem(
    config, *, seed: int, batch_size: int, logit_scale: float, share: float = 0.35, captions: int = 1
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """(weights, batch) for a configuration: the same for the same arguments, on every machine.

    `share` is the negatives' part in the gradient of the sigmoid loss. At one half the gradient of the bias is zero,
    and nothing can be said of its relative error; so keep away from there.
    """
    rng = np.random.default_rng(seed)
    weights = draw_weights(config, rng, logit_scale=logit_scale)
    batch = draw_batch(config, rng, batch_size=batch_size, captions=captions)
    answer = siglip(config, weights, batch)
    cosines = np.einsum("ie,jce->cij", answer.image_embedding, answer.text_embedding)
    weights[LOGIT_BIAS] = np.asarray(bias_for_share(cosines, logit_scale=logit_scale, share=share), np.float32)
    return weights, batch
