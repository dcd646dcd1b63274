"""The affine map over the last axis that every projection here is."""

from keras import ops

from diptych.models.parts.int8_weights import scale_of


def affine(x, kernel, bias=None):
    """x · kernel + bias over the last axis, `[..., in]` -> `[..., out]`, as one product of two matrices.

    A kernel counts with its low-rank adapter (`parts.low_rank`), and in int8 (`parts.int8_weights`) with its scales.

    XLA on the CPU computes a kernel's gradient from a batched product by transposing activations, at less than half the
    speed of the flat product.
    """
    if len(x.shape) > 2:
        y = affine(ops.reshape(x, (-1, x.shape[-1])), kernel, bias)
        return ops.reshape(y, (*ops.shape(x)[:-1], kernel.shape[-1]))
    if (scale := scale_of(kernel)) is not None:
        y = ops.matmul(x, ops.cast(kernel, x.dtype)) * ops.cast(scale, x.dtype)
    else:
        y = ops.matmul(x, kernel)
    adapter = getattr(kernel, "low_rank", None)
    if adapter is not None:
        down, up, scale = adapter
        y += scale * ops.matmul(ops.matmul(x, down), up)
    if bias is not None:
        y += bias  # eager torch adds it in place; a sum would be a second array of this size
    return y
