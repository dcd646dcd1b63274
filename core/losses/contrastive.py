"""Contrastive losses between a batch of images and a batch of texts, written to be read.

Row i of the logits is image i, column j is text j; the true pairs are the diagonal. Both losses compute in float32
whatever they are given. Faster implementations of the same function live in `diptych.backends`.
"""

from keras import ops, remat


def pair_logits(image_embeddings, text_embeddings, *, logit_scale, logit_bias=None):
    """t · x_i · y_j + b, float32 `[images, texts]`."""
    x = ops.cast(image_embeddings, "float32")
    y = ops.cast(text_embeddings, "float32")
    _check_widths(x, y)
    logits = ops.matmul(x, ops.transpose(y)) * ops.cast(logit_scale, "float32")
    return logits if logit_bias is None else logits + ops.cast(logit_bias, "float32")


def sigmoid_loss(
    image_embeddings, text_embeddings, *, logit_scale, logit_bias, offset: int = 0, denominator: int | None = None
):
    """The pairwise sigmoid loss of SigLIP.

    L = -(1/n) Σ_i Σ_j log σ(l_ij (t x_i·y_j + b)), with l_ij = 1 where i = j and -1 elsewhere: a sum over all n² pairs,
    divided by the number of images n (not by n²).

    Args:
        image_embeddings, text_embeddings: `[n, dim]`, L2-normalised.
        logit_scale: scalar t > 0.
        logit_bias: scalar b.
        offset: image i belongs to text i + offset, in a part of a larger batch.
        denominator: n, where it is not the number of images at hand.

    Returns:
        A float32 scalar.

    Raises:
        ValueError: for different widths, or numbers of images and texts where no denominator is given.

    Reference: Zhai et al. 2023, "Sigmoid Loss for Language Image Pre-Training", equation 1 and algorithm 1. Their
    typeset equation has the sign of t x·y reversed; the algorithm and the released code have it as here.
    """
    if denominator is None:
        _check_pairs(image_embeddings, text_embeddings)
        denominator = ops.shape(image_embeddings)[0]
    logits = pair_logits(image_embeddings, text_embeddings, logit_scale=logit_scale, logit_bias=logit_bias)
    return _sum_over_pairs(logits, offset) / ops.cast(denominator, "float32")


def chunked_sigmoid_loss(
    image_embeddings,
    text_embeddings,
    *,
    logit_scale,
    logit_bias,
    offset: int = 0,
    denominator: int | None = None,
    rows_per_chunk: int = 1024,
):
    """`sigmoid_loss` a few rows of logits at a time, each computed again for its gradient: less memory, a third more
    work.

    Works on any backend of Keras, on any device, and can be differentiated as often as its operations can.
    """
    if denominator is None:
        _check_pairs(image_embeddings, text_embeddings)
    rows, width = image_embeddings.shape
    if rows is None:
        raise ValueError(
            "The chunked sigmoid loss needs to know the number of images ahead, and here it may vary: give batches a "
            "fixed size, as by drop_remainder=True, or use another implementation."
        )
    whole = rows // rows_per_chunk * rows_per_chunk
    scalars = [ops.cast(scalar, "float32") for scalar in (logit_scale, logit_bias)]

    @remat
    def chunk(x, y, t, b, offset):  # a float32 offset, since tensorflow warns of integers where it may differentiate
        return _sum_over_pairs(pair_logits(x, y, logit_scale=t, logit_bias=b), ops.cast(offset, "int32"))

    def add(total, x_and_offset):
        x, offset = x_and_offset
        return total + chunk(x, text_embeddings, *scalars, offset), None

    total = ops.zeros((), "float32")
    if whole:
        chunks = ops.reshape(image_embeddings[:whole], (-1, rows_per_chunk, width))
        total, _ = ops.scan(add, total, (chunks, ops.arange(offset, offset + whole, rows_per_chunk, dtype="float32")))
    if whole < rows:
        total, _ = add(total, (image_embeddings[whole:], ops.convert_to_tensor(offset + whole, "float32")))
    return total / ops.cast(denominator or rows, "float32")


def softmax_contrastive_loss(image_embeddings, text_embeddings, *, logit_scale):
    """The symmetric softmax loss of CLIP (InfoNCE): the mean of image-to-text and text-to-image cross-entropy.

    L = -(1/2n) Σ_i [log softmax_j(t x_i·y_j)_i + log softmax_j(t y_i·x_j)_i]

    Arguments, result and errors as for `sigmoid_loss`, without a bias (a constant does not change a softmax).

    Reference: Radford et al. 2021, "Learning Transferable Visual Models From Natural Language Supervision", figure 3.
    """
    _check_pairs(image_embeddings, text_embeddings)
    logits = pair_logits(image_embeddings, text_embeddings, logit_scale=logit_scale)
    diagonal = ops.diagonal(logits)
    image_to_text = ops.logsumexp(logits, axis=1) - diagonal
    text_to_image = ops.logsumexp(logits, axis=0) - diagonal
    return 0.5 * (ops.mean(image_to_text) + ops.mean(text_to_image))


def _sum_over_pairs(logits, offset):
    """Σ -log σ(± logit), plus where text = image + offset; row by row, so that no large sum swallows small terms."""
    rows, columns = (ops.arange(length, dtype="int32") for length in ops.shape(logits))
    is_pair = ops.equal(ops.expand_dims(rows, 1) + offset, ops.expand_dims(columns, 0))
    return ops.sum(ops.sum(ops.softplus(ops.where(is_pair, -logits, logits)), axis=1))


def _check_widths(x, y) -> None:
    if len(x.shape) != 2 or len(y.shape) != 2 or x.shape[1] != y.shape[1]:
        raise ValueError(
            "Image and text embeddings must be matrices of the same width, got shapes "
            f"{tuple(x.shape)} and {tuple(y.shape)}: expected [images, dim] and [texts, dim]."
        )


def _check_pairs(x, y) -> None:
    if x.shape[0] != y.shape[0]:
        raise ValueError(
            f"Pairs are needed: got {x.shape[0]} images and {y.shape[0]} texts; row i of each must belong together."
        )
