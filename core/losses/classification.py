"""Cross-entropies of classifiers: of the one class that a thing is of, of shares of several, and of each label."""

from keras import ops


def softmax_cross_entropy(logits, labels, *, smoothing: float = 0.0):
    """-Σ_c q_c log p_c for each row, p = softmax(logits), q = (1 - ε) · one-hot + ε / classes (label smoothing, Szegedy
    et al. 2016, section 7).

    Args:
        logits: `[batch, classes]`.
        labels: int `[batch]`, 0 to classes - 1.
        smoothing: ε, from 0 to 1.

    Returns:
        float32 `[batch]`.
    """
    logits = ops.cast(logits, "float32")
    largest = ops.stop_gradient(ops.max(logits, axis=-1, keepdims=True))
    shifted = logits - largest
    log_sum = ops.log(ops.sum(ops.exp(shifted), axis=-1))
    own = ops.squeeze(ops.take_along_axis(shifted, ops.expand_dims(labels, -1), axis=-1), axis=-1)
    loss = log_sum - own
    if not smoothing:
        return loss
    return (1.0 - smoothing) * loss + smoothing * (log_sum - ops.mean(shifted, axis=-1))


def cross_entropy_of_shares(logits, shares):
    """-Σ_c q_c log p_c for each row, p = softmax(logits) and q given.

    Args:
        logits: `[batch, classes]`.
        shares: q, `[batch, classes]` in [0, 1], in rows that add up to 1.

    Returns:
        float32 `[batch]`.
    """
    logits, shares = ops.cast(logits, "float32"), ops.cast(shares, "float32")
    shifted = logits - ops.stop_gradient(ops.max(logits, axis=-1, keepdims=True))
    log_sum = ops.log(ops.sum(ops.exp(shifted), axis=-1))
    return log_sum - ops.sum(shares * shifted, axis=-1)


def sigmoid_cross_entropy(logits, targets, *, smoothing: float = 0.0):
    """-Σ_c [q_c log σ(z_c) + (1 - q_c) log(1 - σ(z_c))] for each row, q = (1 - ε) · targets + ε / 2; summed over the
    classes, as in big_vision.

    Args:
        logits: z, `[batch, classes]`.
        targets: `[batch, classes]` in [0, 1].
        smoothing: ε, from 0 to 1.

    Returns:
        float32 `[batch]`.
    """
    logits, targets = ops.cast(logits, "float32"), ops.cast(targets, "float32")
    targets = (1.0 - smoothing) * targets + smoothing / 2.0
    # A sum of max(z, 0) and log(1 + exp(-|z|)) has no derivative at 0, where a fresh head begins.
    return ops.sum(ops.softplus(logits) - logits * targets, axis=-1)
