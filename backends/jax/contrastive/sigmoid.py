"""The sigmoid loss on jax: a sweep whose weights are σ(z), z = t s + b, and the positives exactly.

Over the pairs that are none, softplus = Σ log(1 + exp(z)), cosine = Σ σ(z) s, probability = Σ σ(z).
"""

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp

from diptych.backends.jax.contrastive.loss import Exchange, LossAndGradients, join, pair_cosines
from diptych.backends.jax.contrastive.sweep import Block, WeighedPairs, in_dtype, kept, product


class SigmoidLossGradients(NamedTuple):
    """The loss and its gradient with respect to each argument, all float32, embeddings' shapes as given."""

    loss: jax.Array
    image_embeddings: jax.Array
    text_embeddings: jax.Array
    logit_scale: jax.Array
    logit_bias: jax.Array


@dataclass(frozen=True)
class SigmoidLoss:
    """Its scalars are t and b; block: the weights, and (Σ softplus, Σ σ s, Σ σ), for `WeighedPairs`."""

    block: Block

    name = "sigmoid_loss"
    scalars = ("logit_scale", "logit_bias")
    answer = SigmoidLossGradients

    def __call__(self, exchange: Exchange, x, y, scalars, *, offset, denominator, with_gradients) -> LossAndGradients:
        t, b = scalars
        swept = exchange(WeighedPairs(self.block, jnp.stack([t, b]), 3, with_gradients))
        cosine = pair_cosines(x, y, offset)
        z = t * cosine + b
        g = -jax.nn.sigmoid(-z)
        terms = jax.nn.softplus(-z), g * cosine, g
        return join(swept, terms, g, x, y, t, offset=offset, denominator=denominator)


def xla_block(x, y, scale_and_bias, limits, with_weights):
    """See `WeighedPairs`: products by the library, the rest fused by the compiler."""
    s = product(x, y, contract=(1, 1))
    z = scale_and_bias[0] * s + scale_and_bias[1]
    counts = kept(s.shape, limits)
    e = jnp.exp(-jnp.abs(z))
    reciprocal = 1.0 / (1.0 + e)
    softplus = jnp.where(counts, jnp.maximum(z, 0.0) + jnp.log1p(e), 0.0)
    probability = jnp.where(counts, jnp.where(z >= 0.0, reciprocal, e * reciprocal), 0.0)
    sums = jnp.stack([jnp.sum(term, axis=1) for term in (softplus, probability * s, probability)], axis=1)
    return in_dtype(probability, x.dtype) if with_weights else None, sums
