"""The loss of a captioning decoder: cross-entropy over a vocabulary too large for its logits to be held at once.

Everything here is float32, whatever it is given, but for the operands of a `products.bfloat16_product`. Losses stay
apart by token, then by sequence, then by example, so that parts of a batch can be put together in any order.
"""

from functools import partial
from typing import Literal

from keras import ops, remat

from diptych.core.losses.products import Product, float32_product

TaskWeighting = Literal["mean", "sum"]

MOST_LOGITS, LEAST_TOKENS = 2**25, 1_024
"""Logits that exist at a time: 128 MiB; but no fewer than those of so many tokens, for which a product of matrices is
worth its reading of the kernel (a gigabyte at 256,000 words).
"""


def tokens_at_once(vocabulary: int) -> int:
    """How many tokens' logits exist at a time."""
    return max(LEAST_TOKENS, MOST_LOGITS // vocabulary)


def cross_entropy(hidden, kernel, bias, labels, product: Product = float32_product, *, label_smoothing: float = 0.0):
    """-log softmax(h · W + b) at the label, float32 `[tokens]`; all logits at once.

    Args:
        hidden: h, `[tokens, width]`.
        kernel: W, `[width, vocabulary]`.
        bias: b, `[vocabulary]`.
        labels: int `[tokens]`, in [0, vocabulary).
        product: how h · W is computed.
        label_smoothing: ε: the target is 1 - ε at the label and ε / (vocabulary - 1) at every other entry, as
            big_vision's `weighted_softmax_xent` has it.
    """
    logits = product(hidden, kernel) + ops.cast(bias, "float32")
    at_label = ops.take_along_axis(logits, ops.expand_dims(ops.cast(labels, "int32"), 1), axis=1)[:, 0]
    total = ops.logsumexp(logits, axis=1)
    if not label_smoothing:
        return total - at_label
    others = logits.shape[1] - 1
    at_others = (ops.sum(logits, axis=1) - at_label) / others
    return total - (1 - label_smoothing) * at_label - label_smoothing * at_others


def chunked_cross_entropy(
    hidden,
    kernel,
    bias,
    labels,
    *,
    tokens_per_chunk: int = 1024,
    product: Product = float32_product,
    label_smoothing: float = 0.0,
):
    """`cross_entropy` a few tokens at a time, each computed again for its gradient: the logits of one chunk live at
    once.

    With 256,000 tokens in the vocabulary the logits of 1,024 are a gigabyte, and those of 128 images with three
    sequences of 64 are 25. Works on any backend of Keras, on any device.

    Args:
        tokens_per_chunk: rows of logits; the last chunk may have fewer.
        product, label_smoothing: as for `cross_entropy`.

    Raises:
        ValueError: for shapes that do not fit together, and for a number of tokens that is not known ahead.
    """
    (tokens, width), vocabulary = hidden.shape, kernel.shape[1]
    if tokens is None:
        raise ValueError(
            "The chunked cross-entropy needs to know the number of tokens ahead, and here it may vary: give batches a "
            "fixed size, as by drop_remainder=True."
        )
    if (tuple(kernel.shape), tuple(bias.shape), tuple(labels.shape)) != ((width, vocabulary), (vocabulary,), (tokens,)):
        raise ValueError(
            "Expected hidden [tokens, width], kernel [width, vocabulary], bias [vocabulary] and labels [tokens], got "
            f"shapes {tuple(hidden.shape)}, {tuple(kernel.shape)}, {tuple(bias.shape)} and {tuple(labels.shape)}."
        )
    kernel, bias = ops.cast(kernel, "float32"), ops.cast(bias, "float32")
    labels = ops.cast(labels, "float32")  # exact below 2^24; tensorflow warns of integers where it may differentiate
    whole = tokens // tokens_per_chunk * tokens_per_chunk
    chunk = remat(partial(cross_entropy, product=product, label_smoothing=label_smoothing))
    parts = []
    if whole:
        rows = ops.reshape(hidden[:whole], (-1, tokens_per_chunk, width))
        of_rows = ops.reshape(labels[:whole], (-1, tokens_per_chunk))

        def one_more(before, row):
            return before, chunk(row[0], kernel, bias, row[1])

        # Nothing needs to be carried; but on tensorflow Keras takes the outputs' shape from what is.
        _, losses = ops.scan(one_more, ops.zeros((tokens_per_chunk,), "float32"), (rows, of_rows))
        parts.append(ops.reshape(losses, (-1,)))
    if whole < tokens:
        parts.append(chunk(hidden[whole:], kernel, bias, labels[whole:]))
    return ops.concatenate(parts) if len(parts) > 1 else parts[0]


def bounded_cross_entropy(
    hidden, kernel, bias, labels, *, product: Product = float32_product, label_smoothing: float = 0.0
):
    """`cross_entropy` where few enough logits are to be kept, else `chunked_cross_entropy` by `tokens_at_once`."""
    at_once = tokens_at_once(kernel.shape[1])
    if hidden.shape[0] is not None and hidden.shape[0] <= at_once:
        return cross_entropy(hidden, kernel, bias, labels, product=product, label_smoothing=label_smoothing)
    return chunked_cross_entropy(
        hidden, kernel, bias, labels, tokens_per_chunk=at_once, product=product, label_smoothing=label_smoothing
    )


def captioning_loss(token_losses, target_weights):
    """The mean loss of a sequence's counted tokens, `[batch, tasks, length]` -> float32 `[batch, tasks]`; 0 where none
    counts.

    Each sequence is divided by its own number of tokens, so a long caption weighs as much as a short one (CapPa's
    `weighted_softmax_xent` with `normalize`).

    Args:
        token_losses: of each token.
        target_weights: 1 where a token's prediction counts, else 0: prompts, padding, tasks that an example does not
            have.
    """
    weights = ops.cast(target_weights, "float32")
    total = ops.sum(ops.cast(token_losses, "float32") * weights, axis=-1)
    return total / ops.maximum(ops.sum(weights, axis=-1), 1.0)


def combine_tasks(losses, present, *, weighting: TaskWeighting = "mean"):
    """One loss an example, float32 `[batch, tasks]` -> `[batch]`: the mean over the tasks that it has, or their sum.

    By the mean every example weighs as much as any other, whether it has boxes or not; by the sum every sequence does.
    SigLIP 2 gives the decoder's loss the weight of the sigmoid loss and does not say which of the two it is.

    Args:
        losses: of `captioning_loss`.
        present: 1 for the tasks that an example has, else 0, `[batch, tasks]`; an example without any has a loss of 0.
    """
    if weighting not in ("mean", "sum"):
        raise ValueError(f"weighting of tasks must be mean or sum, got {weighting!r}.")
    present = ops.cast(present, "float32")
    total = ops.sum(ops.cast(losses, "float32") * present, axis=-1)
    return total / ops.maximum(ops.sum(present, axis=-1), 1.0) if weighting == "mean" else total


def tasks_present(target_weights):
    """Which tasks an example has: 1 where any token of a sequence counts, `[batch, tasks, length]` -> float32
    `[batch, tasks]`.
    """
    return ops.cast(ops.any(ops.cast(target_weights, "bool"), axis=-1), "float32")
