"""The B² part of the sigmoid loss on tensorflow: one sweep over blocks of pairs, each a negative, compiled by XLA.

With s_ij = x_i·y_j and z = t s + b, over all pairs (i, j) but those with j = i + offset:

    softplus = Σ log(1 + exp(z)),  cosine = Σ σ(z) s,  probability = Σ σ(z),  image_i = Σ_j σ(z) y_j,  text_j = Σ_i σ(z)
    x_i

Of the matrix of pairs, one block exists at a time, so the memory beside the gradients does not grow with the batch. All
of it is float32, embeddings of fewer bits are converted block by block, and sums over pairs are carried on in float64:
one float32 sum would swallow the small terms that the loss is made of. On a GPU, tensorflow's setting of TF32 holds for
the products.

Legend: m rows (images), n columns (texts), d width.
"""

from math import gcd
from typing import NamedTuple

import tensorflow as tf

from diptych.backends.plan import LOG1P, block_size

ROWS_PER_SUM = 16
"""Rows that are added up in float32: an error of 16 roundings at most, and float64 has a sixteenth of the work."""


class Negatives(NamedTuple):
    """Σ softplus(z), Σ σ(z) s and Σ σ(z) as float64 `[3]`; Σ_j σ(z_ij) y_j `[m, d]`, Σ_i σ(z_ij) x_i `[n, d]` in
    float32.

    Without gradients the last two are None, and of the sums only the first is there.
    """

    sums: tf.Tensor
    image: tf.Tensor | None
    text: tf.Tensor | None


@tf.function(jit_compile=True, autograph=False)
def negatives(
    x, y, logit_scale, logit_bias, offset, *, rows_per_block: int, columns_per_block: int, with_gradients: bool = True
) -> Negatives:
    """The sums over all pairs but the paired ones.

    Σ σ s is not summed up over the pairs: it is Σ_i x_i·image_i.

    Args:
        x: `[m, d]`, floating point.
        y: `[n, d]`.
        logit_scale, logit_bias: float32 scalars t and b.
        offset: int32 scalar; image i is paired with text i + offset, where there is one.
        rows_per_block, columns_per_block: the most rows and columns of a block; blocks are nearly equal.
    """
    m, n = tf.shape(x)[0], tf.shape(y)[0]
    x_blocks, y_blocks = into_blocks(x, rows_per_block), into_blocks(y, columns_per_block)
    zero = tf.zeros([], tf.float64)

    def total(terms):
        in_groups = tf.reshape(terms, [-1, gcd(rows_per_block, ROWS_PER_SUM), tf.shape(terms)[1]])
        return tf.reduce_sum(tf.cast(tf.reduce_sum(in_groups, axis=1), tf.float64))

    def row_of_blocks(i, sums, *gradients):
        x_block, rows = tf.cast(x_blocks[i], tf.float32), indices(i, x_blocks)[:, None]

        def block(j, sums, *gradients):
            y_block, columns = tf.cast(y_blocks[j], tf.float32), indices(j, y_blocks)[None, :]
            z = logit_scale * tf.matmul(x_block, y_block, transpose_b=True) + logit_bias
            counts = (rows < m) & (columns < n) & (columns - rows != offset)
            softplus, probability = softplus_and_sigmoid(z)
            sum_of_softplus = total(tf.where(counts, softplus, 0.0))
            if not gradients:
                return j + 1, sums + tf.stack([sum_of_softplus, zero, zero])
            image_block, text = gradients
            g = tf.where(counts, probability, 0.0)
            return (
                j + 1,
                sums + tf.stack([sum_of_softplus, zero, total(g)]),
                image_block + tf.matmul(g, y_block),
                replaced(text, j, text[j] + tf.matmul(g, x_block, transpose_a=True)),
            )

        if not gradients:
            return i + 1, *for_each_block(y_blocks, block, sums)
        image, text = gradients
        sums, image_block, text = for_each_block(y_blocks, block, sums, tf.zeros_like(x_block), text)
        return i + 1, sums + tf.stack([zero, total(x_block * image_block), zero]), replaced(image, i, image_block), text

    gradients = [tf.zeros_like(blocks, tf.float32) for blocks in (x_blocks, y_blocks)] if with_gradients else []
    sums, *gradients = for_each_block(x_blocks, row_of_blocks, tf.zeros([3], tf.float64), *gradients)
    if not gradients:
        return Negatives(sums, None, None)
    return Negatives(sums, from_blocks(gradients[0], m), from_blocks(gradients[1], n))


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


def into_blocks(x, largest: int):
    """`[rows, d]` -> `[blocks, size, d]`, the last block filled up with zeros; no copy where nothing is to be filled.

    The size is a multiple of `gcd(largest, ROWS_PER_SUM)`.
    """
    multiple = gcd(largest, ROWS_PER_SUM)
    rows, width = x.shape
    if rows is not None:
        size = block_size(rows, largest, multiple)
    else:  # Keras' fit traces with a batch of unknown size; XLA knows it when it compiles
        rows = tf.shape(x)[0]
        size = -(-rows // (-(-rows // largest) * multiple)) * multiple
    blocks = -(-rows // size)
    return tf.reshape(tf.pad(x, [[0, blocks * size - rows], [0, 0]]), [blocks, size, width])


def from_blocks(blocks, rows):
    """`[blocks, size, d]` -> `[rows, d]`."""
    return tf.reshape(blocks, [-1, blocks.shape[2]])[:rows]


def indices(i, blocks):
    """Those of the rows of block i among all rows."""
    size = tf.shape(blocks)[1]
    return i * size + tf.range(size)


def for_each_block(blocks, body, *carry):
    """The carry after body(i, *carry) -> (i + 1, *carry) for each block."""
    count = tf.shape(blocks)[0]
    return tf.while_loop(lambda i, *_: i < count, body, (tf.constant(0), *carry))[1:]


def replaced(blocks, i, block):
    """`blocks` with another block i; XLA writes it in place where `blocks` is a loop's variable."""
    return tf.tensor_scatter_nd_update(blocks, [[i]], block[None])
