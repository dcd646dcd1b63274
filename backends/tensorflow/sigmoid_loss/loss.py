"""The sigmoid loss with its gradients on one device, and as a function that tensorflow can differentiate once.

The forward pass computes value and gradients together, in one sweep; the backward pass multiplies them by a number.
"""

from collections.abc import Callable
from functools import partial
from typing import Literal, NamedTuple

import tensorflow as tf

from diptych.backends.tensorflow.sigmoid_loss.sweep import (
    Negatives,
    for_each_block,
    from_blocks,
    indices,
    into_blocks,
    negatives,
    replaced,
    softplus_and_sigmoid,
)

LARGEST_BLOCK = {"CPU": (1024, 512), "GPU": (8192, 8192)}
"""Rows and columns of a block of pairs: on a CPU the probabilities stay in the cache for the products with them."""

PAIRS_AT_ONCE = 1024
"""Paired rows that are taken at a time."""


class SigmoidLossGradients(NamedTuple):
    """The loss and its gradient with respect to each argument, all float32, embeddings' shapes as given.

    The gradients are None where only the loss was asked for.
    """

    loss: tf.Tensor
    image_embeddings: tf.Tensor | None
    text_embeddings: tf.Tensor | None
    logit_scale: tf.Tensor | None
    logit_bias: tf.Tensor | None


def sigmoid_loss(
    image_embeddings,
    text_embeddings,
    *,
    logit_scale,
    logit_bias,
    offset: int = 0,
    denominator: int | None = None,
    largest_block: int | None = None,
    forward_only: bool = False,
    implementation: Literal["xla"] = "xla",
):
    """L = (1/n) [Σ_i softplus(-z_i,i+offset) + Σ_others softplus(z_ij)], z = t x_i·y_j + b, as a float32 scalar.

    Value and gradients are computed in one sweep over blocks of pairs, 6 m n d operations. It can be differentiated
    once, in eager code, in graphs and in functions that XLA compiles; gradients have the dtypes of the arguments.

    Args:
        image_embeddings: `[m, d]`, floating point.
        text_embeddings: `[n, d]`.
        logit_scale, logit_bias: scalars t and b.
        offset: image i is paired with text i + offset, or with none where there is no such text.
        denominator: what the sum is divided by, None for the number of images.
        largest_block: the most rows and columns of a block of pairs, None for what suits the device.
        forward_only: no gradient is wanted: a third of the work, and differentiating raises.
        implementation: "xla", the only one.

    Raises:
        ValueError: for embeddings that are not matrices of one width.
        RuntimeError: where a gradient is differentiated again, or one is asked for in spite of `forward_only`. Around a
            tf.function it is one of `tf.errors`, with the same words.
    """
    arguments = as_tensors(image_embeddings, text_embeddings, logit_scale, logit_bias)
    plan = _plan(arguments[0], offset, denominator, largest_block)
    return differentiable_once(partial(_compute, **plan, with_gradients=not forward_only), *arguments)


def sigmoid_loss_and_gradients(
    image_embeddings,
    text_embeddings,
    *,
    logit_scale,
    logit_bias,
    offset: int = 0,
    denominator: int | None = None,
    largest_block: int | None = None,
    implementation: Literal["xla"] = "xla",
) -> SigmoidLossGradients:
    """Value and all four gradients in one sweep, for arguments as of `sigmoid_loss`; none of it can be
    differentiated.
    """
    arguments = as_tensors(image_embeddings, text_embeddings, logit_scale, logit_bias)
    return without_derivative(partial(_compute, **_plan(arguments[0], offset, denominator, largest_block)), *arguments)


def as_tensors(image_embeddings, text_embeddings, logit_scale, logit_bias):
    """x, y, and t and b as float32 scalars."""
    x, y = tf.convert_to_tensor(image_embeddings), tf.convert_to_tensor(text_embeddings)
    if x.shape.rank != 2 or y.shape.rank != 2 or x.shape[1] != y.shape[1]:
        raise ValueError(
            f"Image and text embeddings must be matrices of the same width, got shapes {x.shape} and {y.shape}: "
            "expected [images, dim] and [texts, dim]."
        )
    t, b = (tf.reshape(tf.cast(scalar, tf.float32), []) for scalar in (logit_scale, logit_bias))
    return x, y, t, b


def block_sizes(largest_block: int | None) -> dict[str, int]:
    """The most rows and columns of a block of pairs, as given or as suits the device tensorflow computes on."""
    here = LARGEST_BLOCK["GPU" if tf.config.list_logical_devices("GPU") else "CPU"]
    rows, columns = (largest_block, largest_block) if largest_block else here
    return {"rows_per_block": rows, "columns_per_block": columns}


def differentiable_once(compute: Callable[..., SigmoidLossGradients], x, y, t, b):
    """The loss that `compute(x, y, t, b)` gives, with the gradients that it gives with it.

    Without gradients, asking for one raises.
    """

    @tf.custom_gradient
    def loss_of(*arguments):
        loss, *gradients = without_derivative(compute, *arguments)

        def backward(cotangent):
            if gradients[0] is None:
                raise RuntimeError(
                    "sigmoid_loss was called with forward_only=True, which keeps nothing for a gradient: leave it out "
                    "to train."
                )
            scaled = [tf.cast(cotangent * g, a.dtype) for g, a in zip(gradients, arguments, strict=True)]
            return _first_derivatives(*scaled, cotangent, *arguments)

        return loss, backward

    return loss_of(x, y, t, b)


def without_derivative(compute: Callable[..., SigmoidLossGradients], *arguments) -> SigmoidLossGradients:
    """What `compute` gives, hidden from tapes on both sides.

    A tape that may be asked for more than once differentiates whatever a backward pass keeps, the gradients of the loss
    too.
    """
    results = compute(*map(tf.stop_gradient, arguments))
    return SigmoidLossGradients(*(None if result is None else tf.stop_gradient(result) for result in results))


@tf.custom_gradient
def _first_derivatives(*tensors):
    """Hands on its first four arguments, and refuses to be differentiated: a wrong second derivative would go
    unnoticed.
    """

    def fail():
        raise RuntimeError(
            "sigmoid_loss has first derivatives only: its gradient was differentiated again. "
            "For second derivatives take the definition in diptych.core.losses.contrastive."
        )

    def refuse(*cotangents):
        if tf.executing_eagerly() or tensors[0].graph is tf.compat.v1.get_default_graph():
            fail()
        # Under two tapes, the derivative of a tf.function's gradient is traced before anybody asks for it: it may fail
        # when it runs, and not before. XLA has no such operation and names it when it refuses to compile.
        dtypes = [tensor.dtype for tensor in tensors]
        return tf.py_function(fail, [], dtypes, name="sigmoid_loss_has_first_derivatives_only")

    return tensors[:4], refuse


def _plan(x, offset, denominator, largest_block) -> dict:
    """Numbers that may change from call to call are tensors: a Python number would be compiled anew for each value."""
    return {
        "offset": tf.convert_to_tensor(offset, tf.int32),
        "denominator": tf.cast(tf.shape(x)[0] if denominator is None else denominator, tf.float32),
        **block_sizes(largest_block),
    }


@tf.function(jit_compile=True, autograph=False)
def _compute(x, y, t, b, *, offset, denominator, **plan) -> SigmoidLossGradients:
    return join(negatives(x, y, t, b, offset, **plan), x, y, t, b, offset=offset, denominator=denominator)


@tf.function(jit_compile=True, autograph=False)
def join(swept: Negatives, x, y, t, b, *, offset, denominator) -> SigmoidLossGradients:
    """Negatives and positives together: with s_i = x_i·y_(i+offset) and g_i = -σ(-(t s_i + b)),

    L = (Σ softplus(z) + Σ_i softplus(-(t s_i + b))) / n and, for instance, dL/dx_i = (t/n) (image_i + g_i
    y_(i+offset)).
    """
    factor = t / denominator
    sums, image = _with_positives(swept.image, x, y, t, b, offset, factor)
    totals = (swept.sums + sums) / tf.cast(denominator, tf.float64)
    loss, dt, db = tf.unstack(tf.cast(totals, tf.float32))
    if image is None:
        return SigmoidLossGradients(loss, None, None, None, None)
    _, text = _with_positives(swept.text, y, x, t, b, -offset, factor)
    return SigmoidLossGradients(loss, image, text, dt, db)


def _with_positives(gradient, own, other, t, b, offset, factor):
    """Over pairs of own row k and other row k + offset: Σ softplus(-z), Σ g s and Σ g, and factor (gradient_k + g_k
    other).

    The rows of the pairs are taken a block at a time. A gradient of None stays None.
    """
    rows, last = tf.shape(own)[0], tf.shape(other)[0] - 1
    blocks = into_blocks(own, PAIRS_AT_ONCE)

    def block(k, sums, *gradients):
        here = indices(k, blocks)
        there = here + offset
        is_pair = (here < rows) & (there >= 0) & (there <= last)
        own_rows = tf.cast(blocks[k], tf.float32)
        other_rows = tf.cast(tf.gather(other, tf.clip_by_value(there, 0, last)), tf.float32)
        s = tf.linalg.matvec(tf.cast(own_rows * other_rows, tf.float64), tf.ones([own.shape[1]], tf.float64))
        softplus, probability = softplus_and_sigmoid(-(t * tf.cast(s, tf.float32) + b))
        softplus, g = tf.where(is_pair, softplus, 0.0), tf.where(is_pair, -probability, 0.0)
        softplus_and_g = tf.cast(tf.stack([softplus, g]), tf.float64)
        sums += tf.reduce_sum(tf.stack([softplus_and_g[0], softplus_and_g[1] * s, softplus_and_g[1]]), axis=1)
        return k + 1, sums, *(replaced(d, k, factor * (d[k] + g[:, None] * other_rows)) for d in gradients)

    gradients = [] if gradient is None else [into_blocks(gradient, PAIRS_AT_ONCE)]
    sums, *gradients = for_each_block(blocks, block, tf.zeros([3], tf.float64), *gradients)
    return sums, from_blocks(gradients[0], rows) if gradients else None
