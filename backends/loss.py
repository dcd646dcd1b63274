"""The sigmoid loss as one function on every backend: arguments are checked, an implementation is chosen, and it runs.

The definition is `diptych.core.losses.contrastive.sigmoid_loss`. What runs is exact in value and in all four gradients,
in memory linear in the batch, unless "reference" is asked for. docs/sigmoid_loss.md explains how.
"""

import logging

from diptych.backends.rooms import name, room

logger = logging.getLogger("diptych")

IMPLEMENTATIONS = {
    "pallas_gpu": ("jax",),
    "pallas_tpu": ("jax",),
    "triton": ("torch",),
    "blocked": ("torch",),
    "xla": ("jax", "tensorflow"),
    "chunked": ("jax", "torch", "tensorflow"),
    "reference": ("jax", "torch", "tensorflow"),
}
"""Name -> the backends that have it. None takes the first that can run."""

WRITTEN_IN_KERAS = ("chunked", "reference")


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
    x, y, scalars = _arguments(image_embeddings, text_embeddings, logit_scale, logit_bias, dtype, check_normalized)
    denominator = _check_part(x, y, offset, denominator)
    chosen = _choose_for(implementation, x)
    if chosen in WRITTEN_IN_KERAS:
        from diptych.core.losses import contrastive

        function = {"chunked": contrastive.chunked_sigmoid_loss, "reference": contrastive.sigmoid_loss}[chosen]
        return function(x, y, **scalars, offset=offset, denominator=denominator)
    plan = {"implementation": chosen, "forward_only": forward_only}
    return room().sigmoid_loss.sigmoid_loss(x, y, **scalars, **plan, offset=offset, denominator=denominator)


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
    x, y, scalars = _arguments(image_embeddings, text_embeddings, logit_scale, logit_bias, dtype, check_normalized)
    denominator = _check_part(x, y, offset, denominator)
    chosen = _choose_native(implementation, x)
    function = room().sigmoid_loss.sigmoid_loss_and_gradients
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
    x, y, scalars = _arguments(image_embeddings, text_embeddings, logit_scale, logit_bias, dtype, check_normalized)
    for argument, value, known in (
        ("exchange", exchange, (None, "ring", "gather")),
        ("gradients", gradients, ("sum", "mean")),
    ):
        if value not in known:
            raise ValueError(f"Unknown {argument}={value!r} of distributed_sigmoid_loss: expected one of {known}.")
    plan = {"implementation": _choose_native(implementation, x), "gradients": gradients, "forward_only": forward_only}
    if exchange is not None:
        plan["exchange"] = exchange
    return room().sigmoid_loss.distributed_sigmoid_loss(x, y, **scalars, **plan, group=group)


def choose_implementation(implementation: str | None = None, *, dtype: str = "float32", device=None) -> str:
    """The name of the implementation that runs for embeddings of this dtype; a name given is checked, not replaced.

    Args:
        device: the framework's device; None for the one it computes on by default.

    Raises:
        ValueError: for a name that is unknown, or cannot run here, with the reason.
    """
    native = room().sigmoid_loss
    device = native.default_device() if device is None else device
    if implementation is None:
        return next(
            known
            for known, backends in IMPLEMENTATIONS.items()
            if name() in backends and native.obstacle(known, device=device, dtype=dtype) is None
        )
    if implementation not in IMPLEMENTATIONS:
        raise ValueError(
            f"Unknown implementation {implementation!r} of the sigmoid loss: expected one of "
            f"{', '.join(IMPLEMENTATIONS)}, or None to choose."
        )
    here = [known for known, backends in IMPLEMENTATIONS.items() if name() in backends]
    if implementation not in here:
        obstacle = f"it is for {' and '.join(IMPLEMENTATIONS[implementation])}, and Keras runs on {name()}"
    else:
        obstacle = native.obstacle(implementation, device=device, dtype=dtype)
    if obstacle:
        raise ValueError(
            f"implementation={implementation!r} of the sigmoid loss cannot run here: {obstacle}. "
            f"On {name()} there are {', '.join(here)}; None chooses."
        )
    return implementation


def _choose_for(implementation, x) -> str:
    native, dtype = room().sigmoid_loss, _dtype(x)
    device = native.device_of(x)
    chosen = choose_implementation(implementation, dtype=dtype, device=device)
    if (key := (chosen, str(device), dtype)) not in _reported and not native.is_compiling():
        _reported.add(key)
        logger.info("sigmoid_loss runs as %r on %s, %s embeddings %d wide", chosen, device, dtype, x.shape[1])
    return chosen


_reported: set[tuple[str, str, str]] = set()


def _choose_native(implementation, x) -> str:
    chosen = _choose_for(implementation, x)
    if chosen in WRITTEN_IN_KERAS:
        raise ValueError(
            f"implementation={chosen!r} of the sigmoid loss is written in Keras operations and has no gradient or "
            "exchange of its own: expected one that has, or None."
        )
    return chosen


def _arguments(image_embeddings, text_embeddings, logit_scale, logit_bias, dtype, check_normalized):
    """Checked tensors x and y of one dtype, and the scalars by name."""
    import numpy as np
    from keras import ops

    given = {"image_embeddings": image_embeddings, "text_embeddings": text_embeddings}
    for argument, array in given.items():
        if not hasattr(array, "shape") or len(array.shape) != 2:
            shape = getattr(array, "shape", None)
            raise ValueError(
                f"{argument} must be a matrix, one embedding a row; got "
                f"{type(array).__name__ if shape is None else f'shape {tuple(shape)}'}: expected [batch, dim]."
            )
        if array.shape[0] == 0:
            raise ValueError(f"{argument} is empty, shape {tuple(array.shape)}: the loss needs a pair at least.")
        if _dtype(array) not in FLOATING:
            raise TypeError(
                f"{argument} must be floating point, got {_dtype(array)}: expected one of {', '.join(FLOATING)}."
            )
    if (wide := image_embeddings.shape[1]) != text_embeddings.shape[1]:
        raise ValueError(
            f"Image and text embeddings must have the same width, got {wide} and {text_embeddings.shape[1]} (shapes "
            f"{tuple(image_embeddings.shape)} and {tuple(text_embeddings.shape)}): both towers project to one dim."
        )
    native = room().sigmoid_loss
    for argument, value in (("logit_scale", logit_scale), ("logit_bias", logit_bias)):
        known = native.known_value(_value(value))
        if known is not None and (known.size != 1 or not np.isfinite(known).all()):
            raise ValueError(
                f"{argument} must be one finite number, got {known.tolist()}: has training diverged, or was log(t) "
                "given for t?"
            )
    if check_normalized:
        for argument, array in given.items():
            _check_normalized(argument, native.known_value(ops.convert_to_tensor(array), wait=True))
    dtypes = {_dtype(array) for array in given.values()}
    common = dtype or (dtypes.pop() if len(dtypes) == 1 else "float32")
    if dtype is None and common == "float64":
        common = "float32"
    if common not in COMPUTED:
        raise ValueError(f"dtype={dtype!r} is not one to compute the sigmoid loss in: expected {', '.join(COMPUTED)}.")
    x, y = (ops.cast(ops.convert_to_tensor(array), common) for array in given.values())
    return x, y, {"logit_scale": _value(logit_scale), "logit_bias": _value(logit_bias)}


COMPUTED = ("float32", "bfloat16", "float16")
FLOATING = (*COMPUTED, "float64")


def _check_part(x, y, offset, denominator) -> int:
    if denominator is None:
        if offset != 0 or x.shape[0] != y.shape[0]:
            raise ValueError(
                f"Got {x.shape[0]} images and {y.shape[0]} texts with offset {offset}: row i of each must belong "
                "together. For a part of a larger batch, give its number of images as denominator."
            )
        return x.shape[0]
    if denominator < 1:
        raise ValueError(f"denominator must be the number of images of the whole batch, got {denominator}.")
    return denominator


def _check_normalized(argument, array) -> None:
    """Looks at a NumPy array; None where there is nothing to look at."""
    import numpy as np

    if array is None:
        raise ValueError(
            "check_normalized=True looks at values, and inside a compiled function there are none yet: call it outside."
        )
    lengths = np.linalg.norm(array.astype(np.float64), axis=1)
    off = np.abs(lengths - 1.0)
    if not off.max() <= 0.02:  # a bfloat16 vector is off by 0.004 at most
        worst = int(np.argmax(np.where(np.isfinite(off), off, np.inf)))
        raise ValueError(
            f"{argument} are not L2-normalised: row {worst} has length {lengths[worst]:.4g}, expected 1. "
            "Divide each row by its length, or take the outputs of the towers."
        )


def _dtype(array) -> str:
    """ "float32" of a dtype or torch's or NumPy's own."""
    return str(getattr(array.dtype, "name", array.dtype)).removeprefix("torch.")


def _value(scalar):
    """What a Keras variable holds; frameworks' own derivative rules know nothing of Keras."""
    import keras

    return scalar.value if isinstance(scalar, keras.Variable) else scalar
