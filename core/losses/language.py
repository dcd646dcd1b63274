"""The loss of a language model: how surprising each token of a text is after those before it."""

from typing import Any

from keras import ops

from diptych.core.losses.captioning import bounded_cross_entropy, chunked_cross_entropy
from diptych.core.losses.products import Product, float32_product


def next_token_losses(
    hidden,
    kernel,
    token_ids,
    *,
    tokens_per_chunk: int | None = 1024,
    product: Product = float32_product,
    label_smoothing: float = 0.0,
):
    """-log p(token j + 1 | tokens 0..j) for all places j but the last, float32 `[batch, length - 1]`.

    p = softmax(h_j · W). The mean over all places is the loss of pre-training (Radford et al. 2018, equation 1); what
    is padding the caller leaves out of it. Logits are held for one chunk of places at a time.

    Args:
        hidden: h, `[batch, length, width]`, of a model whose place j has seen tokens 0 to j.
        kernel: W, `[width, vocabulary]`.
        token_ids: int `[batch, length]`, in [0, vocabulary).
        tokens_per_chunk: of `chunked_cross_entropy`; None for as many as `bounded_cross_entropy` takes at a time.
        product, label_smoothing: of `chunked_cross_entropy`.

    Raises:
        ValueError: for texts of fewer than two tokens, in which nothing is predicted.
    """
    batch, length, width = hidden.shape
    if length < 2:
        raise ValueError(
            f"Expected texts of at least two tokens, of which the first predicts the second, got {length}."
        )
    arguments = (
        ops.reshape(hidden[:, :-1], (-1, width)),
        kernel,
        ops.zeros((kernel.shape[1],), "float32"),
        ops.reshape(token_ids[:, 1:], (-1,)),
    )
    options: dict[str, Any] = {"product": product, "label_smoothing": label_smoothing}
    if tokens_per_chunk is None:
        losses = bounded_cross_entropy(*arguments, **options)
    else:
        losses = chunked_cross_entropy(*arguments, tokens_per_chunk=tokens_per_chunk, **options)
    return ops.reshape(losses, (batch, length - 1))
