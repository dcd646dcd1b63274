"""The sigmoid loss on tensorflow: a sweep whose weights are σ(z), z = t s + b, and the positives exactly.

Over the pairs that are none the sums are Σ log(1 + exp(z)), Σ σ(z) s and Σ σ(z).
"""

from functools import partial
from typing import NamedTuple

import tensorflow as tf

from diptych.backends.plan import LOG1P
from diptych.backends.tensorflow.contrastive.pairs import finished, pair_cosines
from diptych.backends.tensorflow.contrastive.sweep import Swept, add_products, over_blocks, total


class SigmoidLossGradients(NamedTuple):
    """The loss and its gradient with respect to each argument, all float32, embeddings' shapes as given.

    The gradients are None where only the loss was asked for.
    """

    loss: tf.Tensor
    image_embeddings: tf.Tensor | None
    text_embeddings: tf.Tensor | None
    logit_scale: tf.Tensor | None
    logit_bias: tf.Tensor | None


def sigmoid_loss(exchange, x, y, t, b, *, offset, denominator, with_gradients, **blocks) -> SigmoidLossGradients:
    """Of the pairs (i, i + offset) of x and y, whose other pairs the exchange knows."""
    swept = exchange(partial(negatives, t, b, with_gradients=with_gradients, **blocks))
    return _finished(swept, x, y, t, b, offset, denominator)


@tf.function(jit_compile=True, autograph=False)
def negatives(logit_scale, logit_bias, x, y, offset, *, with_gradients: bool = True, **blocks) -> Swept:
    """The sums over all pairs but the paired ones; Σ σ(z) s is left to `finished`, and without gradients only the first
    is there.
    """
    zero, rows_per_block = tf.zeros([], tf.float64), blocks["rows_per_block"]

    def body(rows, columns, s, counts, sums, *states):
        (x,), (y,) = rows, columns
        softplus, probability = softplus_and_sigmoid(logit_scale * s + logit_bias)
        sum_of_softplus = total(tf.where(counts, softplus, 0.0), rows_per_block)
        if not states:
            return (sums + tf.stack([sum_of_softplus, zero, zero]),)
        g = tf.where(counts, probability, 0.0)
        sums += tf.stack([sum_of_softplus, zero, total(g, rows_per_block)])
        return sums, *add_products(g, x, y, *states)

    return over_blocks(body, (x,), (y,), offset, terms=3, width=x.shape[1] if with_gradients else None, **blocks)


@tf.function(jit_compile=True, autograph=False)
def _finished(swept, x, y, t, b, offset, denominator) -> SigmoidLossGradients:
    """With s_i = x_i·y_(i+offset) and g_i = -σ(-(t s_i + b))."""
    s, is_pair = pair_cosines(x, y, offset)
    softplus, probability = softplus_and_sigmoid(-(t * tf.cast(s, tf.float32) + b))
    g = tf.where(is_pair, -probability, 0.0)
    terms = tf.where(is_pair, softplus, 0.0), tf.cast(g, tf.float64) * s, g
    return SigmoidLossGradients(*finished(swept, terms, g, x, y, t, offset=offset, denominator=denominator))


def softplus_and_sigmoid(z):
    """log(1 + exp(z)) and 1 / (1 + exp(-z)) of a float32 tensor, relatively accurate where they are tiny, from one
    exp.
    """
    e = tf.exp(-tf.abs(z))
    log1p_over_e = tf.fill(tf.shape(e), LOG1P[-1])
    for coefficient in reversed(LOG1P[:-1]):
        log1p_over_e = log1p_over_e * e + coefficient
    r = 1.0 / (1.0 + e)
    return tf.maximum(z, 0.0) + e * log1p_over_e, tf.where(z >= 0.0, r, e * r)
