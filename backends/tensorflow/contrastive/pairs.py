"""The positive pairs of a contrastive loss on tensorflow, and all that is left once the negatives are swept."""

import tensorflow as tf

from diptych.backends.tensorflow.contrastive.sweep import (
    Swept,
    for_each_block,
    from_blocks,
    indices,
    into_blocks,
    replaced,
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
    """The loss and its gradients with respect to x, y and the scalars.

    For n images loss and gradients of the scalars = (sums + Σ of the positives' terms) / n, dL/dx_i = (t/n) (image_i +
    g_i y_(i+offset)), and dL/dy likewise; g is 0 where there is no pair. All gradients are None where the sweep made
    none.
    """
    totals = swept.sums + tf.stack([tf.reduce_sum(tf.cast(term, tf.float64)) for term in terms])
    loss, *of_scalars = tf.unstack(tf.cast(totals / tf.cast(denominator, tf.float64), tf.float32))
    if swept.image is None:
        return [loss, None, None, *(None for _ in of_scalars)]
    factor, texts = t / denominator, tf.range(tf.shape(y)[0]) - offset
    is_pair = (texts >= 0) & (texts < tf.shape(x)[0])
    of_texts = tf.where(is_pair, _rows(g, texts), 0.0)
    image = _with_positives(swept.image, g, y, offset, factor)
    return [loss, image, _with_positives(swept.text, of_texts, x, -offset, factor), *of_scalars]


def _with_positives(gradient, g, other, offset, factor):
    """factor (gradient_k + g_k other_(k+offset)), a block of rows at a time."""
    rows = tf.shape(gradient)[0]
    blocks, weights = into_blocks(gradient, PAIRS_AT_ONCE), into_blocks(g[:, None], PAIRS_AT_ONCE)

    def block(k, gradients):
        positives = weights[k] * _rows(other, indices(k, blocks) + offset)
        return k + 1, replaced(gradients, k, factor * (gradients[k] + positives))

    (gradients,) = for_each_block(blocks, block, blocks)
    return from_blocks(gradients, rows)


def _rows(a, at):
    """Rows of a in float32, the nearest one where there is none."""
    return tf.cast(tf.gather(a, tf.clip_by_value(at, 0, tf.shape(a)[0] - 1)), tf.float32)
