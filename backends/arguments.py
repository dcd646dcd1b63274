"""The arguments of the contrastive losses: what they may be, and what is said where they are not."""

from diptych.backends.rooms import room

COMPUTED = ("float32", "bfloat16", "float16")
FLOATING = (*COMPUTED, "float64")


def checked(image_embeddings, text_embeddings, dtype, check_normalized, **scalars):
    """Tensors x and y of one dtype, and the scalars by name.

    Raises:
        TypeError, ValueError: as the losses of `diptych.backends.loss` say.
    """
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
    native = room().contrastive
    for argument, value in scalars.items():
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
        raise ValueError(
            f"dtype={dtype!r} is not one to compute a contrastive loss in: expected {', '.join(COMPUTED)}."
        )
    x, y = (ops.cast(ops.convert_to_tensor(array), common) for array in given.values())
    return x, y, {argument: _value(value) for argument, value in scalars.items()}


def check_part(x, y, offset, denominator) -> int:
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
