"""Maps of patches brought to the size of the picture: bilinear, between the centres of patches."""

import numpy as np


def upsample(maps: np.ndarray, height: int, width: int) -> np.ndarray:
    """Bilinear interpolation between the centres of patches, constant beyond the outermost ones.

        place of pixel i = (i + 1/2) · rows / height - 1/2,    value = low + (high - low) · (place - floor(place))

    Written so that a constant map stays what it is to the last bit. To fewer pixels than patches it interpolates as
    well, and averages nothing.

    Args:
        maps: float [images, rows, columns] or [images, rows, columns, channels].
        height, width: of the result, at least 1.

    Returns:
        [images, height, width] or [images, height, width, channels], of the maps' dtype.

    Raises:
        ValueError: maps of another rank or without a patch, or a size below 1.
    """
    if maps.ndim not in (3, 4) or 0 in maps.shape[1:] or not np.issubdtype(maps.dtype, np.floating):
        raise ValueError(
            f"upsample needs float maps [images, rows, columns] or [images, rows, columns, channels], got {maps.dtype} "
            f"{list(maps.shape)}."
        )
    if height < 1 or width < 1:
        raise ValueError(f"height and width must be at least 1, got {height} and {width}.")
    return _along(_along(maps, 2, width), 1, height)


def _along(maps: np.ndarray, axis: int, size: int) -> np.ndarray:
    low, high, share = _places(maps.shape[axis], size)
    near, far = maps.take(low, axis=axis), maps.take(high, axis=axis)
    share = share.reshape([-1 if place == axis else 1 for place in range(maps.ndim)])
    return near + (far - near) * share.astype(maps.dtype)


def _places(old: int, new: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The two patches between whose centres each pixel lies, and how far it is from the first, 0 to 1."""
    places = np.clip((np.arange(new) + 0.5) * old / new - 0.5, 0, old - 1)
    low = np.floor(places).astype(np.int64)
    return low, np.minimum(low + 1, old - 1), places - low
