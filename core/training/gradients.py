"""The global norm of a list of gradients, and clipping by it."""

from keras import ops


def global_norm(gradients):
    """√Σ‖g‖² over all gradients, a float32 scalar."""
    return ops.sqrt(sum(ops.sum(ops.square(ops.cast(g, "float32"))) for g in gradients))


def clip_factor(norm, max_norm: float | None):
    """What gradients of global norm `norm` are multiplied by: min(1, max_norm / norm), or 1 where `max_norm` is None."""
    if max_norm is None:
        return ops.ones_like(norm)
    return ops.minimum(1.0, max_norm / ops.maximum(norm, 1e-30))
