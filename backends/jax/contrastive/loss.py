"""A contrastive loss on jax: plans of its sweeps, the positives exactly, and one derivative rule for every plan."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp

from diptych.backends.jax.contrastive.sweep import Sweep, Swept, over_blocks

Exchange = Callable[..., Swept]
"""`(sweep, beside_rows, beside_columns)` -> what it leaves of this device's images and texts, met with all others'.

The last two are tuples of arrays that go with each image and each text.
"""


class LossAndGradients(NamedTuple):
    """The loss and its gradient with respect to each argument, all float32, embeddings' shapes as given.

    Where only the loss was asked for, the gradients of the embeddings are None.
    """

    loss: jax.Array
    image_embeddings: jax.Array | None
    text_embeddings: jax.Array | None
    scalars: tuple[jax.Array, ...]


class PairLoss(Protocol):
    """A loss over all pairs of images and texts."""

    name: str
    scalars: tuple[str, ...]
    """Names of the scalars, in their order."""
    answer: Callable
    """A named tuple of the loss and the gradients of all arguments."""

    def __call__(self, exchange: Exchange, x, y, scalars, *, offset, denominator, with_gradients) -> LossAndGradients:
        """Of the pairs (i, i + offset) of x and y, whose other pairs the exchange knows."""


class Plan(Protocol):
    """How a loss is computed: a value, so that jax compiles each once."""

    @property
    def loss(self) -> PairLoss: ...

    def __call__(self, x, y, scalars, *, with_gradients: bool) -> LossAndGradients:
        """Without gradients those of the embeddings are None."""


@dataclass(frozen=True)
class OneDevice:
    """x `[m, d]`, y `[n, d]`, image i paired with text i + offset, the sum over all pairs divided by the
    denominator.
    """

    loss: PairLoss
    offset: int
    denominator: int

    def __call__(self, x, y, scalars, *, with_gradients):
        def alone(sweep: Sweep, beside_rows=(), beside_columns=()):
            return over_blocks(sweep, (x, *beside_rows), (y, *beside_columns), self.offset)

        plan = {"offset": self.offset, "denominator": self.denominator, "with_gradients": with_gradients}
        return self.loss(alone, x, y, scalars, **plan)


def loss_by(plan: Plan, x, y, *, forward_only: bool = False, **scalars):
    """The loss as a float32 scalar; differentiated it costs all sweeps, not differentiated what the value takes."""
    return (_forward_only if forward_only else _loss)(plan, x, y, _in_order(plan, scalars))


def loss_and_gradients_by(plan: Plan, x, y, **scalars):
    """Value and all gradients, as the loss's own answer."""
    loss, dx, dy, of_scalars = _loss_and_gradients(plan, x, y, _in_order(plan, scalars))
    return plan.loss.answer(loss, dx, dy, *of_scalars)


def _in_order(plan, scalars):
    return tuple(jnp.asarray(scalars[name], jnp.float32) for name in plan.loss.scalars)


@partial(jax.jit, static_argnums=(0, 4))
def _compute(plan, x, y, scalars, with_gradients):
    return plan(x, y, scalars, with_gradients=with_gradients)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _loss(plan, x, y, scalars):
    return _compute(plan, x, y, scalars, False).loss


def _loss_forward(plan, *arguments):
    value, *gradients = _loss_and_gradients(plan, *arguments)
    return value, jax.tree.map(lambda gradient, a: gradient.astype(a.dtype), tuple(gradients), arguments)


def _loss_backward(plan, gradients, cotangent):
    return jax.tree.map(lambda gradient: (cotangent * gradient).astype(gradient.dtype), gradients)


_loss.defvjp(_loss_forward, _loss_backward)


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def _loss_and_gradients(plan, x, y, scalars):
    return _compute(plan, x, y, scalars, True)


@_loss_and_gradients.defjvp
def _refuse_second_derivatives(plan, primals, tangents):
    raise TypeError(
        f"{plan.loss.name} has first derivatives only: its gradient was differentiated again. "
        'For second derivatives take implementation="reference".'
    )


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def _forward_only(plan, x, y, scalars):
    return _compute(plan, x, y, scalars, False).loss


@_forward_only.defjvp
def _refuse_derivatives(plan, primals, tangents):
    raise TypeError(
        f"{plan.loss.name} was called with forward_only=True, which keeps nothing for a gradient: leave it out to "
        "train."
    )


def pair_cosines(x, y, offset: int):
    """x_i·y_(i+offset) of the pairs that there are, in float32."""
    rows, columns = _pairs(x, y, offset)
    return jnp.sum(x[rows].astype(jnp.float32) * y[columns].astype(jnp.float32), axis=1)


def join(swept: Swept, terms, g, x, y, t, *, offset: int, denominator: int) -> LossAndGradients:
    """Negatives and positives together: for n images

    loss and gradients of the scalars = (total + Σ of the positives' terms) / n, dL/dx_i = (t/n) (image_i + g_i
    y_(i+offset)), and dL/dy likewise. Gradients of the embeddings are None where the sweep made none.
    """
    numbers = tuple((total + jnp.sum(term)) / denominator for total, term in zip(swept.total, terms, strict=True))
    loss, *scalars = numbers
    if swept.image is None:
        return LossAndGradients(loss, None, None, tuple(scalars))
    rows, columns = _pairs(x, y, offset)
    x_pairs, y_pairs = x[rows].astype(jnp.float32), y[columns].astype(jnp.float32)
    dx = (swept.image + _in_place(g[:, None] * y_pairs, rows.start, len(x))) * (t / denominator)
    dy = (swept.text + _in_place(g[:, None] * x_pairs, columns.start, len(y))) * (t / denominator)
    return LossAndGradients(loss, dx, dy, tuple(scalars))


def _pairs(x, y, offset) -> tuple[slice, slice]:
    """The rows of x and of y that are paired."""
    first, last = max(0, -offset), max(0, -offset, min(len(x), len(y) - offset))
    return slice(first, last), slice(first + offset, last + offset)


def _in_place(pairs, first, length):
    """Rows of zeros before and after, so that the first one of the pairs is row `first` of `length`."""
    if not len(pairs):
        return jnp.zeros((length, pairs.shape[1]), pairs.dtype)
    return jnp.pad(pairs, ((first, length - len(pairs) - first), (0, 0)))
