"""The judge of the sigmoid loss's implementations: problems that a dtype can hold, answers, tolerances."""

import math
from dataclasses import dataclass
from typing import NamedTuple

import ml_dtypes
import numpy as np

from diptych.backends.cases import Case
from tests.oracle.contrastive import sigmoid, sigmoid_loss


class Answer(NamedTuple):
    """The loss and its gradients, as NumPy."""

    loss: np.ndarray
    image_embeddings: np.ndarray
    text_embeddings: np.ndarray
    logit_scale: np.ndarray
    logit_bias: np.ndarray


@dataclass(frozen=True)
class Problem:
    """Embeddings that the dtype can hold, and what goes with them."""

    x: np.ndarray
    y: np.ndarray
    logit_scale: float
    logit_bias: float
    offset: int = 0
    denominator: int | None = None
    dtype: str = "float32"


def problem_of(case: Case, dtype: str = "float32") -> Problem:
    x, y = (round_to(array, dtype) for array in case.draw())
    scalars = (np.float32(case.logit_scale).item(), np.float32(case.logit_bias).item())
    return Problem(x, y, *scalars, offset=case.offset, denominator=case.images, dtype=dtype)


def round_to(x: np.ndarray, dtype: str) -> np.ndarray:
    """float32 values that the dtype holds exactly."""
    return x.astype(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype).astype(np.float32)


def expected(problem: Problem) -> Answer:
    """float64, by the oracle."""
    x, y = problem.x.astype(np.float64), problem.y.astype(np.float64)
    loss, gradients = sigmoid_loss(
        x,
        y,
        logit_scale=problem.logit_scale,
        logit_bias=problem.logit_bias,
        offset=problem.offset,
        denominator=problem.denominator,
    )
    return Answer(np.asarray(loss), *(np.asarray(gradient) for gradient in gradients))


def allowed(problem: Problem, probability_roundoff: float = 0.0) -> Answer:
    """How large the norm of each error may be.

    A logit t s + b is off by u (t sqrt(d) + t + |b|) in float32, u = 2^-24: its sum of d products, its roundings. That
    is the relative error of σ(z) and σ(-z), so of each term of every result; sums of n terms add u sqrt(n). Terms of
    both signs cancel, so errors are measured against the sum of the terms' magnitudes. `probability_roundoff` r is that
    of a kernel that keeps the probabilities of negatives in 16 bits; roundings go either way, so unit vectors off by r
    σ each add up as squares.
    """
    x, y, t, b = problem.x.astype(np.float64), problem.y.astype(np.float64), problem.logit_scale, problem.logit_bias
    (rows, width), columns = x.shape, len(y)
    cosines = x @ y.T
    is_pair = np.eye(rows, columns, k=problem.offset, dtype=bool)
    z = t * cosines + b
    weights = np.where(is_pair, sigmoid(-z), sigmoid(z))
    negatives = np.where(is_pair, 0.0, weights)
    n = problem.denominator or rows
    relative = 2.0**-24 * (t * math.sqrt(width) + t + abs(b) + math.sqrt(max(rows, columns)) + 8)
    losses = np.where(is_pair, np.logaddexp(0, -z), np.logaddexp(0, z)).sum()

    rounded = probability_roundoff * np.linalg.norm(negatives)

    def embeddings(weights, others):
        return HEADROOM * t / n * (relative * np.linalg.norm(weights @ np.abs(others)) + rounded)

    return Answer(
        np.asarray(HEADROOM * relative * losses / n),
        np.asarray(embeddings(weights, y)),
        np.asarray(embeddings(weights.T, x)),
        np.asarray(HEADROOM * relative * (weights * np.abs(cosines)).sum() / n),
        np.asarray(HEADROOM * relative * weights.sum() / n),
    )


HEADROOM = 2.0
"""The largest error allowed over the one expected."""


def check(answer: Answer, right: Answer, tolerance: Answer, *, who: str) -> None:
    """Value and all four gradients; anything missing, of another shape or not finite is wrong."""
    for name in Answer._fields:
        got, want = np.asarray(getattr(answer, name), np.float64), getattr(right, name)
        assert got.shape == want.shape, f"{who}: {name} has shape {got.shape}, expected {want.shape}"
        assert np.isfinite(got).all(), f"{who}: {name} is not finite"
        error, limit = np.linalg.norm(got - want), float(getattr(tolerance, name))
        assert error <= limit, (
            f"{who}: {name} is off by {error:.3e}, allowed {limit:.3e}, norm {np.linalg.norm(want):.3e}"
        )
