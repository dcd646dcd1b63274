"""CLIP's symmetric softmax loss on tensorflow: a sweep for the normalisers, one for the gradients, exact positives.

With z_ij = t x_i·y_j, and over the pairs that are none n_i = log Σ_j exp(z_ij), n'_j = log Σ_i exp(z_ij):

    L = Σ_i [softplus(n_i - z_ii) + softplus(n'_i - z_ii)] / 2n
    w_ij = (exp(z_ij - a_i) + exp(z_ij - a'_j)) / 2,  a_i = log(exp(n_i) + exp(z_ii)),  a'_j likewise

In `softplus` a positive's loss keeps its relative precision where log Σ_j exp(z_ij) - z_ii would cancel.
"""

import math
from functools import partial
from typing import NamedTuple

import tensorflow as tf

from diptych.backends.tensorflow.contrastive.pairs import finished, pair_cosines
from diptych.backends.tensorflow.contrastive.sigmoid import softplus_and_sigmoid
from diptych.backends.tensorflow.contrastive.sweep import Swept, add_products, over_blocks


class SoftmaxLossGradients(NamedTuple):
    """The loss and its gradient with respect to each argument, all float32, embeddings' shapes as given.

    The gradients are None where only the loss was asked for.
    """

    loss: tf.Tensor
    image_embeddings: tf.Tensor | None
    text_embeddings: tf.Tensor | None
    logit_scale: tf.Tensor | None


def softmax_contrastive_loss(
    exchange, x, y, t, *, offset, denominator, with_gradients, **blocks
) -> SoftmaxLossGradients:
    """Of the pairs (i, i + offset) of x and y, whose other pairs the exchange knows."""
    others = exchange(partial(normalisers, t, keep=with_gradients, **blocks), adds_up=False)
    s = _cosines(x, y, offset)
    swept = Swept(tf.zeros([2], tf.float64), None, None)
    if with_gradients:
        beside = _logarithms(others.image, others.text, s, t)
        swept = exchange(partial(weights, t, products=others.products, **blocks), *beside)
    return _finished(swept, others, s, x, y, t, offset, denominator)


@tf.function(jit_compile=True, autograph=False)
def normalisers(logit_scale, x, y, offset, **plan) -> Swept:
    """n_i `[m, 1]` and n'_j `[n, 1]`, without sums."""

    def body(rows, columns, s, counts, sums, image, text):
        z = tf.where(counts, logit_scale * s, -math.inf)
        row, column = (tf.reduce_logsumexp(z, axis=axis) for axis in (1, 0))
        return sums, log_of_sum(image, row[:, None]), log_of_sum(text, column[:, None])

    return over_blocks(body, (x,), (y,), offset, terms=0, width=1, start=-math.inf, **plan)


@tf.function(jit_compile=True, autograph=False)
def weights(logit_scale, x, y, offset, rows, columns, **plan) -> Swept:
    """The weighed embeddings, and sums of nothing; rows `[m, 1]` and columns `[n, 1]` are a_i + log 2 and a'_j +
    log 2.
    """

    def body(rows, columns, s, counts, sums, *states):
        (x, row_logarithms), (y, column_logarithms) = rows, columns
        z = tf.where(counts, logit_scale * s, -math.inf)
        w = tf.exp(z - row_logarithms) + tf.exp(z - tf.transpose(column_logarithms))
        return sums, *add_products(w, x, y, *states)

    return over_blocks(body, (x, rows), (y, columns), offset, terms=2, width=x.shape[1], **plan)


def log_of_sum(one, other):
    """log(exp(one) + exp(other)), also of minus infinity."""
    largest = tf.maximum(one, other)
    distance = tf.where(tf.math.is_inf(largest), -math.inf, -tf.abs(one - other))
    return largest + softplus_and_sigmoid(distance)[0]


@tf.function(jit_compile=True, autograph=False)
def _cosines(x, y, offset):
    return pair_cosines(x, y, offset)[0]


@tf.function(jit_compile=True, autograph=False)
def _logarithms(image, text, s, t):
    """a_i + log 2 and a'_j + log 2 of the pairs, whose cosines are s."""
    z = t * tf.cast(s, tf.float32)[:, None]
    return [log_of_sum(side, z) + math.log(2.0) for side in (image, text)]


@tf.function(jit_compile=True, autograph=False)
def _finished(swept, others, s, x, y, t, offset, denominator) -> SoftmaxLossGradients:
    z = t * tf.cast(s, tf.float32)
    sides = [softplus_and_sigmoid(side[:, 0] - z) for side in (others.image, others.text)]
    losses, g = (sum(parts) / 2 for parts in zip(*sides, strict=True))
    g = -g
    terms = losses, tf.cast(g, tf.float64) * s
    return SoftmaxLossGradients(*finished(swept, terms, g, x, y, t, offset=offset, denominator=denominator))
