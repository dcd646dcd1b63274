"""The B² part of the contrastive losses on torch: a sweep over blocks of pairs, each a negative, and what it adds up.

With s_ij = x_i·y_j, over all pairs (i, j) but those with j = i + offset, one that weighs the pairs leaves

    sums = Σ of a few terms of a pair,  image_i = Σ_j w_ij y_j,  text_j = Σ_i w_ij x_i

and one for normalisers image_i = log Σ_j exp(t s_ij) and text_j = log Σ_i exp(t s_ij). The weights w and the terms are
the loss's own (`sigmoid`, `softmax`). A block is at most S by S pairs, whatever the batch, so the memory beside the
gradients stays the same. The first block writes its products to new memory, those after it add to them.

Legend: m rows (images), n columns (texts), d width; r rows and c columns of a block. docs/sigmoid_loss.md and
docs/contrastive.md derive all of it.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from itertools import product
from typing import NamedTuple

import torch
import torch.distributed as dist
import torch.nn.functional as F

from diptych.backends.plan import FLOAT16_SCALE, block_size, whole_waves

LARGEST_BLOCK = {"cpu": 1024, "other": 4096}
"""Rows and columns of a block of torch's own operations: on a CPU it stays in the cache."""


class Swept(NamedTuple):
    """What a sweep leaves.

    Attributes:
        sums: `[p, terms]`, the terms of all pairs in p parts, to be added up in float64.
        image, text: what each image and each text has, in float32; None for what was not asked for. Weighed embeddings
            are `[m, w]` and `[n, w]`, w the width or, by Triton, the next multiple of 8; logarithms `[m]` and `[n]`.
    """

    sums: torch.Tensor
    image: torch.Tensor | None
    text: torch.Tensor | None


@dataclass(frozen=True)
class Sweep:
    """A sweep, and how its results of several sets of pairs become one.

    Attributes:
        run: `(x, y, offset, *beside, left_free=0)` -> what it leaves; beside goes with the rows, and then with the
            columns. left_free: multiprocessors that kernels of our own leave to what else runs on a GPU.
        merge: `(one, other)` -> both, in the memory of the one.
        own_part: `(text, group)` -> this rank's own texts, of what every rank has of all of them, `[ranks * n, ...]`.
    """

    run: Callable[..., Swept]
    merge: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
    own_part: Callable[..., torch.Tensor]


def weighing(run: Callable[..., Swept]) -> Sweep:
    """A sweep whose embeddings, weighed, are added up."""
    return Sweep(run, torch.Tensor.add_, _added_part)


def normalising(run: Callable[..., Swept]) -> Sweep:
    """A sweep whose logarithms are those of sums."""
    return Sweep(run, lambda one, other: torch.logaddexp(one, other, out=one), _normalised_part)


def _added_part(text: torch.Tensor, group) -> torch.Tensor:
    own = text.new_empty(len(text) // dist.get_world_size(group), *text.shape[1:])
    dist.reduce_scatter_tensor(own, text, group=group)
    return own


def _normalised_part(text: torch.Tensor, group) -> torch.Tensor:
    own = torch.empty_like(text)
    dist.all_to_all_single(own, text, group=group)
    return own.view(dist.get_world_size(group), -1).logsumexp(0)


class LogitsBlock(NamedTuple):
    """A block of pairs: its rows and columns, its embeddings in float32, and z = t s, -inf on the diagonal."""

    rows: slice
    columns: slice
    x: torch.Tensor
    y: torch.Tensor
    z: torch.Tensor

    def add_products(self, weights: torch.Tensor, image: torch.Tensor, text: torch.Tensor) -> None:
        """Adds this block's weighed embeddings to those of all rows and columns, whose first block writes them."""
        image[self.rows].addmm_(weights, self.y, beta=float(self.columns.start > 0))
        text[self.columns].addmm_(weights.T, self.x, beta=float(self.rows.start > 0))


def logits_in_blocks(x, y, scale, offset: int, largest: int | None = None) -> Iterator[LogitsBlock]:
    """All blocks, row by row, in float32, on any device: embeddings of fewer bits are converted block by block."""
    for rows in _blocks(x, largest):
        x_block = x[rows].float()
        scaled = x_block * scale
        for columns in _blocks(y, largest):
            y_block = y[columns].float()
            z = torch.mm(scaled, y_block.T)
            _diagonal(z, offset + rows.start - columns.start).fill_(-torch.inf)
            yield LogitsBlock(rows, columns, x_block, y_block, z)


def sum_of_weighed_cosines(x, image, largest: int | None = None) -> torch.Tensor:
    """Σ_ij w_ij s_ij in float64, which is Σ_i x_i·image_i."""
    total = torch.zeros((), dtype=torch.float64, device=x.device)
    for rows in _blocks(x, largest):
        total += torch.vdot(x[rows].float().flatten(), image[rows].flatten())
    return total


def accumulators(x, y) -> tuple[torch.Tensor, torch.Tensor]:
    """Memory for image and text, whatever is in it: the first block that comes to a row writes it."""
    return x.new_empty(x.shape, dtype=torch.float32), y.new_empty(y.shape, dtype=torch.float32)


def _blocks(x: torch.Tensor, largest: int | None) -> list[slice]:
    largest = largest or LARGEST_BLOCK.get(x.device.type, LARGEST_BLOCK["other"])
    return _cut(len(x), block_size(len(x), largest, multiple=min(largest, 128)))


def _cut(length: int, size: int) -> list[slice]:
    return [slice(start, min(start + size, length)) for start in range(0, length, size)]


def _diagonal(matrix: torch.Tensor, offset: int) -> torch.Tensor:
    """The entries (i, i + offset) as a view; none where the offset lies outside."""
    rows, columns = matrix.shape
    return matrix.diagonal(offset) if -rows < offset < columns else matrix[:0, 0]


def weighed_by_triton(
    launch: Callable,
    x,
    y,
    offset: int,
    *,
    terms: int,
    with_gradients: bool,
    largest: int | None,
    left_free: int,
):
    """A sweep of bfloat16 or float16 embeddings on an NVIDIA GPU; weights in their dtype, all sums in float32.

    launch: `(x [r, d], y [c, d], rows, columns, diagonal, weights [r, c] or None, sums [programs, terms])` writes the
        weights and sums of a block; rows and columns say where in the batch it lies, diagonal where its pairs that are
        left out.
    """
    from diptych.backends.torch.contrastive import triton_block

    x, y = _aligned(x), _aligned(y)
    r, c = (_gpu_block(a, largest) for a in (x, y))
    image, text = accumulators(x, y) if with_gradients else (None, None)
    scratch = x.new_empty(r, c) if with_gradients else None
    all_rows, all_columns = _cut(len(x), r), _cut(len(y), c)
    programs = triton_block.programs(r, c, x.device, triton_block.config_on(x.device), left_free=left_free)
    sums = torch.empty(len(all_rows) * len(all_columns), programs, terms, device=x.device)
    for (rows, columns), own_sums in zip(product(all_rows, all_columns), sums, strict=True):
        x_block, y_block = x[rows], y[columns]
        weights = None if scratch is None else scratch[: len(x_block), : len(y_block)]
        launch(x_block, y_block, rows, columns, offset + rows.start - columns.start, weights, own_sums)
        if image is not None and text is not None and weights is not None:
            accumulate(image[rows], weights, y_block, first=columns.start == 0)
            accumulate(text[columns], weights.T, x_block, first=rows.start == 0)
    return Swept(sums.flatten(0, 1), image, text)


def aligned_blocks(x, y, largest: int | None) -> Iterator[tuple[slice, slice, torch.Tensor, torch.Tensor]]:
    """All blocks as Triton's kernels take them: rows, columns, and the embeddings there."""
    x, y = _aligned(x), _aligned(y)
    r, c = (_gpu_block(a, largest) for a in (x, y))
    for rows, columns in product(_cut(len(x), r), _cut(len(y), c)):
        yield rows, columns, x[rows], y[columns]


def accumulate(total: torch.Tensor, a: torch.Tensor, b: torch.Tensor, *, first: bool) -> None:
    """total += a b, or total = a b where it is the first; total in float32, a and b in 16 bits. float16 weights are
    brought back to their scale.
    """
    alpha, beta = (1.0 / FLOAT16_SCALE if a.dtype == torch.float16 else 1.0), float(not first)
    if a.device.type == "cpu":  # where Triton's interpreter runs
        total.addmm_(a.float(), b.float(), alpha=alpha, beta=beta)
    elif _adds_in_place(a.device, a.dtype):
        torch.ops.aten.addmm.dtype_out(total, a, b, torch.float32, beta=beta, alpha=alpha, out=total)
    else:
        added = torch.ops.aten.mm.dtype(a, b, torch.float32)
        torch.mul(added, alpha, out=total) if first else total.add_(added, alpha=alpha)


@cache
def _adds_in_place(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether this torch adds a product of 16-bit matrices to a float32 one in place; asked of it once, on a small
    case.

    It is not documented. Where it cannot, the product takes memory of its own and a pass more over it.
    """
    total, a = torch.ones(16, 16, device=device), torch.eye(16, dtype=dtype, device=device)
    try:
        torch.ops.aten.addmm.dtype_out(total, a, a, torch.float32, beta=1.0, alpha=1.0, out=total)
    except (AttributeError, RuntimeError):
        return False
    return torch.equal(total, 1.0 + a.float())


def _aligned(x: torch.Tensor) -> torch.Tensor:
    """x as the copy engine reads it: it starts at a multiple of 16 bytes, and rows of a multiple of 16 bytes lie one
    after the other. A copy only where it is not so.
    """
    if x.shape[1] % 8:
        return F.pad(x, (0, -x.shape[1] % 8))
    return x if x.is_contiguous() and x.data_ptr() % 16 == 0 else x.clone(memory_format=torch.contiguous_format)


def _gpu_block(x: torch.Tensor, largest: int | None) -> int:
    """Rows of a block of x: those that fill the GPU, or at most as many as are asked for."""
    from diptych.backends.torch.contrastive.triton_block import multiprocessors

    if largest is not None:
        return block_size(len(x), largest, multiple=min(largest, 128))
    return whole_waves(len(x), x.shape[1], multiprocessors(x.device))
