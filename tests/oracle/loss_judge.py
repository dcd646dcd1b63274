"""The judge of the contrastive losses' implementations: problems that a dtype can hold, answers, tolerances."""

import math
from dataclasses import dataclass
from typing import NamedTuple

import ml_dtypes
import numpy as np

from diptych.backends.cases import Case
from tests.oracle.contrastive import sigmoid, sigmoid_loss, softmax_contrastive_loss, softmax_weights


class Answer(NamedTuple):
    """The loss and its gradients, as NumPy; a softmax loss has no bias."""

    loss: np.ndarray
    image_embeddings: np.ndarray
    text_embeddings: np.ndarray
    logit_scale: np.ndarray
    logit_bias: np.ndarray | None = None


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
    loss: str = "sigmoid_loss"

    @property
    def scalars(self) -> dict[str, float]:
        """Those that the loss has."""
        scalars = {"logit_scale": self.logit_scale, "logit_bias": self.logit_bias}
        return {name: value for name, value in scalars.items() if name in SCALARS[self.loss]}

    @property
    def part(self) -> dict[str, int | None]:
        """Which part of a larger batch this is, where the loss has parts."""
        return {"offset": self.offset, "denominator": self.denominator} if self.loss == "sigmoid_loss" else {}


SCALARS = {"sigmoid_loss": ("logit_scale", "logit_bias"), "softmax_contrastive_loss": ("logit_scale",)}
"""Loss -> the scalars that it has."""


def problem_of(case: Case, dtype: str = "float32", loss: str = "sigmoid_loss") -> Problem:
    x, y = (round_to(array, dtype) for array in case.draw())
    scalars = (np.float32(case.logit_scale).item(), np.float32(case.logit_bias).item())
    return Problem(x, y, *scalars, offset=case.offset, denominator=case.images, dtype=dtype, loss=loss)


def round_to(x: np.ndarray, dtype: str) -> np.ndarray:
    """float32 values that the dtype holds exactly."""
    return x.astype(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype).astype(np.float32)


def expected(problem: Problem) -> Answer:
    """float64, by the oracle."""
    x, y = problem.x.astype(np.float64), problem.y.astype(np.float64)
    oracle = {"sigmoid_loss": sigmoid_loss, "softmax_contrastive_loss": softmax_contrastive_loss}[problem.loss]
    loss, gradients = oracle(x, y, **problem.scalars, **problem.part)
    return Answer(np.asarray(loss), *(np.asarray(gradient) for gradient in gradients))


def allowed(problem: Problem, probability_roundoff: float = 0.0) -> Answer:
    """How large the norm of each error may be.

    A logit t s + b is off by u (t sqrt(d) + t + |b|) in float32, u = 2^-24: its sum of d products, its roundings. That
    is the relative error of σ(z) and σ(-z), so of each term of every result; sums of n terms add u sqrt(n). The softmax
    has no bias, and its normaliser may be off by as much again. Terms of both signs cancel, so errors are measured
    against the sum of the terms' magnitudes. `probability_roundoff` r is that
    of a kernel that keeps the probabilities of negatives in 16 bits; roundings go either way, so unit vectors off by r
    σ each add up as squares.
    """
    x, y, t = problem.x.astype(np.float64), problem.y.astype(np.float64), problem.logit_scale
    (rows, width), columns = x.shape, len(y)
    cosines = x @ y.T
    is_pair = np.eye(rows, columns, k=problem.offset, dtype=bool)
    n, of_logits = problem.denominator or rows, t * math.sqrt(width) + t
    if problem.loss == "sigmoid_loss":
        z = t * cosines + problem.logit_bias
        weights = np.where(is_pair, sigmoid(-z), sigmoid(z))
        losses = np.where(is_pair, np.logaddexp(0, -z), np.logaddexp(0, z)).sum()
        of_logits += abs(problem.logit_bias)
    else:
        weights = np.abs(softmax_weights(t * cosines))
        losses = n * expected(problem).loss
        of_logits *= 2
    negatives = np.where(is_pair, 0.0, weights)
    relative = 2.0**-24 * (of_logits + math.sqrt(max(rows, columns)) + 8)

    rounded = probability_roundoff * np.linalg.norm(negatives)

    def embeddings(weights, others):
        return HEADROOM * t / n * (relative * np.linalg.norm(weights @ np.abs(others)) + rounded)

    return Answer(
        np.asarray(HEADROOM * relative * losses / n),
        np.asarray(embeddings(weights, y)),
        np.asarray(embeddings(weights.T, x)),
        np.asarray(HEADROOM * relative * (weights * np.abs(cosines)).sum() / n),
        np.asarray(HEADROOM * relative * weights.sum() / n) if problem.loss == "sigmoid_loss" else None,
    )


HEADROOM = 2.0
"""The largest error allowed over the one expected."""


def check(answer: Answer, right: Answer, tolerance: Answer, *, who: str) -> None:
    """Value and all gradients; anything missing or more, of another shape or not finite is wrong."""
    for name in Answer._fields:
        want = getattr(right, name)
        assert (getattr(answer, name) is None) == (want is None), f"{who}: {name} is there or not, unlike the oracle's"
        if want is None:
            continue
        got = np.asarray(getattr(answer, name), np.float64)
        assert got.shape == want.shape, f"{who}: {name} has shape {got.shape}, expected {want.shape}"
        assert np.isfinite(got).all(), f"{who}: {name} is not finite"
        error, limit = np.linalg.norm(got - want), float(getattr(tolerance, name))
        assert error <= limit, (
            f"{who}: {name} is off by {error:.3e}, allowed {limit:.3e}, norm {np.linalg.norm(want):.3e}"
        )
