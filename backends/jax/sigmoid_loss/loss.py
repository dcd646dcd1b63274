"""The sigmoid loss on jax: a sweep over the negatives, the positives exactly, and one derivative rule for every
plan.
"""

from dataclasses import dataclass
from functools import partial
from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp

from diptych.backends.jax.sigmoid_loss.sweep import Block, Negatives, negatives


class SigmoidLossGradients(NamedTuple):
    """The loss and its gradient with respect to each argument, all float32, embeddings' shapes as given.

    Where only the loss was asked for, the gradients of the embeddings are None.
    """

    loss: jax.Array
    image_embeddings: jax.Array | None
    text_embeddings: jax.Array | None
    logit_scale: jax.Array
    logit_bias: jax.Array


class Plan(Protocol):
    """How the loss is computed: a value, so that jax compiles each once."""

    def __call__(self, x, y, t, b, *, with_gradients: bool) -> SigmoidLossGradients:
        """Without gradients those of the embeddings are None."""


@dataclass(frozen=True)
class OneDevice:
    """x `[m, d]`, y `[n, d]`, image i paired with text i + offset, the sum over all pairs divided by the
    denominator.
    """

    block: Block
    offset: int
    denominator: int

    def __call__(self, x, y, t, b, *, with_gradients):
        swept = negatives(x, y, jnp.stack([t, b]), self.offset, block=self.block, with_gradients=with_gradients)
        return join(swept, x, y, t, b, offset=self.offset, denominator=self.denominator)


def loss_by(plan: Plan, x, y, logit_scale, logit_bias, *, forward_only: bool = False):
    """The loss as a float32 scalar; differentiated it costs one sweep, not differentiated a third of that."""
    scalars = (jnp.asarray(scalar, jnp.float32) for scalar in (logit_scale, logit_bias))
    return (_forward_only if forward_only else _loss)(plan, x, y, *scalars)


def loss_and_gradients_by(plan: Plan, x, y, logit_scale, logit_bias) -> SigmoidLossGradients:
    """Value and all four gradients in one sweep."""
    scalars = (jnp.asarray(scalar, jnp.float32) for scalar in (logit_scale, logit_bias))
    return _loss_and_gradients(plan, x, y, *scalars)


@partial(jax.jit, static_argnums=(0, 5))
def _compute(plan, x, y, t, b, with_gradients):
    return plan(x, y, t, b, with_gradients=with_gradients)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _loss(plan, x, y, t, b):
    return _compute(plan, x, y, t, b, False).loss


def _loss_forward(plan, x, y, t, b):
    value, *gradients = _loss_and_gradients(plan, x, y, t, b)
    return value, [gradient.astype(array.dtype) for gradient, array in zip(gradients, (x, y, t, b), strict=True)]


def _loss_backward(plan, gradients, cotangent):
    return tuple((cotangent * gradient).astype(gradient.dtype) for gradient in gradients)


_loss.defvjp(_loss_forward, _loss_backward)


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def _loss_and_gradients(plan, x, y, t, b):
    return _compute(plan, x, y, t, b, True)


@_loss_and_gradients.defjvp
def _refuse_second_derivatives(plan, primals, tangents):
    raise TypeError(
        "sigmoid_loss has first derivatives only: its gradient was differentiated again. "
        'For second derivatives take implementation="reference".'
    )


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def _forward_only(plan, x, y, t, b):
    return _compute(plan, x, y, t, b, False).loss


@_forward_only.defjvp
def _refuse_derivatives(plan, primals, tangents):
    raise TypeError(
        "sigmoid_loss was called with forward_only=True, which keeps nothing for a gradient: leave it out to train."
    )


def join(swept: Negatives, x, y, t, b, *, offset: int, denominator: int) -> SigmoidLossGradients:
    """Negatives and positives together: with s_i = x_i·y_(i+offset) and g_i = -σ(-(t s_i + b)),

    L = (Σ softplus(z) + Σ_i softplus(-(t s_i + b))) / n and, for instance, dL/dx_i = (t/n) (image_i + g_i
    y_(i+offset)). Gradients of the embeddings are None where the sweep made none.
    """
    first, last = max(0, -offset), max(0, -offset, min(x.shape[0], y.shape[0] - offset))
    rows, columns = slice(first, last), slice(first + offset, last + offset)
    x_pairs, y_pairs = x[rows].astype(jnp.float32), y[columns].astype(jnp.float32)
    cosine = jnp.sum(x_pairs * y_pairs, axis=1)
    z = t * cosine + b
    g = -jax.nn.sigmoid(-z)
    loss = (swept.sums.softplus + jnp.sum(jax.nn.softplus(-z))) / denominator
    dt = (swept.sums.cosine + jnp.sum(g * cosine)) / denominator
    db = (swept.sums.probability + jnp.sum(g)) / denominator
    if swept.image is None:
        return SigmoidLossGradients(loss, None, None, dt, db)
    dx = (swept.image + _in_place(g[:, None] * y_pairs, first, len(x))) * (t / denominator)
    dy = (swept.text + _in_place(g[:, None] * x_pairs, first + offset, len(y))) * (t / denominator)
    return SigmoidLossGradients(loss, dx, dy, dt, db)


def _in_place(pairs, first, length):
    """Rows of zeros before and after, so that the first one of the pairs is row `first` of `length`."""
    if not len(pairs):
        return jnp.zeros((length, pairs.shape[1]), pairs.dtype)
    return jnp.pad(pairs, ((first, length - len(pairs) - first), (0, 0)))
