"""The judge of a kernel's block: its probabilities and sums against float64 NumPy."""

import numpy as np

from benchmarks.loss_contest import BIAS, SCALE

OFFSET = 37
"""The column of row 0's pair that is left out."""
ROUNDOFF = 2.0**-8
"""Of a probability in bfloat16, relative; half of it where it is rounded to the nearest."""
SUM_ERROR = 1e-5


def fault(x, y, probabilities, sums, *, rows: int, columns: int, roundoff: float) -> tuple[str | None, float]:
    """(what is wrong with an answer, None for nothing; the largest relative error of its sums).

    Args:
        x, y: `[m, d]` and `[n, d]`, the values that the kernel had. Pairs (i, i) may be close: they are negatives here,
            as are all but (i, i + OFFSET).
        probabilities: `[m, n]`, σ(z), 0 for what is left out or lies beyond rows and columns.
        sums: `[p, 3]`, Σ softplus(z), Σ σ(z) s and Σ σ(z) in parts.
        roundoff: relative, of the probabilities.
    """
    x, y, got, sums = (np.asarray(array, np.float64) for array in (x, y, probabilities, sums))
    s = x @ y.T
    z = SCALE * s + BIAS
    i, j = np.indices(z.shape)
    z[(i >= rows) | (j >= columns) | (j - i == OFFSET)] = -np.inf
    exact, softplus = np.exp(-np.logaddexp(0.0, -z)), np.logaddexp(0.0, z)
    cosine = exact * s
    right = np.array([softplus.sum(), cosine.sum(), exact.sum()])
    error = float(np.max(np.abs(sums.sum(0) - right) / [right[0], np.abs(cosine).sum(), right[2]]))
    if not error <= SUM_ERROR:
        return f"the sums are off by a relative {error:.1e}, allowed {SUM_ERROR:.0e}", error
    logit_error = 2.0**-24 * SCALE * (x.shape[1] ** 0.5 + 2)
    wrong = ~(np.abs(got - exact) <= (roundoff + 4 * logit_error) * exact + 2.0**-126)
    return (f"{wrong.sum()} of {wrong.size} probabilities are wrong" if wrong.any() else None), error
