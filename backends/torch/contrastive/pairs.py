"""The positive pairs of a contrastive loss on torch, and all that is left once the negatives are swept."""

import torch

from diptych.backends.torch.contrastive.sweep import Swept

PAIRS_AT_ONCE = 16_384
"""Pairs whose embeddings are held in float32 at a time."""


def pair_cosines(x, y, offset: int) -> torch.Tensor:
    """x_i·y_(i+offset) of the pairs that there are, in float32."""
    cosines = [torch.linalg.vecdot(x[rows].float(), y[columns].float()) for rows, columns in _pairs(x, y, offset)]
    return torch.cat(cosines) if cosines else x.new_empty(0, dtype=torch.float32)


def finished(swept: Swept, terms, g, x, y, t, *, offset: int, denominator: int) -> tuple:
    """The loss and its gradients with respect to x, y and the scalars.

    For n images loss and gradients of the scalars = (sums + Σ of the positives' terms) / n, dL/dx_i = (t/n) (image_i +
    g_i y_(i+offset)), and dL/dy likewise. It takes the sweep's image and text as its own; where they are None, so are
    those gradients.
    """
    sums = swept.sums.sum(0, dtype=torch.float64)
    totals = [total + term.sum(dtype=torch.float64) for total, term in zip(sums, terms, strict=True)]
    numbers = [(total / denominator).float() for total in totals]
    if swept.image is not None and swept.text is not None:
        start = 0
        for rows, columns in _pairs(x, y, offset):
            own = g[start : start + rows.stop - rows.start, None]
            swept.image[rows].addcmul_(own, y[columns].float())
            swept.text[columns].addcmul_(own, x[rows].float())
            start += len(own)
        swept.image.mul_(t / denominator)
        swept.text.mul_(t / denominator)
    return numbers[0], swept.image, swept.text, torch.stack(numbers[1:])


def _pairs(x, y, offset: int) -> list[tuple[slice, slice]]:
    """Rows of x and of y that are paired, a part at a time."""
    first, last = max(0, -offset), max(0, -offset, min(len(x), len(y) - offset))
    starts = range(first, last, PAIRS_AT_ONCE)
    parts = [slice(start, min(start + PAIRS_AT_ONCE, last)) for start in starts]
    return [(rows, slice(rows.start + offset, rows.stop + offset)) for rows in parts]
