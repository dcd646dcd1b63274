"""Functions that the Triton kernels of the sigmoid loss share: σ, and sums of softplus by products.

With u = z log2(e) and e = 2^-|u| in (0, 1]: σ(z) is 1 / (1 + e) or e / (1 + e), and softplus(z) = ln(2) (max(u, 0) +
log2(1 + e)). Over several pairs Σ log2(1 + e_j) = log2 Π (1 + e_j), so a product of 64 factors, each between 1 and 2,
takes one logarithm where the sum takes 64. What is carried is q = Π (1 + e_j) - 1, which keeps its relative precision
where all e_j are tiny, as they are for most of SigLIP's pairs.
"""

import math

import triton
import triton.language as tl

from diptych.backends.plan import LOG1P

LOG2_E = tl.constexpr(math.log2(math.e))
LN_2 = tl.constexpr(math.log(2.0))
LOG1P_SERIES = tl.constexpr(LOG1P)
LAST_POWER = tl.constexpr(len(LOG1P) - 1)

LARGEST_PRODUCT = 64
"""Factors of a product: float32 holds 2^127, and two of these are multiplied where a tile's slices are narrow."""


@triton.jit
def reciprocal(a, INTERPRETED: tl.constexpr):
    """1 / a for a in [1, 2], to one unit in the last place.

    Triton's division and logarithm take several instructions more for numbers that do not occur here, so this and the
    next function ask for the GPU's own; the interpreter knows no instructions.
    """
    if INTERPRETED:
        return 1.0 / a
    else:
        return tl.inline_asm_elementwise(
            "rcp.approx.ftz.f32 $0, $1;", "=f,f", [a], dtype=tl.float32, is_pure=True, pack=1
        )


@triton.jit
def log2(a, INTERPRETED: tl.constexpr):
    """log2(a) for a >= 2, to a few units in the last place."""
    if INTERPRETED:
        return tl.log2(a)
    else:
        return tl.inline_asm_elementwise(
            "lg2.approx.ftz.f32 $0, $1;", "=f,f", [a], dtype=tl.float32, is_pure=True, pack=1
        )


@triton.jit
def product_less_one(p, q):
    """(1 + p)(1 + q) - 1."""
    return p * q + p + q


@triton.jit
def product_of_rows(e, COLUMNS: tl.constexpr, INTERPRETED: tl.constexpr):
    """[rows, COLUMNS] -> Π (1 + e_j) - 1 of each row."""
    if INTERPRETED:  # where a reduction by a function of one's own is a loop of Python over all numbers
        while COLUMNS > 1:
            left, right = tl.split(tl.permute(tl.reshape(e, (e.shape[0], 2, COLUMNS // 2)), (0, 2, 1)))
            e = product_less_one(left, right)
            COLUMNS //= 2
        return tl.sum(e, 1)
    else:
        return tl.reduce(e, 1, product_less_one)


@triton.jit
def log2_of_one_more(q, INTERPRETED: tl.constexpr):
    """log2(1 + q) for q >= 0, to a relative 4e-7 also where q is tiny."""
    small = tl.minimum(q, 1.0)
    series = tl.full(q.shape, LOG1P_SERIES[LAST_POWER], tl.float32)
    for i in tl.static_range(LAST_POWER):
        series = series * small + LOG1P_SERIES[LAST_POWER - 1 - i]
    return tl.where(q < 1.0, series * small * LOG2_E, log2(1.0 + q, INTERPRETED))


@triton.jit
def sigmoid_parts(u, INTERPRETED: tl.constexpr):
    """u = z log2(e) -> σ(z) and e = exp(-|z|); 0 and 0 where u is -inf."""
    e = tl.exp2(-tl.abs(u))
    return tl.where(u >= 0, 1.0, e) * reciprocal(1.0 + e, INTERPRETED), e
