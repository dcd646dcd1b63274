"""A contrastive loss with its gradients on one device, and as a function that tensorflow can differentiate once.

The forward pass computes value and gradients together; the backward pass multiplies them by a number.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal

import tensorflow as tf

from diptych.backends.tensorflow.contrastive.sigmoid import SigmoidLossGradients, sigmoid_loss
from diptych.backends.tensorflow.contrastive.softmax import SoftmaxLossGradients, softmax_contrastive_loss

LARGEST_BLOCK = {"CPU": (1024, 512), "GPU": (8192, 8192)}
"""Rows and columns of a block of pairs: on a CPU the weights stay in the cache for the products with them."""

KEPT_BLOCKS = {"CPU": 32, "GPU": 0}
"""Blocks whose products a second sweep takes from the first: on a CPU all of a batch of 4,096, 64 MiB."""


@dataclass(frozen=True)
class PairLoss:
    """A loss over all pairs of images and texts.

    Attributes:
        compute: `(exchange, x, y, *scalars, offset=, denominator=, with_gradients=, rows_per_block=,
            columns_per_block=, kept_blocks=)` -> its answer for the pairs (i, i + offset) of x and y. The exchange is
            `(sweep, *beside, adds_up=True)` -> what the sweep leaves of these images and texts, met with all others.
            Beside are a matrix that goes with the images and one that goes with the texts. What does not add up is the
            logarithm of a sum.
        scalars: the names of its scalars, in their order.
        answer: a named tuple of the loss and the gradients of x, y and the scalars.
    """

    compute: Callable
    scalars: tuple[str, ...]
    answer: Callable

    @property
    def name(self) -> str:
        return self.compute.__name__


SIGMOID = PairLoss(sigmoid_loss, ("logit_scale", "logit_bias"), SigmoidLossGradients)
SOFTMAX = PairLoss(softmax_contrastive_loss, ("logit_scale",), SoftmaxLossGradients)


def pair_loss(
    which: PairLoss,
    image_embeddings,
    text_embeddings,
    *,
    offset: int = 0,
    denominator: int | None = None,
    largest_block: int | None = None,
    forward_only: bool = False,
    implementation: Literal["xla"] = "xla",
    **scalars,
):
    """The loss as a float32 scalar.

    It can be differentiated once, in eager code, in graphs and in functions that XLA compiles; gradients have the
    dtypes of the arguments.

    Args:
        image_embeddings: `[m, d]`, floating point.
        text_embeddings: `[n, d]`.
        offset: image i is paired with text i + offset, or with none where there is no such text.
        denominator: what the sum is divided by, None for the number of images.
        largest_block: the most rows and columns of a block of pairs, None for what suits the device.
        forward_only: no gradient is wanted: less work, and differentiating raises.
        implementation: "xla", the only one.
        scalars: the loss's own, by name.

    Raises:
        ValueError: for embeddings that are not matrices of one width.
        RuntimeError: where a gradient is differentiated again, or one is asked for in spite of `forward_only`. Around a
            tf.function it is one of `tf.errors`, with the same words.
    """
    arguments = as_tensors(which, image_embeddings, text_embeddings, scalars)
    plan = _plan(arguments[0], offset, denominator, largest_block)
    compute = partial(_compute, which, **plan, with_gradients=not forward_only)
    return differentiable_once(which, compute, *arguments)


def pair_loss_and_gradients(
    which: PairLoss,
    image_embeddings,
    text_embeddings,
    *,
    offset: int = 0,
    denominator: int | None = None,
    largest_block: int | None = None,
    implementation: Literal["xla"] = "xla",
    **scalars,
):
    """Value and all gradients, as the loss's own answer, of arguments as for `pair_loss`; not differentiable."""
    arguments = as_tensors(which, image_embeddings, text_embeddings, scalars)
    plan = _plan(arguments[0], offset, denominator, largest_block)
    return which.answer(*without_derivative(partial(_compute, which, **plan, with_gradients=True), *arguments))


def as_tensors(which: PairLoss, image_embeddings, text_embeddings, scalars):
    """x, y, and the scalars in their order in float32."""
    x, y = tf.convert_to_tensor(image_embeddings), tf.convert_to_tensor(text_embeddings)
    if x.shape.rank != 2 or y.shape.rank != 2 or x.shape[1] != y.shape[1]:
        raise ValueError(
            f"Image and text embeddings must be matrices of the same width, got shapes {x.shape} and {y.shape}: "
            "expected [images, dim] and [texts, dim]."
        )
    return x, y, *(tf.reshape(tf.cast(scalars[name], tf.float32), []) for name in which.scalars)


def block_sizes(largest_block: int | None) -> dict[str, int]:
    """The most rows and columns of a block of pairs, as given or as suits the device tensorflow computes on, and the
    most blocks whose products are kept.
    """
    here = "GPU" if tf.config.list_logical_devices("GPU") else "CPU"
    rows, columns = (largest_block, largest_block) if largest_block else LARGEST_BLOCK[here]
    return {"rows_per_block": rows, "columns_per_block": columns, "kept_blocks": KEPT_BLOCKS[here]}


def differentiable_once(which: PairLoss, compute: Callable, *arguments):
    """The loss that `compute(x, y, *scalars)` gives, with the gradients that it gives with it.

    Without gradients, asking for one raises.
    """

    @tf.custom_gradient
    def loss_of(*arguments):
        value, *gradients = without_derivative(compute, *arguments)

        def backward(cotangent):
            if gradients[0] is None:
                raise RuntimeError(
                    f"{which.name} was called with forward_only=True, which keeps nothing for a gradient: leave it out "
                    "to train."
                )
            scaled = [tf.cast(cotangent * g, a.dtype) for g, a in zip(gradients, arguments, strict=True)]
            return _first_derivatives(which.name, scaled, cotangent, *arguments)

        return value, backward

    return loss_of(*arguments)


def without_derivative(compute: Callable, *arguments) -> list:
    """What `compute` gives, hidden from tapes on both sides.

    A tape that may be asked for more than once differentiates whatever a backward pass keeps, the gradients of the loss
    too.
    """
    results = compute(*map(tf.stop_gradient, arguments))
    return [None if result is None else tf.stop_gradient(result) for result in results]


def _first_derivatives(name: str, gradients, *others):
    """Hands on the gradients, which depend on the others, and refuses to be differentiated: a wrong second derivative
    would go unnoticed.
    """

    def fail():
        raise RuntimeError(
            f"{name} has first derivatives only: its gradient was differentiated again. "
            "For second derivatives take the definition in diptych.core.losses.contrastive."
        )

    @tf.custom_gradient
    def handed_on(*tensors):
        def refuse(*cotangents):
            if tf.executing_eagerly() or tensors[0].graph is tf.compat.v1.get_default_graph():
                fail()
            # Under two tapes, the derivative of a tf.function's gradient is traced before anybody asks for it: it may
            # fail when it runs, and not before. XLA has no such operation and names it when it refuses to compile.
            dtypes = [tensor.dtype for tensor in tensors]
            return tf.py_function(fail, [], dtypes, name=f"{name}_has_first_derivatives_only")

        return tensors[: len(gradients)], refuse

    return handed_on(*gradients, *others)


def _plan(x, offset, denominator, largest_block) -> dict:
    """Numbers that may change from call to call are tensors: a Python number would be compiled anew for each value."""
    return {
        "offset": tf.convert_to_tensor(offset, tf.int32),
        "denominator": tf.cast(tf.shape(x)[0] if denominator is None else denominator, tf.float32),
        **block_sizes(largest_block),
    }


@tf.function(jit_compile=True, autograph=False)
def _compute(which: PairLoss, x, y, *scalars, offset, denominator, with_gradients, **blocks):
    def alone(sweep, *beside, adds_up=True):
        return sweep(x, y, offset, *beside)

    plan = {"offset": offset, "denominator": denominator, "with_gradients": with_gradients}
    return which.compute(alone, x, y, *scalars, **plan, **blocks)
