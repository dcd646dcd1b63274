"""The B² part of the contrastive losses on jax: a sweep over blocks of pairs, each a negative, and what it adds up.

With s_ij = x_i·y_j, over all pairs (i, j) but those with j = i + offset:

    WeighedPairs    total = Σ of a few terms of a pair,  image_i = Σ_j w_ij y_j,  text_j = Σ_i w_ij x_i
    Normalisers     image_i = log Σ_j exp(t s_ij),  text_j = log Σ_i exp(t s_ij)

The weights w and the terms are the loss's own (`sigmoid`, `softmax`). A block is at most `largest` by `largest` pairs,
whatever the batch: memory grows with the embeddings alone. What computes a block is a value, `Block`: XLA's own fusion,
or the kernels in `pallas_gpu` and `pallas_tpu`.

Legend: m rows (images), n columns (texts), d width; r rows and c columns of a block. docs/sigmoid_loss.md and
docs/contrastive.md derive all of it.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
from jax import lax

from diptych.backends.plan import FLOAT16_SCALE, block_size, whole_waves


class Swept(NamedTuple):
    """What a sweep leaves: numbers of all its pairs, and what each image and each text has; None for what it has not.

    While the sweep is under way, total is a pair of float32 vectors whose sum it is.
    """

    total: Any
    image: jax.Array | None
    text: jax.Array | None


@dataclass(frozen=True)
class Block:
    """How one block of pairs is computed.

    compute: `(x [r, d], y [c, d], scalars, limits [3], ...)`. limits holds the rows and columns that are not padding,
        and the offset of the diagonal; what they exclude counts nowhere. The rest, and what is returned, is as the
        sweep that calls it says.
    largest: the most rows and columns of a block, a multiple of `multiple`.
    multiple: what rows and columns are padded to.
    dtype: what the embeddings are converted to, block by block; None for their own.
    processors: the multiprocessors of the device whose waves the gradients' products are to fill, asked while the
        program is traced; None where the fewest blocks are the best.
    beside_transfers: compute where something is sent meanwhile; None for the same.
    """

    compute: Callable
    largest: int
    multiple: int
    dtype: str | None = None
    processors: Callable[[], int] | None = None
    beside_transfers: Callable | None = None

    def size(self, length: int, width: int) -> int:
        """Rows or columns of a block, of so many in all."""
        if self.processors is None:
            return block_size(length, self.largest, self.multiple)
        return whole_waves(length, width, self.processors(), largest=self.largest, multiple=self.multiple)


class Sweep(Protocol):
    """What is added up over the blocks."""

    block: Block

    def start(self, rows) -> jax.Array | None:
        """What rows `[r, d]` of either side have before the first of their blocks."""

    def total(self) -> Any:
        """The numbers of no pair."""

    def add(self, rows, columns, limits, before: Swept) -> Swept:
        """What was there before and what a block adds; rows and columns are tuples, the embeddings `[r, d]` and
        `[c, d]` first and then what goes with them.
        """

    def merge(self, one, other):
        """What an image or a text has of two sets of pairs."""

    def own_part(self, text, axis_name: str):
        """What all devices have of the texts `[n, ...]`, merged -> this device's own."""


@dataclass(frozen=True)
class WeighedPairs:
    """Sums over all pairs, and embeddings summed with the pairs' weights: the value and the gradients of a loss.

    Its block's compute is `(x, y, scalars, limits, with_gradients, *beside_rows, *beside_columns)`
    -> `(weights [r, c] or None, sums [p, terms])`; float16 weights are multiplied by FLOAT16_SCALE.
    """

    block: Block
    scalars: jax.Array
    terms: int
    with_gradients: bool = True

    def start(self, rows):
        return jnp.zeros(rows.shape, jnp.float32) if self.with_gradients else None

    def total(self):
        return jnp.zeros(self.terms), jnp.zeros(self.terms)

    def add(self, rows, columns, limits, before):
        (x, *beside_rows), (y, *beside_columns) = rows, columns
        beside = *beside_rows, *beside_columns
        weights, partial_sums = self.block.compute(x, y, self.scalars, limits, self.with_gradients, *beside)
        total = _add(before.total, partial_sums)
        if not self.with_gradients:
            return Swept(total, None, None)
        image = before.image + product(weights, y, contract=(1, 0))
        return Swept(total, image, before.text + product(weights, x, contract=(0, 0)))

    def merge(self, one, other):
        return one + other

    def own_part(self, text, axis_name):
        return lax.psum_scatter(text, axis_name, tiled=True)


@dataclass(frozen=True)
class Normalisers:
    """The logarithm of the sum of exp(z) over each row and each column.

    Its block's compute is `(x, y, scalars, limits)` -> the logarithms `[r]` and `[c]` of the block alone.
    """

    block: Block
    scalars: jax.Array

    def start(self, rows):
        return jnp.full(len(rows), -jnp.inf)

    def total(self):
        return jnp.zeros(0), jnp.zeros(0)

    def add(self, rows, columns, limits, before):
        image, text = self.block.compute(rows[0], columns[0], self.scalars, limits)
        return Swept(before.total, self.merge(before.image, image), self.merge(before.text, text))

    def merge(self, one, other):
        return jnp.logaddexp(one, other)

    def own_part(self, text, axis_name):
        by_device = text.reshape(lax.axis_size(axis_name), -1)
        return jax.nn.logsumexp(lax.all_to_all(by_device, axis_name, 0, 0, tiled=True), axis=0)


def beside_transfers(sweep: Any) -> Sweep:
    """The same sweep, a dataclass, whose kernels leave room for what is sent meanwhile."""
    block = sweep.block
    return replace(sweep, block=replace(block, compute=block.beside_transfers or block.compute))


def over_blocks(sweep: Sweep, rows: tuple, columns: tuple, offset) -> Swept:
    """The sweep over all pairs of rows and columns: tuples of embeddings `[m, d]` and `[n, d]` and what goes with them.

    offset is an int32 scalar, traced or not, and one outside of [-m, n] excludes nothing.
    """
    (m, width), (n, _) = rows[0].shape, columns[0].shape
    r, c = (sweep.block.size(length, width) for length in (m, n))
    rows, columns = (tuple(_padded(a, size) for a in arrays) for arrays, size in ((rows, r), (columns, c)))
    offset = jnp.asarray(offset, jnp.int32)

    def row(carry, start_and_rows):
        start, row_block = start_and_rows
        row_block = _cast(row_block, sweep.block)

        def column(index, carry):
            at = index * c
            column_block = _cast(tuple(lax.dynamic_slice_in_dim(a, at, c) for a in columns), sweep.block)
            limits = jnp.stack([m - start, n - at, offset + start - at])
            of_block = jax.tree.map(lambda a: lax.dynamic_slice_in_dim(a, at, c), carry.text)
            after = sweep.add(row_block, column_block, limits, carry._replace(text=of_block))
            put = partial(lax.dynamic_update_slice_in_dim, start_index=at, axis=0)
            return after._replace(text=jax.tree.map(put, carry.text, after.text))

        text, total = carry
        before = Swept(total, sweep.start(row_block[0]), text)
        total, image, text = lax.fori_loop(0, len(columns[0]) // c, column, before)
        return (text, total), image

    starts = jnp.arange(0, len(rows[0]), r, dtype=jnp.int32)
    before = sweep.start(columns[0]), sweep.total()
    blocks = tuple(a.reshape(-1, r, *a.shape[1:]) for a in rows)
    (text, (high, low)), image = lax.scan(row, before, (starts, blocks))
    image = jax.tree.map(lambda a: a.reshape(-1, *a.shape[2:])[:m], image)
    return Swept(high + low, image, jax.tree.map(lambda a: a[:n], text))


def kept(shape: tuple[int, int], limits):
    """Which of a block's pairs count, `[r, c]`."""
    i, j = lax.broadcasted_iota(jnp.int32, shape, 0), lax.broadcasted_iota(jnp.int32, shape, 1)
    return (i < limits[0]) & (j < limits[1]) & (j - i != limits[2])


def product(a, b, *, contract):
    """A product of matrices in float32 along the axes `contract`, float16 weights brought back to their scale."""
    result = lax.dot_general(a, b, (((contract[0],), (contract[1],)), ((), ())), preferred_element_type=jnp.float32)
    return result / FLOAT16_SCALE if a.dtype == jnp.float16 and contract != (1, 1) else result


def in_dtype(weights, dtype):
    """Weights as the products with embeddings of this dtype take them."""
    return (weights * (FLOAT16_SCALE if dtype == jnp.float16 else 1.0)).astype(dtype)


def _padded(array, size):
    missing = -array.shape[0] % size
    return jnp.pad(array, ((0, missing), *((0, 0),) * (array.ndim - 1))) if missing else array


def _cast(arrays, block):
    """The embeddings in the dtype that the block asks for; what goes with them as it is."""
    embeddings, *beside = arrays
    return (embeddings if block.dtype is None else embeddings.astype(block.dtype), *beside)


def _add(total, partial_sums):
    """Adds partial sums `[p, terms]` to (high, low): what float32 cannot hold of the high part goes to the low one
    (Knuth).
    """
    high, low = total
    addend = jnp.sum(partial_sums, axis=0)
    added = high + addend
    back = added - high
    return added, low + ((high - (added - back)) + (addend - back))
