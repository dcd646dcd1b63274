"""The B² part of the sigmoid loss on torch: one sweep over blocks of pairs, each a negative, for value and gradients at
once.

With s_ij = x_i·y_j and z = t s + b, over all pairs (i, j) but those with j = i + offset:

    softplus = Σ log(1 + exp(z)),  cosine = Σ σ(z) s,  probability = Σ σ(z),  image_i = Σ_j σ(z) y_j,  text_j = Σ_i σ(z)
    x_i

A block is at most S by S pairs, whatever the batch, so the memory beside the gradients stays the same. `blocked` is
made of torch's own operations, `triton` of one kernel for a block's probabilities and two library products.

Legend: m rows (images), n columns (texts), d width. docs/sigmoid_loss.md derives all of it.
"""

from collections.abc import Callable, Iterator
from functools import cache
from typing import NamedTuple

import torch
import torch.nn.functional as F

from diptych.backends.plan import FLOAT16_SCALE, block_size

LARGEST_BLOCK = {"cpu": 1024, "other": 4096}
"""Rows and columns of a block of `blocked`: on a CPU it stays in the cache."""


class Negatives(NamedTuple):
    """Σ softplus(z), Σ σ(z) s and Σ σ(z) as float64 `[3]`; Σ_j σ(z_ij) y_j `[m, d]`, Σ_i σ(z_ij) x_i `[n, d]` in
    float32.

    The last two are None without gradients.
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
                image[rows].addmm_(probability, y_block)
                text[columns].addmm_(probability.T, x_block)
        if image is not None:
            sums[1] += torch.vdot(x_block.flatten(), image[rows].flatten())
    return Negatives(sums, image, text)


def triton(x, y, scale_and_bias, offset: int, *, with_gradients: bool = True, largest: int | None = None) -> Negatives:
    """bfloat16 or float16 embeddings on an NVIDIA GPU; probabilities in their dtype, all sums in float32."""
    from diptych.backends.torch.sigmoid_loss.triton_block import negatives_block

    width = x.shape[1]
    x, y = _aligned(x), _aligned(y)
    largest = largest or _whole_waves(x.device.index or 0)
    sums = torch.zeros(3, dtype=torch.float64, device=x.device)
    image, text = _accumulators(x, y) if with_gradients else (None, None)
    sizes = [block_size(length, largest, multiple=128) for length in (len(x), len(y))]
    scratch = x.new_empty(sizes) if with_gradients else None
    for rows in _blocks(len(x), largest):
        for columns in _blocks(len(y), largest):
            x_block, y_block = x[rows], y[columns]
            probability = None if scratch is None else scratch[: len(x_block), : len(y_block)]
            partial = negatives_block(
                x_block, y_block, scale_and_bias, offset + rows.start - columns.start, probability
            )
            sums += partial.sum(0, dtype=torch.float64)
            if image is not None and text is not None and probability is not None:
                accumulate(image[rows], probability, y_block)
                accumulate(text[columns], probability.T, x_block)
    if image is None or text is None:
        return Negatives(sums, None, None)
    return Negatives(sums, image[:, :width], text[:, :width])


def _accumulators(x, y) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.zeros(x.shape, device=x.device), torch.zeros(y.shape, device=x.device)


def _blocks(length: int, largest: int) -> Iterator[slice]:
    size = block_size(length, largest, multiple=min(largest, 128))
    return (slice(start, min(start + size, length)) for start in range(0, length, size))


def _diagonal(matrix: torch.Tensor, offset: int) -> torch.Tensor:
    """The entries (i, i + offset) as a view; none where the offset lies outside."""
    rows, columns = matrix.shape
    return matrix.diagonal(offset) if -rows < offset < columns else matrix[:0, 0]


def accumulate(total: torch.Tensor, a: torch.Tensor, b: torch.Tensor) -> None:
    """total += a b, total in float32, a and b in 16 bits; float16 probabilities are brought back to their scale."""
    alpha = 1.0 / FLOAT16_SCALE if a.dtype == torch.float16 else 1.0
    if a.device.type == "cpu":  # where Triton's interpreter runs
        total.addmm_(a.float(), b.float(), alpha=alpha)
    elif _adds_in_place(a.device, a.dtype):
        torch.ops.aten.addmm.dtype_out(total, a, b, torch.float32, beta=1.0, alpha=alpha, out=total)
    else:
        total.add_(torch.ops.aten.mm.dtype(a, b, torch.float32), alpha=alpha)


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
    """x as the copy engine wants it: rows of a multiple of 16 bytes, one after the other."""
    return F.pad(x, (0, -x.shape[1] % 8)).contiguous()


@cache
def _whole_waves(device: int) -> int:
    """The largest block: 64 rows a multiprocessor, so that the tiles of every product come in whole waves.

    8448 on 132 multiprocessors, of which a block's probabilities take 143 MB.
    """
    return 64 * torch.cuda.get_device_properties(device).multi_processor_count // 128 * 128
