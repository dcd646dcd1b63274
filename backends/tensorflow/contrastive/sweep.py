"""The B² part of the contrastive losses on tensorflow: a sweep over blocks of pairs, each a negative, compiled by XLA.

With s_ij = x_i·y_j, over all pairs (i, j) but those with j = i + offset, one that weighs the pairs leaves

    sums = Σ of a few terms of a pair,  image_i = Σ_j w_ij y_j,  text_j = Σ_i w_ij x_i

and one for normalisers image_i = log Σ_j exp(t s_ij) and text_j = log Σ_i exp(t s_ij). The weights w and the terms are
the loss's own (`sigmoid`, `softmax`). Of the matrix of pairs, one block exists at a time, so the memory beside the
gradients does not grow with the batch. All of it is float32, embeddings of fewer bits are converted block by block, and
sums over pairs are carried on in float64: one float32 sum would swallow the small terms that a loss is made of. On a
GPU, tensorflow's setting of TF32 holds for the products.

Where two sweeps go over the same blocks, the second may take the s_ij of the last of them from the first: a number of
blocks that does not grow with the batch either.

Legend: m rows (images), n columns (texts), d width.
"""

from collections.abc import Callable
from math import gcd
from typing import NamedTuple

import tensorflow as tf

from diptych.backends.plan import block_size

ROWS_PER_SUM = 16
"""Rows that are added up in float32: an error of 16 roundings at most, and float64 has a sixteenth of the work."""


class Swept(NamedTuple):
    """What a sweep leaves.

    Attributes:
        sums: the terms of all pairs, float64 `[terms]`.
        image, text: what each image and each text has, float32 `[m, w]` and `[n, w]`, w being d or, for logarithms, 1;
            None where no gradient is wanted.
        products: s_ij of the last blocks, float32 `[kept, rows, columns]`, block k of all in place k modulo kept; None
            where none are kept.
    """

    sums: tf.Tensor
    image: tf.Tensor | None
    text: tf.Tensor | None
    products: tf.Tensor | None = None


def over_blocks(
    body: Callable,
    rows: tuple,
    columns: tuple,
    offset,
    *,
    terms: int,
    width: int | None,
    start: float = 0.0,
    keep: bool = False,
    products: tf.Tensor | None = None,
    rows_per_block: int,
    columns_per_block: int,
    kept_blocks: int,
) -> Swept:
    """The sweep over all pairs of rows and columns.

    Args:
        body: `(rows, columns, s, counts, sums, *states)` -> `(sums, *states)` for a block: the tuples' parts of it, its
            embeddings in float32, their products, which of its pairs count, and what was there before; states are an
            image's and a text's, or none.
        rows, columns: embeddings `[m, d]` and `[n, d]`, floating point, and matrices that go with them.
        offset: int32 scalar; image i is paired with text i + offset, where there is one.
        terms: how many sums there are.
        width: of the states; None where there are none.
        start: what the states begin with.
        keep: whether products are kept for another sweep over the same blocks.
        products: what such a sweep has kept.
        rows_per_block, columns_per_block: the most rows and columns of a block; blocks are nearly equal.
        kept_blocks: the most blocks whose products are kept.
    """
    m, n = tf.shape(rows[0])[0], tf.shape(columns[0])[0]
    kept_blocks = kept_blocks if keep else 0
    row_blocks = tuple(into_blocks(a, rows_per_block) for a in rows)
    column_blocks = tuple(into_blocks(a, columns_per_block) for a in columns)
    (down, r), (across, c) = (_sizes(blocks[0]) for blocks in (row_blocks, column_blocks))

    def row_of_blocks(i, sums, kept, *states):
        own_rows, row_indices = _part(row_blocks, i), indices(i, row_blocks[0])[:, None]

        def block(j, sums, kept, *states):
            column_indices = indices(j, column_blocks[0])[None, :]
            counts = (row_indices < m) & (column_indices < n) & (column_indices - row_indices != offset)
            own_columns, index = _part(column_blocks, j), i * across + j
            s = _products(own_rows[0], own_columns[0], products, index, down * across)
            if kept_blocks:
                kept = replaced(kept, index % tf.shape(kept)[0], s)
            of_block = (states[0], states[1][j]) if states else ()
            sums, *after = body(own_rows, own_columns, s, counts, sums, *of_block)
            return j + 1, sums, kept, *((after[0], replaced(states[1], j, after[1])) if states else ())

        if not states:
            return i + 1, *for_each_block(column_blocks[0], block, sums, kept)
        image, text = states
        before = tf.fill(tf.shape(image[i]), start)
        sums, kept, image_block, text = for_each_block(column_blocks[0], block, sums, kept, before, text)
        return i + 1, sums, kept, replaced(image, i, image_block), text

    states = [] if width is None else [_states(blocks[0], width, start) for blocks in (row_blocks, column_blocks)]
    carry = tf.zeros([terms], tf.float64), tf.zeros([tf.minimum(kept_blocks, down * across), r, c])
    sums, kept, *states = for_each_block(row_blocks[0], row_of_blocks, *carry, *states)
    image, text = (from_blocks(states[0], m), from_blocks(states[1], n)) if states else (None, None)
    return Swept(sums, image, text, kept if kept_blocks else None)


def _products(x, y, kept, index, blocks):
    """s_ij of block `index`, from those that were kept of the last of all blocks, or computed."""

    def computed():
        return tf.matmul(x, y, transpose_b=True)

    if kept is None:
        return computed()
    if isinstance(blocks, int) and kept.shape[0] == blocks:
        return kept[index]  # read where it is used; what a condition decides on is copied first
    places = tf.shape(kept)[0]
    return tf.cond(index >= blocks - places, lambda: kept[index % places], computed)


def add_products(weights, x, y, image, text):
    """The embeddings of a block, weighed, added to those before; arguments and result as a body's."""
    return image + tf.matmul(weights, y), text + tf.matmul(weights, x, transpose_a=True)


def total(terms, rows_per_block: int):
    """The sum of the terms of a block, `[rows, columns]`, in float64."""
    in_groups = tf.reshape(terms, [-1, gcd(rows_per_block, ROWS_PER_SUM), tf.shape(terms)[1]])
    return tf.reduce_sum(tf.cast(tf.reduce_sum(in_groups, axis=1), tf.float64))


def _part(blocks, i):
    embeddings, *beside = (a[i] for a in blocks)
    return tf.cast(embeddings, tf.float32), *beside


def _sizes(blocks):
    """How many blocks there are, and their rows; numbers of Python's where they are known."""
    return (known or there for known, there in zip(blocks.shape[:2], tf.unstack(tf.shape(blocks)[:2]), strict=True))


def _states(blocks, width, start):
    return tf.fill([*tf.unstack(tf.shape(blocks)[:2]), width], start)


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
