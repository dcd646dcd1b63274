"""The positive pairs of a contrastive loss on tensorflow, and all that is left once the negatives are swept."""

import tensorflow as tf

from diptych.backends.tensorflow.contrastive.sweep import (
    Swept,
    for_each_block,
    from_blocks,
    indices,
    into_blocks,
    replaced,
    total,
)

PAIRS_AT_ONCE = 1024
"""Paired rows that are taken at a time."""


def pair_cosines(x, y, offset):
    """x_i·y_(i+offset) in float64 `[m]`, and whether there is such a text."""
    blocks, last = into_blocks(x, PAIRS_AT_ONCE), tf.shape(y)[0] - 1

    def block(k, cosines):
        products = tf.cast(blocks[k], tf.float32) * _rows(y, indices(k, blocks) + offset)
        s = tf.linalg.matvec(tf.cast(products, tf.float64), tf.ones([x.shape[1]], tf.float64))
        return k + 1, replaced(cosines, k, s[:, None])

    (cosines,) = for_each_block(blocks, block, tf.zeros_like(blocks[:, :, :1], tf.float64))
    there = tf.range(tf.shape(x)[0]) + offset
    return from_blocks(cosines, tf.shape(x)[0])[:, 0], (there >= 0) & (there <= last)


def finished(swept: Swept, terms, g, x, y, t, *, offset, denominator) -> list:
    """The loss and its gradients with respect to x, y and the scalars, the first of which is t.

    The sweep has left Σ w s to be added up here: it is Σ_i x_i·image_i, and image is read once for both. For n images
    loss and gradients of the scalars = (sums + Σ of the positives' terms) / n, dL/dx_i = (t/n) (image_i +
    g_i y_(i+offset)), and dL/dy likewise; g is 0 where there is no pair. All gradients are None where the sweep made
    none.
    """
    sums = swept.sums + tf.stack([tf.reduce_sum(tf.cast(term, tf.float64)) for term in terms])
    if swept.image is None:
        return [_mean(sums[0], denominator), None, None, *(None for _ in terms[1:])]
    factor, texts = t / denominator, tf.range(tf.shape(y)[0]) - offset
    is_pair = (texts >= 0) & (texts < tf.shape(x)[0])
    of_texts = tf.where(is_pair, _rows(g, texts), 0.0)
    image, cosines = _with_positives(swept.image, x, g, y, offset, factor)
    text, _ = _with_positives(swept.text, y, of_texts, x, -offset, factor)
    sums += tf.one_hot(1, len(terms), dtype=tf.float64) * cosines
    loss, *of_scalars = (_mean(a, denominator) for a in tf.unstack(sums))
    return [loss, image, text, *of_scalars]


def _with_positives(gradient, own, g, other, offset, factor):
    """factor (gradient_k + g_k other_(k+offset)), a block of rows at a time, and Σ_k own_k·gradient_k in float64."""
    rows = tf.shape(gradient)[0]
    blocks, owns, weights = (into_blocks(a, PAIRS_AT_ONCE) for a in (gradient, own, g[:, None]))

    def block(k, gradients, cosines):
        negatives, positives = gradients[k], weights[k] * _rows(other, indices(k, blocks) + offset)
        cosines += total(tf.cast(owns[k], tf.float32) * negatives, PAIRS_AT_ONCE)
        return k + 1, replaced(gradients, k, factor * (negatives + positives)), cosines

    gradients, cosines = for_each_block(blocks, block, blocks, tf.zeros([], tf.float64))
    return from_blocks(gradients, rows), cosines


def _mean(value, denominator):
    return tf.cast(value / tf.cast(denominator, tf.float64), tf.float32)


def _rows(a, at):
    """Rows of a in float32, the nearest one where there is none."""
    return tf.cast(tf.gather(a, tf.clip_by_value(at, 0, tf.shape(a)[0] - 1)), tf.float32)
