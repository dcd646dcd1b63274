"""The contrastive losses on every backend: arguments are checked, an implementation is chosen, and it runs.

The definitions are those of `diptych.core.losses.contrastive`. What runs is exact in value and in all gradients, in
memory linear in the batch, unless "reference" is asked for. docs/sigmoid_loss.md and docs/contrastive.md explain how.
"""

from diptych.backends.arguments import check_part, checked
from diptych.backends.implementations import WRITTEN_IN_KERAS, choose_for, choose_native
from diptych.backends.rooms import room


def sigmoid_loss(
    image_embeddings,
    text_embeddings,
    *,
    logit_scale,
    logit_bias,
    implementation: str | None = None,
    dtype: str | None = None,
    offset: int = 0,
    denominator: int | None = None,
    forward_only: bool = False,
    check_normalized: bool = False,
):
    """The pairwise sigmoid loss, L = -(1/n) Σ_i Σ_j log σ(±(t x_i·y_j + b)), plus for the pairs j = i + offset, minus
    else.

    Value and gradients are computed in one sweep over blocks of pairs (6 m n dim operations), without the matrix of all
    pairs; in evaluation, where nothing is differentiated, in a third of that. It can be differentiated once. On jax,
    under a `keras.distribution` over several devices, the batch is the global one, and the sweep is spread over the
    devices.

    Args:
        image_embeddings: `[m, dim]`, float32, bfloat16 or float16 (float64 is computed in float32); L2-normalised, as
            the towers return them.
        text_embeddings: `[n, dim]`; where one is float32 and the other not, both are taken in float32.
        logit_scale, logit_bias: scalars t > 0 and b.
        implementation: a name in `IMPLEMENTATIONS`, which runs or raises; None chooses.
        dtype: what the embeddings are converted to first. In bfloat16 and float16 the products run on matrix units;
            sums, positive pairs and gradients are float32 all the same.
        offset: image i is paired with text i + offset; where that is none, with none. For a part of a larger batch.
        denominator: the number of images of the whole batch; needed where m and n differ or offset is not 0. The losses
            of the parts of a batch, and their gradients, add up to those of the batch.
        forward_only: no gradient is wanted; differentiating raises. Only tensorflow needs to be told.
        check_normalized: look at the embeddings' lengths, which waits for the device.

    Returns:
        A float32 scalar.

    Raises:
        TypeError: for embeddings that are not floating point.
        ValueError: for shapes that do not fit, an empty batch, a scale or bias that is not finite (where its value is
        at
            hand), embeddings that are not normalised when that is checked, an implementation that is unknown or cannot
            run.

    Reference: Zhai et al. 2023, "Sigmoid Loss for Language Image Pre-Training", equation 1, algorithm 1, section 3.3.
    """
    x, y, scalars = checked(
        image_embeddings, text_embeddings, dtype, check_normalized, logit_scale=logit_scale, logit_bias=logit_bias
    )
    denominator = check_part(x, y, offset, denominator)
    chosen = choose_for(x, implementation, "sigmoid_loss")
    if chosen in WRITTEN_IN_KERAS:
        from diptych.core.losses import contrastive

        function = {"chunked": contrastive.chunked_sigmoid_loss, "reference": contrastive.sigmoid_loss}[chosen]
        return function(x, y, **scalars, offset=offset, denominator=denominator)
    plan = {"implementation": chosen, "forward_only": forward_only}
    return room().contrastive.sigmoid_loss(x, y, **scalars, **plan, offset=offset, denominator=denominator)


def sigmoid_loss_and_gradients(
    image_embeddings,
    text_embeddings,
    *,
    logit_scale,
    logit_bias,
    implementation: str | None = None,
    dtype: str | None = None,
    offset: int = 0,
    denominator: int | None = None,
    check_normalized: bool = False,
):
    """The loss with its gradients, computed together: what gradient caching over micro-batches needs.

    Arguments and errors as for `sigmoid_loss`; implementations written in Keras have no explicit gradient and are
    refused.

    Returns:
        A named tuple of float32: loss, image_embeddings `[m, dim]`, text_embeddings `[n, dim]`, logit_scale,
        logit_bias; the last four are the gradients of the loss with respect to the arguments of these names.
    """
    x, y, scalars = checked(
        image_embeddings, text_embeddings, dtype, check_normalized, logit_scale=logit_scale, logit_bias=logit_bias
    )
    denominator = check_part(x, y, offset, denominator)
    chosen = choose_native(x, implementation, "sigmoid_loss")
    function = room().contrastive.sigmoid_loss_and_gradients
    return function(x, y, **scalars, implementation=chosen, offset=offset, denominator=denominator)


def distributed_sigmoid_loss(
    image_embeddings,
    text_embeddings,
    *,
    logit_scale,
    logit_bias,
    group=None,
    exchange: str | None = None,
    gradients: str = "sum",
    implementation: str | None = None,
    dtype: str | None = None,
    forward_only: bool = False,
    check_normalized: bool = False,
):
    """The loss of a batch that is spread over devices, divided by the global number of images; the same on every
    device.

    Args:
        image_embeddings, text_embeddings: `[n, dim]`. On torch and tensorflow this process's or replica's own pairs, as
            many on each; on jax the global arrays, spread by rows over a mesh.
        logit_scale, logit_bias: scalars t and b, the same on every device.
        group: on jax a pair (`jax.sharding.Mesh`, name of the axis), None for the current `keras.distribution`; on
            torch a process group, None for all processes; on tensorflow None, for the current replica context.
        exchange: "ring", in which the texts travel from device to device, in memory of one shard, or "gather", in which
            every device gets all texts. None for "ring", on tensorflow for "gather", the only one it has.
        gradients: "sum": embeddings get the gradient of the global loss; t and b get this device's part, and the sum
            over the devices is the whole. "mean": all are multiplied by the number of devices, for training that
            averages gradients over them (torch's `DistributedDataParallel`; Keras' `add_loss` under a `tf.distribute`
            strategy). jax has the global gradient as it is, and "sum" alone.
        implementation, dtype, forward_only, check_normalized: as for `sigmoid_loss`.

    Raises:
        ValueError: besides those of `sigmoid_loss`, where devices have different numbers of pairs.
    """
    x, y, scalars = checked(
        image_embeddings, text_embeddings, dtype, check_normalized, logit_scale=logit_scale, logit_bias=logit_bias
    )
    plan = _spread("sigmoid_loss", x, implementation, exchange, gradients)
    native = room().contrastive.distributed_sigmoid_loss
    return native(x, y, **scalars, **plan, forward_only=forward_only, group=group)


def softmax_contrastive_loss(
    image_embeddings,
    text_embeddings,
    *,
    logit_scale,
    implementation: str | None = None,
    dtype: str | None = None,
    forward_only: bool = False,
    check_normalized: bool = False,
):
    """CLIP's symmetric softmax loss, L = -(1/2n) Σ_i [log softmax_j(t x_i·y_j)_i + log softmax_j(t y_i·x_j)_i].

    Two sweeps over blocks of pairs, 8 n² dim operations, without the matrix of all pairs: one for the normalisers,
    which is all that the value takes, and one for the gradients. It can be differentiated once. On jax, under a
    `keras.distribution` over several devices, the batch is the global one.

    Args:
        image_embeddings, text_embeddings: `[n, dim]`, row i of each a pair; the rest as for `sigmoid_loss`.
        logit_scale: scalar t > 0.
        implementation, dtype, forward_only, check_normalized: as for `sigmoid_loss`.

    Returns:
        A float32 scalar.

    Raises:
        TypeError, ValueError: as `sigmoid_loss`.

    Reference: Radford et al. 2021, "Learning Transferable Visual Models From Natural Language Supervision", figure 3.
    """
    x, y, scalars = checked(image_embeddings, text_embeddings, dtype, check_normalized, logit_scale=logit_scale)
    check_part(x, y, 0, None)
    chosen = choose_for(x, implementation, "softmax_contrastive_loss")
    if chosen in WRITTEN_IN_KERAS:
        from diptych.core.losses import contrastive

        return contrastive.softmax_contrastive_loss(x, y, **scalars)
    native = room().contrastive.softmax_contrastive_loss
    return native(x, y, **scalars, implementation=chosen, forward_only=forward_only)


def softmax_contrastive_loss_and_gradients(
    image_embeddings,
    text_embeddings,
    *,
    logit_scale,
    implementation: str | None = None,
    dtype: str | None = None,
    check_normalized: bool = False,
):
    """The softmax loss with its gradients, computed together; arguments and errors as for `softmax_contrastive_loss`.

    Returns:
        A named tuple of float32: loss, image_embeddings `[n, dim]`, text_embeddings `[n, dim]`, logit_scale; the last
        three are the gradients of the loss with respect to the arguments of these names.
    """
    x, y, scalars = checked(image_embeddings, text_embeddings, dtype, check_normalized, logit_scale=logit_scale)
    check_part(x, y, 0, None)
    chosen = choose_native(x, implementation, "softmax_contrastive_loss")
    return room().contrastive.softmax_contrastive_loss_and_gradients(x, y, **scalars, implementation=chosen)


def distributed_softmax_contrastive_loss(
    image_embeddings,
    text_embeddings,
    *,
    logit_scale,
    group=None,
    exchange: str | None = None,
    gradients: str = "sum",
    implementation: str | None = None,
    dtype: str | None = None,
    forward_only: bool = False,
    check_normalized: bool = False,
):
    """The softmax loss of a batch that is spread over devices; arguments and errors as for `distributed_sigmoid_loss`.

    In the ring the texts go round twice, once for each sweep.
    """
    x, y, scalars = checked(image_embeddings, text_embeddings, dtype, check_normalized, logit_scale=logit_scale)
    plan = _spread("softmax_contrastive_loss", x, implementation, exchange, gradients)
    native = room().contrastive.distributed_softmax_contrastive_loss
    return native(x, y, **scalars, **plan, forward_only=forward_only, group=group)


def _spread(loss: str, x, implementation, exchange, gradients) -> dict[str, str]:
    """How a loss is spread over devices; an exchange of None is left to the room."""
    for argument, value, known in (
        ("exchange", exchange, (None, "ring", "gather")),
        ("gradients", gradients, ("sum", "mean")),
    ):
        if value not in known:
            raise ValueError(f"Unknown {argument}={value!r} of distributed_{loss}: expected one of {known}.")
    plan = {"implementation": choose_native(x, implementation, loss), "gradients": gradients}
    return plan if exchange is None else {**plan, "exchange": exchange}
