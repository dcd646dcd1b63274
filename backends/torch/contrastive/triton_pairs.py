"""The positive pairs of the sigmoid loss on NVIDIA GPUs, and all that is left once the negatives are swept, in Triton.

With s_i = x_i·y_(i+offset), z_i = t s_i + b and g_i = -σ(-z_i), over the pairs (i, i + offset) that there are:

    dx_i = (t / n) (image_i + g_i y_(i+offset)),  dy_(i+offset) = (t / n) (text_(i+offset) + g_i x_i)
    sums = (Σ log(1 + exp(-z)), Σ g s, Σ g)

These sums and those of the negatives, divided by n, are the loss and the gradients of b and t. One launch finishes the
embeddings' gradients and one the three numbers, where torch's own operations take 25.

Legend: m rows of x (images), n rows of y (texts), D width; a program has ROWS pairs, and goes over their embeddings in
STEP columns at a time.
"""

import torch
import triton
import triton.language as tl

from diptych.backends.torch.contrastive.triton_block import INTERPRETED
from diptych.backends.torch.contrastive.triton_functions import LN_2, LOG2_E, log2_of_one_more, sigmoid_parts

ROWS = 16
STEP = 128
SUMS_AT_ONCE = 1024


@triton.jit
def _rows(a, index, stride, columns, mask):
    """Rows of a matrix at some columns in float32, 0 outside of the mask; 64-bit addresses."""
    return tl.load(a + index[:, None].to(tl.int64) * stride + columns[None, :], mask=mask, other=0.0).to(tl.float32)


@triton.jit(do_not_specialize=["first", "m", "n", "offset", "denominator"])
def pairs_kernel(
    x,
    y,
    image,
    text,
    dx,
    dy,
    scale_and_bias,
    sums,
    first,
    m,
    n,
    offset,
    denominator,
    x_stride,
    y_stride,
    sums_stride,
    D: tl.constexpr,
    ROWS: tl.constexpr,
    STEP: tl.constexpr,
    WITH_GRADIENTS: tl.constexpr,
    INTERPRETED: tl.constexpr,
):
    """See `finished`. Rows of image and text are sums_stride apart, those of dx and dy D."""
    i = first + tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    j = i + offset
    is_image, is_text = (i >= 0) & (i < m), (j >= 0) & (j < n)
    is_pair = is_image & is_text
    s = tl.zeros((ROWS,), tl.float32)
    for start in tl.static_range(0, D, STEP):
        columns = start + tl.arange(0, STEP)
        mask = is_pair[:, None] & (columns < D)[None, :]
        s += tl.sum(_rows(x, i, x_stride, columns, mask) * _rows(y, j, y_stride, columns, mask), 1)

    scale = tl.load(scale_and_bias)
    u = -(scale * s + tl.load(scale_and_bias + 1)) * LOG2_E
    sigmoid, e = sigmoid_parts(u, INTERPRETED)
    softplus = (tl.maximum(u, 0.0) + log2_of_one_more(e, INTERPRETED)) * LN_2
    g = tl.where(is_pair, -sigmoid, 0.0)
    own = sums + 3 * tl.program_id(0)
    tl.store(own, tl.sum(tl.where(is_pair, softplus, 0.0)))
    tl.store(own + 1, tl.sum(g * s))
    tl.store(own + 2, tl.sum(g))

    if WITH_GRADIENTS:
        factor = scale / denominator
        for start in tl.static_range(0, D, STEP):
            columns = start + tl.arange(0, STEP)
            inside = (columns < D)[None, :]
            pairs, images, texts = is_pair[:, None] & inside, is_image[:, None] & inside, is_text[:, None] & inside
            image_rows = _rows(image, i, sums_stride, columns, images)
            image_rows += g[:, None] * _rows(y, j, y_stride, columns, pairs)
            tl.store(dx + i[:, None].to(tl.int64) * D + columns[None, :], factor * image_rows, mask=images)
            text_rows = _rows(text, j, sums_stride, columns, texts)
            text_rows += g[:, None] * _rows(x, i, x_stride, columns, pairs)
            tl.store(dy + j[:, None].to(tl.int64) * D + columns[None, :], factor * text_rows, mask=texts)


@triton.jit(do_not_specialize=["negatives", "positives", "denominator"])
def totals_kernel(
    negative_sums,
    positive_sums,
    loss,
    scalar_gradients,
    negatives,
    positives,
    denominator,
    AT_ONCE: tl.constexpr,
):
    """Adds up both tables `[negatives, 3]` and `[positives, 3]` in float64, a column a program, and divides."""
    column = tl.program_id(0)
    total = tl.zeros((AT_ONCE,), tl.float64)
    row = 0
    while row < negatives:
        rows = row + tl.arange(0, AT_ONCE)
        total += tl.load(negative_sums + 3 * rows + column, mask=rows < negatives, other=0.0).to(tl.float64)
        row += AT_ONCE
    row = 0
    while row < positives:
        rows = row + tl.arange(0, AT_ONCE)
        total += tl.load(positive_sums + 3 * rows + column, mask=rows < positives, other=0.0).to(tl.float64)
        row += AT_ONCE
    mean = (tl.sum(total) / denominator).to(tl.float32)
    tl.store(loss, mean, mask=column == 0)
    tl.store(scalar_gradients + column - 1, mean, mask=column > 0)


def finished(
    sums: torch.Tensor,
    image: torch.Tensor | None,
    text: torch.Tensor | None,
    x: torch.Tensor,
    y: torch.Tensor,
    scale_and_bias: torch.Tensor,
    *,
    offset: int,
    denominator: int,
) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None, torch.Tensor]:
    """The loss, and its gradients with respect to x, y, and t and b together.

    Args:
        sums: float32 `[p, 3]`, the negatives' Σ log(1 + exp(z)), Σ σ(z) s and Σ σ(z) in parts.
        image, text: float32 `[m, w]` and `[n, w]`, w at least d, the negatives' Σ_j σ(z_ij) y_j and Σ_i σ(z_ij) x_i;
            overwritten by the gradients where w is d. Both None where no gradient is wanted.
        x, y: `[m, d]` and `[n, d]` on a CUDA device, their columns contiguous.
        scale_and_bias: float32 `[2]`, t and b, on the device.
        offset: the column of row 0's positive pair.
        denominator: what loss and gradients are divided by, the number of images of the whole batch.

    Returns:
        A float32 scalar, gradients `[m, d]`, `[n, d]` (None where none is wanted) and `[2]` in float32.
    """
    (m, d), n = x.shape, len(y)
    offset = offset if -m < offset < n else n
    first, last = min(0, -offset), max(m, n - offset)
    programs = triton.cdiv(last - first, ROWS)
    own_sums = sums.new_empty(programs, 3)
    dx = dy = None
    if image is not None and text is not None:
        dx, dy = (a if a.shape[1] == d else a.new_empty(len(a), d) for a in (image, text))
    loss, scalar_gradients = sums.new_empty(()), sums.new_empty(2)
    with torch.cuda.device_of(x):
        pairs_kernel[(programs,)](
            x,
            y,
            image,
            text,
            dx,
            dy,
            scale_and_bias,
            own_sums,
            first,
            m,
            n,
            offset,
            denominator,
            x.stride(0),
            y.stride(0),
            d if image is None else image.stride(0),
            D=d,
            ROWS=ROWS,
            STEP=STEP,
            WITH_GRADIENTS=image is not None,
            INTERPRETED=INTERPRETED,
        )
        totals_kernel[(3,)](
            sums,
            own_sums,
            loss,
            scalar_gradients,
            len(sums),
            programs,
            denominator,
            AT_ONCE=SUMS_AT_ONCE,
        )
    return loss, dx, dy, scalar_gradients
