"""The sigmoid loss's native implementations on NumPy arrays, their judge, and how far apart the two may be."""

import math
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import tensorflow as tf
import torch

from diptych.backends.cases import Case
from diptych.backends.jax import sigmoid_loss as jax_loss
from diptych.backends.jax.sigmoid_loss.loss import OneDevice
from diptych.backends.jax.sigmoid_loss.loss import loss_and_gradients_by as jax_by
from diptych.backends.jax.sigmoid_loss.loss import loss_by as jax_loss_by
from diptych.backends.jax.sigmoid_loss.sweep import Block, xla_block
from diptych.backends.tensorflow import sigmoid_loss as tensorflow_loss
from diptych.backends.torch import sigmoid_loss as torch_loss
from diptych.backends.torch.sigmoid_loss import sweep as torch_sweep
from diptych.backends.torch.sigmoid_loss.loss import join as torch_join
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
    return np.asarray(jnp.asarray(x).astype(dtype).astype(jnp.float32))


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

    A logit t s + b is off by u (t sqrt(d) + t + |b|) in float32, u = 2^-24: its sum of d products, its roundings. That is the
    relative error of σ(z) and σ(-z), so of each term of every result; sums of n terms add u sqrt(n). Terms of both signs
    cancel, so errors are measured against the sum of the terms' magnitudes. `probability_roundoff` r is that of a kernel that
    keeps the probabilities of negatives in 16 bits; roundings go either way, so unit vectors off by r σ each add up as squares.
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


def check(answer: Answer, right: Answer, tolerance: Answer, *, who: str) -> None:
    """Value and all four gradients; anything missing, of another shape or not finite is wrong."""
    for name in Answer._fields:
        got, want = np.asarray(getattr(answer, name), np.float64), getattr(right, name)
        assert got.shape == want.shape, f"{who}: {name} has shape {got.shape}, expected {want.shape}"
        assert np.isfinite(got).all(), f"{who}: {name} is not finite"
        error, limit = np.linalg.norm(got - want), float(getattr(tolerance, name))
        assert error <= limit, f"{who}: {name} is off by {error:.3e}, allowed {limit:.3e}, norm {np.linalg.norm(want):.3e}"


def by_jax(problem: Problem, largest: int | None = None) -> Answer:
    block = jax_loss.block_of("xla", "cpu") if largest is None else Block(xla_block, largest, 8, "float32")
    plan = OneDevice(block, problem.offset, problem.denominator or len(problem.x))
    x, y = (jnp.asarray(array, problem.dtype) for array in (problem.x, problem.y))
    return Answer(*(np.asarray(part) for part in jax_by(plan, x, y, problem.logit_scale, problem.logit_bias)))


def by_torch(problem: Problem, largest: int | None = None) -> Answer:
    x, y = (torch.tensor(array).to(getattr(torch, problem.dtype)) for array in (problem.x, problem.y))
    t, b = torch.tensor(problem.logit_scale), torch.tensor(problem.logit_bias)
    swept = torch_sweep.blocked(x, y, torch.stack([t, b]), problem.offset, largest=largest)
    parts = torch_join(swept, x, y, t, b, offset=problem.offset, denominator=problem.denominator or len(x))
    return Answer(*(part.numpy() for part in parts))


def by_tensorflow(problem: Problem, largest: int | None = None) -> Answer:
    x, y = (tf.cast(tf.constant(array), problem.dtype) for array in (problem.x, problem.y))
    parts = tensorflow_loss.sigmoid_loss_and_gradients(
        x,
        y,
        logit_scale=problem.logit_scale,
        logit_bias=problem.logit_bias,
        offset=problem.offset,
        denominator=problem.denominator,
        largest_block=largest,
    )
    return Answer(*(part.numpy() for part in parts))


IMPLEMENTATIONS = {"jax xla": by_jax, "torch blocked": by_torch, "tensorflow xla": by_tensorflow}


def differentiated_by_jax(problem: Problem) -> Answer:
    plan = OneDevice(jax_loss.block_of("xla", "cpu"), problem.offset, problem.denominator or len(problem.x))
    x, y = (jnp.asarray(array, problem.dtype) for array in (problem.x, problem.y))
    arguments = (x, y, jnp.float32(problem.logit_scale), jnp.float32(problem.logit_bias))
    loss, gradients = jax.value_and_grad(lambda *a: jax_loss_by(plan, *a), argnums=(0, 1, 2, 3))(*arguments)
    return Answer(*(np.asarray(part, np.float32) for part in (loss, *gradients)))


def differentiated_by_torch(problem: Problem) -> Answer:
    x, y = (torch.tensor(array).to(getattr(torch, problem.dtype)) for array in (problem.x, problem.y))
    arguments = [a.requires_grad_() for a in (x, y, torch.tensor(problem.logit_scale), torch.tensor(problem.logit_bias))]
    loss = torch_loss.sigmoid_loss(
        *arguments[:2],
        logit_scale=arguments[2],
        logit_bias=arguments[3],
        implementation="blocked",
        offset=problem.offset,
        denominator=problem.denominator,
    )
    return Answer(*(part.detach().float().numpy() for part in (loss, *torch.autograd.grad(loss, arguments))))


def differentiated_by_tensorflow(problem: Problem) -> Answer:
    x, y = (tf.cast(tf.constant(array), problem.dtype) for array in (problem.x, problem.y))
    arguments = [x, y, tf.constant(problem.logit_scale), tf.constant(problem.logit_bias)]
    with tf.GradientTape() as tape:
        tape.watch(arguments)
        loss = tensorflow_loss.sigmoid_loss(
            *arguments[:2],
            logit_scale=arguments[2],
            logit_bias=arguments[3],
            offset=problem.offset,
            denominator=problem.denominator,
        )
    return Answer(*(tf.cast(part, "float32").numpy() for part in (loss, *tape.gradient(loss, arguments))))


DIFFERENTIATED = {
    "jax xla": differentiated_by_jax,
    "torch blocked": differentiated_by_torch,
    "tensorflow xla": differentiated_by_tensorflow,
}
