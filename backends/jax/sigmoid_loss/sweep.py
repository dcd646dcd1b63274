"""The B² part of the sigmoid loss on jax: one sweep over blocks of pairs, each a negative, for value and gradients at
once.

With s_ij = x_i·y_j and z = t s + b, over all pairs (i, j) but those with j = i + offset:

    softplus = Σ log(1 + exp(z)),  cosine = Σ σ(z) s,  probability = Σ σ(z),  image_i = Σ_j σ(z) y_j,  text_j = Σ_i σ(z)
    x_i

A block is at most `largest` by `largest` pairs, whatever the batch: memory grows with the embeddings alone. What
computes a block's probabilities is a value, `Block`: XLA's own fusion here, the kernels in `pallas_gpu` and
`pallas_tpu`.

Legend: m rows (images), n columns (texts), d width; r rows and c columns of a block. docs/sigmoid_loss.md derives all
of it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from diptych.backends.plan import FLOAT16_SCALE, block_size, whole_waves


class Sums(NamedTuple):
    """Σ softplus(z), Σ σ(z) s and Σ σ(z): float32 scalars."""

    softplus: jax.Array
    cosine: jax.Array
    probability: jax.Array


class Negatives(NamedTuple):
    """The sums, and Σ_j σ(z_ij) y_j `[m, d]` and Σ_i σ(z_ij) x_i `[n, d]` in float32; None without gradients."""

    sums: Sums
    image: jax.Array | None
    text: jax.Array | None


@dataclass(frozen=True)
class Block:
    """How one block of pairs is computed.

    compute: `(x [r, d], y [c, d], scale_and_bias [2], limits [3], with_probabilities) -> (probabilities [r, c] or None,
        sums [p, 3])`. limits holds the rows and columns that are not padding, and the offset of the diagonal; what they
        exclude has probability 0 and is in no sum. float16 probabilities are multiplied by FLOAT16_SCALE.
    largest: the most rows and columns of a block, a multiple of `multiple`.
    multiple: what rows and columns are padded to.
    dtype: what the embeddings are converted to, block by block; None for their own.
    processors: the multiprocessors of the device whose waves the gradients' products are to fill, asked while the
        program is traced; None where the fewest blocks are the best.
    """

    compute: Callable
    largest: int
    multiple: int
    dtype: str | None = None
    processors: Callable[[], int] | None = None

    def size(self, length: int, width: int) -> int:
        """Rows or columns of a block, of so many in all."""
        if self.processors is None:
            return block_size(length, self.largest, self.multiple)
        return whole_waves(length, width, self.processors(), largest=self.largest, multiple=self.multiple)


def negatives(x, y, scale_and_bias, offset, *, block: Block, with_gradients: bool = True) -> Negatives:
    """The sweep; offset is an int32 scalar, traced or not, and one outside of [-m, n] excludes nothing."""
    (rows, width), (columns, _) = x.shape, y.shape
    r, c = (block.size(length, width) for length in (rows, columns))
    x, y = (_padded(array, size) for array, size in ((x, r), (y, c)))
    offset = jnp.asarray(offset, jnp.int32)

    def row(carry, start_and_rows):
        start, x_block = start_and_rows
        x_block = _cast(x_block, block)

        def column(index, carry):
            image, text, sums = carry
            at = index * c
            y_block = _cast(lax.dynamic_slice_in_dim(y, at, c), block)
            limits = jnp.stack([rows - start, columns - at, offset + start - at])
            probabilities, partial = block.compute(x_block, y_block, scale_and_bias, limits, with_gradients)
            if with_gradients:
                image = image + _product(probabilities, y_block, contract=(1, 0))
                moved = lax.dynamic_slice_in_dim(text, at, c) + _product(probabilities, x_block, contract=(0, 0))
                text = lax.dynamic_update_slice_in_dim(text, moved, at, axis=0)
            return image, text, _add(sums, partial)

        text, sums = carry
        image = jnp.zeros(x_block.shape if with_gradients else (), jnp.float32)
        image, text, sums = lax.fori_loop(0, y.shape[0] // c, column, (image, text, sums))
        return (text, sums), image

    starts = jnp.arange(0, x.shape[0], r, dtype=jnp.int32)
    zeros = jnp.zeros(y.shape if with_gradients else (), jnp.float32), (jnp.zeros(3), jnp.zeros(3))
    (text, (high, low)), image = lax.scan(row, zeros, (starts, x.reshape(-1, r, x.shape[1])))
    sums = Sums(*(high + low))
    if not with_gradients:
        return Negatives(sums, None, None)
    return Negatives(sums, image.reshape(x.shape)[:rows], text[:columns])


def xla_block(x, y, scale_and_bias, limits, with_probabilities):
    """See `Block`: products by the library, the rest fused by the compiler."""
    s = _product(x, y, contract=(1, 1))
    z = scale_and_bias[0] * s + scale_and_bias[1]
    i, j = lax.broadcasted_iota(jnp.int32, s.shape, 0), lax.broadcasted_iota(jnp.int32, s.shape, 1)
    kept = (i < limits[0]) & (j < limits[1]) & (j - i != limits[2])
    e = jnp.exp(-jnp.abs(z))
    reciprocal = 1.0 / (1.0 + e)
    softplus = jnp.where(kept, jnp.maximum(z, 0.0) + jnp.log1p(e), 0.0)
    probability = jnp.where(kept, jnp.where(z >= 0.0, reciprocal, e * reciprocal), 0.0)
    sums = jnp.stack([jnp.sum(term, axis=1) for term in (softplus, probability * s, probability)], axis=1)
    if not with_probabilities:
        return None, sums
    scale = FLOAT16_SCALE if x.dtype == jnp.float16 else 1.0
    return (probability * scale).astype(x.dtype), sums


def _padded(array, size):
    missing = -array.shape[0] % size
    return jnp.pad(array, ((0, missing), (0, 0))) if missing else array


def _cast(array, block):
    return array if block.dtype is None else array.astype(block.dtype)


def _product(a, b, *, contract):
    """A product of matrices in float32 along the axes `contract`, float16 probabilities brought back to their scale."""
    product = lax.dot_general(a, b, (((contract[0],), (contract[1],)), ((), ())), preferred_element_type=jnp.float32)
    return product / FLOAT16_SCALE if a.dtype == jnp.float16 and contract != (1, 1) else product


def _add(sums, partial):
    """Adds partial sums `[p, 3]` to (high, low): what float32 cannot hold of the high part goes to the low one
    (Knuth).
    """
    high, low = sums
    addend = jnp.sum(partial, axis=0)
    total = high + addend
    back = total - high
    return total, low + ((high - (total - back)) + (addend - back))
