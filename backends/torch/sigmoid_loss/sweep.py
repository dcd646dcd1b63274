"""The B² part of the sigmoid loss on torch: one sweep over blocks of pairs, each a negative, for value and gradients at
once.

With s_ij = x_i·y_j and z = t s + b, over all pairs (i, j) but those with j = i + offset:

    softplus = Σ log(1 + exp(z)),  cosine = Σ σ(z) s,  probability = Σ σ(z),  image_i = Σ_j σ(z) y_j,  text_j = Σ_i σ(z)
    x_i

A block is at most S by S pairs, whatever the batch, so the memory beside the gradients stays the same. `blocked` is
made of torch's own operations, `triton` of one kernel for a block's probabilities and two library products. The first
block writes its products to new memory, those after it add to them.

Legend: m rows (images), n columns (texts), d width; r rows and c columns of a block. docs/sigmoid_loss.md derives all
of it.
"""

from collections.abc import Callable
from functools import cache
from itertools import product
from typing import NamedTuple

import torch
import torch.nn.functional as F

from diptych.backends.plan import FLOAT16_SCALE, block_size, whole_waves

LARGEST_BLOCK = {"cpu": 1024, "other": 4096}
"""Rows and columns of a block of `blocked`: on a CPU it stays in the cache."""


class Negatives(NamedTuple):
    """What a sweep leaves.

    Attributes:
        sums: `[p, 3]`, Σ softplus(z), Σ σ(z) s and Σ σ(z) in p parts, to be added up in float64.
        image, text: Σ_j σ(z_ij) y_j `[m, w]` and Σ_i σ(z_ij) x_i `[n, w]` in float32, w the width or, for `triton`, the
            next multiple of 8; None without gradients.
    """

    sums: torch.Tensor
    image: torch.Tensor | None
    text: torch.Tensor | None


Sweep = Callable[..., Negatives]


def blocked(x, y, scale_and_bias, offset: int, *, with_gradients: bool = True, largest: int | None = None) -> Negatives:
    """Everything in float32, on any device: embeddings of fewer bits are converted block by block.

    Σ σ s is not summed up over the pairs: it is Σ_i x_i·image_i.
    """
    largest = largest or LARGEST_BLOCK.get(x.device.type, LARGEST_BLOCK["other"])
    scale, bias = scale_and_bias.unbind()
    sums = torch.zeros(3, dtype=torch.float64, device=x.device)
    image, text = _accumulators(x, y) if with_gradients else (None, None)
    for rows in _blocks(len(x), largest):
        x_block = x[rows].float()
        scaled = x_block * scale
        for columns in _blocks(len(y), largest):
            y_block = y[columns].float()
            z = torch.mm(scaled, y_block.T).add_(bias)
            # Where z is -inf, its softplus and its probability are exactly 0.
            _diagonal(z, offset + rows.start - columns.start).fill_(-torch.inf)
            sums[0] += F.softplus(z).sum()
            if image is not None and text is not None:
                probability = z.sigmoid_()
                sums[2] += probability.sum()
                image[rows].addmm_(probability, y_block, beta=float(columns.start > 0))
                text[columns].addmm_(probability.T, x_block, beta=float(rows.start > 0))
        if image is not None:
            sums[1] += torch.vdot(x_block.flatten(), image[rows].flatten())
    return Negatives(sums[None], image, text)


def triton(x, y, scale_and_bias, offset: int, *, with_gradients: bool = True, largest: int | None = None) -> Negatives:
    """bfloat16 or float16 embeddings on an NVIDIA GPU; probabilities in their dtype, all sums in float32."""
    from diptych.backends.torch.sigmoid_loss import triton_block

    x, y = aligned(x), aligned(y)
    r, c = (_gpu_block(a, largest) for a in (x, y))
    image, text = _accumulators(x, y) if with_gradients else (None, None)
    scratch = x.new_empty(r, c) if with_gradients else None
    all_rows, all_columns = _cut(len(x), r), _cut(len(y), c)
    programs = triton_block.programs(r, c, x.device, triton_block.config_on(x.device))
    sums = torch.empty(len(all_rows) * len(all_columns), programs, 3, device=x.device)
    for (rows, columns), own_sums in zip(product(all_rows, all_columns), sums, strict=True):
        x_block, y_block = x[rows], y[columns]
        probability = None if scratch is None else scratch[: len(x_block), : len(y_block)]
        diagonal = offset + rows.start - columns.start
        triton_block.negatives_block(x_block, y_block, scale_and_bias, diagonal, probability, own_sums)
        if image is not None and text is not None and probability is not None:
            accumulate(image[rows], probability, y_block, first=columns.start == 0)
            accumulate(text[columns], probability.T, x_block, first=rows.start == 0)
    return Negatives(sums.flatten(0, 1), image, text)


def _accumulators(x, y) -> tuple[torch.Tensor, torch.Tensor]:
    """Memory for image and text, whatever is in it: the first block that comes to a row writes it."""
    return x.new_empty(x.shape, dtype=torch.float32), y.new_empty(y.shape, dtype=torch.float32)


def _blocks(length: int, largest: int) -> list[slice]:
    return _cut(length, block_size(length, largest, multiple=min(largest, 128)))


def _cut(length: int, size: int) -> list[slice]:
    return [slice(start, min(start + size, length)) for start in range(0, length, size)]


def _diagonal(matrix: torch.Tensor, offset: int) -> torch.Tensor:
    """The entries (i, i + offset) as a view; none where the offset lies outside."""
    rows, columns = matrix.shape
    return matrix.diagonal(offset) if -rows < offset < columns else matrix[:0, 0]


def accumulate(total: torch.Tensor, a: torch.Tensor, b: torch.Tensor, *, first: bool) -> None:
    """total += a b, or total = a b where it is the first; total in float32, a and b in 16 bits. float16 probabilities
    are brought back to their scale.
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


def aligned(x: torch.Tensor) -> torch.Tensor:
    """x as the copy engine reads it: it starts at a multiple of 16 bytes, and rows of a multiple of 16 bytes lie one
    after the other. A copy only where it is not so.
    """
    if x.shape[1] % 8:
        return F.pad(x, (0, -x.shape[1] % 8))
    return x if x.is_contiguous() and x.data_ptr() % 16 == 0 else x.clone(memory_format=torch.contiguous_format)


def _gpu_block(x: torch.Tensor, largest: int | None) -> int:
    """Rows of a block of x: those that fill the GPU, or at most as many as are asked for."""
    from diptych.backends.torch.sigmoid_loss.triton_block import multiprocessors

    if largest is not None:
        return block_size(len(x), largest, multiple=min(largest, 128))
    return whole_waves(len(x), x.shape[1], multiprocessors(x.device))
