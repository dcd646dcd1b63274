"""Products of features with a large table, which give logits over a vocabulary or over prototypes, always float32."""

from collections.abc import Callable

from keras import ops

Product = Callable
"""(features `[n, width]`, table `[width, outputs]`) -> logits, float32 `[n, outputs]`, that can be differentiated."""


def float32_product(features, table):
    """features · table with float32 operands."""
    return ops.matmul(ops.cast(features, "float32"), ops.cast(table, "float32"))


def soft_capped(logits, cap: float | None):
    """cap · tanh(logits / cap), so that none is beyond the cap (Gemma 2, section 2); None for no cap."""
    return logits if cap is None else cap * ops.tanh(logits / cap)


def multiply_bfloat16(a, b):
    """a · b of bfloat16 matrices with float32 products and sums, float32; not differentiated.

    The definition. `diptych.backends.multiply_bfloat16` does the same on a device's matrix units.
    """
    return ops.matmul(ops.cast(a, "float32"), ops.cast(b, "float32"))


def bfloat16_product(multiply: Callable = multiply_bfloat16) -> Product:
    """A product whose operands are rounded to bfloat16 and whose sums are float32; so are the two products of its
    gradient, of which the incoming gradient is rounded, too.

    The table is a float32 weight, and its gradient stays float32: what chunks of features add to it is summed up
    without rounding.

    Args:
        multiply: of two bfloat16 matrices, float32.
    """

    @ops.custom_gradient
    def product(features, table):
        a, b = ops.cast(features, "bfloat16"), ops.cast(table, "bfloat16")

        def gradient(*arguments, upstream=None):
            # Keras calls it with the incoming gradient alone on jax and tensorflow, and by name on torch.
            incoming = ops.cast(arguments[0] if upstream is None else upstream, "bfloat16")
            return multiply(incoming, ops.transpose(b)), multiply(ops.transpose(a), incoming)

        return multiply(a, b), gradient

    return lambda features, table: product(ops.cast(features, "float32"), ops.cast(table, "float32"))


def capped_product(product: Product, cap: float) -> Product:
    """A product whose logits are `soft_capped`."""
    return lambda features, table: soft_capped(product(features, table), cap)
