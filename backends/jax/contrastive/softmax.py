"""CLIP's symmetric softmax loss on jax: a sweep for the normalisers, one for the gradients, and the positives exactly.

With z_ij = t x_i·y_j, and over the pairs that are none n_i = log Σ_j exp(z_ij), n'_j = log Σ_i exp(z_ij):

    L = Σ_i [softplus(n_i - z_ii) + softplus(n'_i - z_ii)] / 2n
    w_ij = (exp(z_ij - a_i) + exp(z_ij - a'_j)) / 2,  a_i = log(exp(n_i) + exp(z_ii)),  a'_j likewise

In `softplus` a positive's loss keeps its relative precision where log Σ_j exp(z_ij) - z_ii would cancel.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp

from diptych.backends.jax.contrastive.loss import Exchange, LossAndGradients, join, pair_cosines
from diptych.backends.jax.contrastive.sweep import (
    Block,
    Normalisers,
    Swept,
    WeighedPairs,
    in_dtype,
    kept,
    product,
)


class SoftmaxLossGradients(NamedTuple):
    """The loss and its gradient with respect to each argument, all float32, embeddings' shapes as given."""

    loss: jax.Array
    image_embeddings: jax.Array
    text_embeddings: jax.Array
    logit_scale: jax.Array


@dataclass(frozen=True)
class SoftmaxLoss:
    """Its scalar is t.

    normalisers: a block for `Normalisers`.
    weights: a block for `WeighedPairs`: beside rows and columns a_i + log 2 and a'_j + log 2, the sum Σ w s.
    """

    normalisers: Block
    weights: Block

    name = "softmax_contrastive_loss"
    scalars = ("logit_scale",)
    answer = SoftmaxLossGradients

    def __call__(self, exchange: Exchange, x, y, scalars, *, offset, denominator, with_gradients) -> LossAndGradients:
        (t,) = scalars
        others = exchange(Normalisers(self.normalisers, t))
        cosine = pair_cosines(x, y, offset)
        z = t * cosine
        sides = others.image, others.text
        losses = sum(jax.nn.softplus(side - z) for side in sides) / 2
        g = -sum(jax.nn.sigmoid(side - z) for side in sides) / 2
        swept = Swept(jnp.zeros(1), None, None)
        if with_gradients:
            beside = (jnp.logaddexp(side, z) + math.log(2.0) for side in sides)
            swept = exchange(WeighedPairs(self.weights, t, 1), *((logarithms,) for logarithms in beside))
        swept = swept._replace(total=jnp.append(0.0, swept.total))
        return join(swept, (losses, g * cosine), g, x, y, t, offset=offset, denominator=denominator)


def xla_normalisers(x, y, scale, limits):
    """See `Normalisers`."""
    z = scale * product(x, y, contract=(1, 1))
    z = jnp.where(kept(z.shape, limits), z, -jnp.inf)
    return jax.nn.logsumexp(z, axis=1), jax.nn.logsumexp(z, axis=0)


def xla_weights(x, y, scale, limits, with_weights, row_logarithms, column_logarithms):
    """See `WeighedPairs`: products by the library, the rest fused by the compiler."""
    s = product(x, y, contract=(1, 1))
    z = jnp.where(kept(s.shape, limits), scale * s, -jnp.inf)
    weights = jnp.exp(z - row_logarithms[:, None]) + jnp.exp(z - column_logarithms[None, :])
    return in_dtype(weights, x.dtype), jnp.sum(weights * s, axis=1, keepdims=True)
