"""Maps of where a model looks: losses of score where a part is hidden, and the attention of its pooling.

Hiding parts (Zeiler and Fergus 2014, "Visualizing and Understanding Convolutional Networks", section 4.2) asks the
whole model, whatever it is made of, and needs nothing but its score. Attention is one layer's: it says what is read,
not what for.
"""

import io
from collections.abc import Callable, Iterator

import numpy as np
from PIL import Image

# Red ones speak for what was asked, blue ones against it: (strength, red, green, blue, opacity).
FOR = ((0.0, 255, 214, 90, 0.0), (0.35, 255, 170, 40, 0.38), (1.0, 205, 10, 50, 0.78))
AGAINST = ((0.0, 130, 215, 255, 0.0), (0.35, 70, 160, 250, 0.38), (1.0, 30, 50, 190, 0.78))


def occlusion_map(
    picture: np.ndarray,
    score: Callable[[np.ndarray], np.ndarray],
    *,
    cells: int,
    window: int,
    fill: np.ndarray | None = None,
    batch_size: int = 64,
) -> np.ndarray:
    """How much the score falls, on average, when a window that covers a cell is hidden.

        heat[r, c] = mean over the windows that cover (r, c) of score(picture) - score(picture with the window filled)

    Windows slide cell by cell and hang over the edges, so that each cell is covered by exactly window² of them. The map
    is linear in the score: with embeddings as scores, its product with a text's embedding is the map of their cosine.

    Args:
        picture: uint8 [height, width, 3].
        score: of pictures uint8 [n, height, width, 3], float [n] or [n, ...]; called with at most `batch_size`.
        cells: rows, and columns, of the map; at most the picture's shorter side.
        window: cells a side of what is hidden at a time, 1 to `cells`. Large ones find what small ones leave half
            visible, and blur.
        fill: a colour, [3], or a picture, [height, width, 3], of 0 to 255; None is the median colour of the picture's
            edge, most often that of its background: grey or the mean colour would paint on it, and the map show the
            paint.
        batch_size: pictures that are scored at a time.

    Returns:
        float64 [cells, cells, ...]; positive where the picture speaks for a higher score. There are (cells + window -
        1)² + 1 scores.

    Raises:
        ValueError: for another shape or dtype, cells and windows that do not fit, and scores that are not one a
        picture.
    """
    _check(picture, cells, window)
    filling = _edge_colour(picture) if fill is None else np.asarray(fill)
    filled = np.broadcast_to(filling, picture.shape).round().astype(np.uint8)
    windows = list(_windows(picture.shape[0], picture.shape[1], cells, window))
    whole = _scores(score, picture[None])[0]
    hidden = np.empty((len(windows), *whole.shape))
    for start in range(0, len(windows), batch_size):
        some = windows[start : start + batch_size]
        pictures = np.repeat(picture[None], len(some), axis=0)
        for changed, (rows, columns) in zip(pictures, some, strict=True):
            changed[rows, columns] = filled[rows, columns]
        hidden[start : start + len(some)] = _scores(score, pictures)
    side = cells + window - 1
    drops = (whole - hidden).reshape(side, side, *whole.shape)
    # Window (i, j) covers the cells i - window + 1 to i, j - window + 1 to j: cell (r, c) is covered by [r, r +
    # window)².
    return np.lib.stride_tricks.sliding_window_view(drops, (window, window), axis=(0, 1)).mean(axis=(-2, -1))


def windows_of(cells: int, window: int) -> int:
    """How many pictures `occlusion_map` scores, the unchanged one included."""
    return (cells + window - 1) ** 2 + 1


def probe_attention(
    tokens: np.ndarray,
    *,
    query: np.ndarray,
    key_kernel: np.ndarray,
    key_bias: np.ndarray,
    num_heads: int,
) -> np.ndarray:
    """How a pooling probe spreads its attention over the tokens, float64 [num_heads, length]; each head's adds up to 1.

        attention[h] = softmax over tokens of query[h] · key[h] / sqrt(width / num_heads),   key = tokens · key_kernel +
        key_bias

    Args:
        tokens: [length, width], those of padding left out.
        query: [width], the probe after its own projection.
        key_kernel, key_bias: [width, width] and [width].
        num_heads: heads stand one after the other in the width.
    """
    length, width = tokens.shape
    wide = np.float64
    keys = tokens.astype(wide) @ key_kernel.astype(wide) + key_bias.astype(wide)
    keys = keys.reshape(length, num_heads, width // num_heads)
    logits = np.einsum("hd,lhd->hl", query.astype(wide).reshape(num_heads, -1), keys) / np.sqrt(width / num_heads)
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    return exponentials / exponentials.sum(axis=1, keepdims=True)


def overlay(heat: np.ndarray, height: int, width: int, *, limit: float) -> np.ndarray:
    """A map as a layer to be laid on its picture: clear where it is 0, red above, blue below; uint8 [height, width, 4],
    RGBA.

    Args:
        heat: float [rows, columns], finite.
        height, width: pixels.
        limit: the value of full strength, above 0; what exceeds it is shown as if it did not.

    Raises:
        ValueError: for a map that is not finite or a limit that is not above 0.
    """
    if heat.ndim != 2 or not np.isfinite(heat).all() or not limit > 0:
        raise ValueError(f"heat must be finite [rows, columns] and limit above 0, got {list(heat.shape)} and {limit}.")
    shares = Image.fromarray((heat / limit).astype(np.float32))
    strength = np.clip(np.asarray(shares.resize((width, height), Image.Resampling.BICUBIC)), -1, 1)
    return np.where((strength >= 0)[..., None], _coloured(strength, FOR), _coloured(-strength, AGAINST))


def png(pixels: np.ndarray) -> bytes:
    """uint8 [height, width, 3 or 4] as a PNG file."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG", compress_level=4)
    return file.getvalue()


def _edge_colour(picture: np.ndarray) -> np.ndarray:
    return np.median(np.concatenate([picture[0], picture[-1], picture[:, 0], picture[:, -1]]), axis=0)


def _windows(height: int, width: int, cells: int, window: int) -> Iterator[tuple[slice, slice]]:
    """Rows and columns of each window, row by row; cells are as equal as whole pixels allow."""
    down, along = (np.linspace(0, side, cells + 1).round().astype(int) for side in (height, width))
    for top in range(1 - window, cells):
        for left in range(1 - window, cells):
            yield _span(down, top, window), _span(along, left, window)


def _span(edges: np.ndarray, first: int, window: int) -> slice:
    return slice(edges[max(first, 0)], edges[min(first + window, len(edges) - 1)])


def _scores(score: Callable[[np.ndarray], np.ndarray], pictures: np.ndarray) -> np.ndarray:
    scores = np.asarray(score(pictures), np.float64)
    if scores.shape[:1] != (len(pictures),):
        raise ValueError(f"score gave {list(scores.shape)} for {len(pictures)} pictures, expected one row for each.")
    return scores


def _check(picture: np.ndarray, cells: int, window: int) -> None:
    if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3:
        raise ValueError(f"picture must be uint8 [height, width, 3], got {picture.dtype} {list(picture.shape)}.")
    if not 1 <= window <= cells <= min(picture.shape[:2]):
        raise ValueError(
            f"expected 1 <= window <= cells <= {min(picture.shape[:2])}, the picture's shorter side, got window "
            f"{window} and cells {cells}."
        )


def _coloured(strength: np.ndarray, stops: tuple[tuple[float, ...], ...]) -> np.ndarray:
    """RGBA of strengths; those below 0 are clear."""
    places, *channels = np.array(stops).T
    layers = [np.interp(strength, places, channel) for channel in channels]
    return np.stack([*layers[:3], 255 * layers[3]], axis=-1).round().astype(np.uint8)
