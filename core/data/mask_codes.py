"""Codes of masks: a mask of 64 x 64 becomes the sixteen of 128 by which PaliGemma writes it.

The encoder of the VQ-VAE whose decoder is `models.paligemma.mask_decoder`, in NumPy, because processes that prepare
examples import no Keras. Reference: Ning et al. 2023, arXiv 2301.02229; big_vision `pp/proj/paligemma/segmentation.py`.
"""

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image

from diptych.core.data.bad_example import BadExample
from diptych.core.data.detections import MASK_CODES, MASK_SIDE
from diptych.core.data.records import Box

HALVINGS, BLOCKS = 4, 2
CODES = "_vq_vae._embedding"


class MaskEncoder:
    """Masks -> codes, by the arrays of big_vision's `vae-oid.npz`.

    Args:
        arrays: kernels [out, in, rows, columns] and biases of encoder.0, 2, 4, 6 (which halve the sides), of
            encoder.8.net and encoder.9.net (.0, .2, .4; residual), of encoder.10, and `_vq_vae._embedding`
            [codes, width].

    Raises:
        ValueError: where one is missing.
    """

    def __init__(self, arrays: Mapping[str, np.ndarray]):
        names = [f"encoder.{2 * number}" for number in range(HALVINGS)]
        names += [f"encoder.{2 * HALVINGS + block}.net.{part}" for block in range(BLOCKS) for part in (0, 2, 4)]
        self._last = f"encoder.{2 * HALVINGS + BLOCKS}"
        wanted = [f"{name}.{part}" for name in (*names, self._last) for part in ("weight", "bias")]
        if missing := [name for name in (*wanted, CODES) if name not in arrays]:
            raise ValueError(f"{missing[0]} is missing: the encoder of masks is in big_vision's vae-oid.npz.")
        self._arrays = {name: np.asarray(arrays[name], np.float32) for name in (*wanted, CODES)}

    def codes(self, masks: np.ndarray) -> np.ndarray:
        """Masks float32 [n, 64, 64] in [0, 1] -> codes int64 [n, 16], row by row."""
        x = 2 * np.asarray(masks, np.float32)[:, None] - 1
        for number in range(HALVINGS):
            x = np.maximum(self._convolved(x, f"encoder.{2 * number}", stride=2), 0)
        for block in range(2 * HALVINGS, 2 * HALVINGS + BLOCKS):
            inner = np.maximum(self._convolved(x, f"encoder.{block}.net.0"), 0)
            inner = np.maximum(self._convolved(inner, f"encoder.{block}.net.2"), 0)
            x = x + self._convolved(inner, f"encoder.{block}.net.4")
        x = self._convolved(x, self._last)
        vectors, table = x.transpose(0, 2, 3, 1).reshape(-1, x.shape[1]), self._arrays[CODES]
        distances = (table**2).sum(axis=1) - 2 * vectors @ table.T
        return distances.argmin(axis=1).reshape(len(masks), MASK_CODES)

    def _convolved(self, x: np.ndarray, name: str, stride: int = 1) -> np.ndarray:
        """[n, in, rows, columns] -> [n, out, rows / stride, columns / stride], as TensorFlow pads for "SAME"."""
        kernel, bias = self._arrays[f"{name}.weight"], self._arrays[f"{name}.bias"]
        size = kernel.shape[2]
        padding = size - stride
        around = (padding // 2, padding - padding // 2)
        padded = np.pad(x, ((0, 0), (0, 0), around, around))
        windows = np.lib.stride_tricks.sliding_window_view(padded, (size, size), axis=(2, 3))[:, :, ::stride, ::stride]
        return np.einsum("nirckl,oikl->norc", windows, kernel, optimize=True) + bias[:, None, None]


@lru_cache(maxsize=2)
def open_mask_encoder(path: str) -> MaskEncoder:
    """That of big_vision's archive; raises FileNotFoundError and ValueError."""
    if not Path(path).is_file():
        raise FileNotFoundError(f"no file {path}: --masks is big_vision's vae-oid.npz, which makes codes of masks.")
    with np.load(path, allow_pickle=False) as archive:
        return MaskEncoder({name: archive[name] for name in archive.files})


def cropped_mask(mask: np.ndarray, box: Box) -> np.ndarray:
    """What of a mask bool [height, width] is in a box, float32 [64, 64] in [0, 1], smoothed where it is made smaller.

    Raises:
        BadExample: for a box without a whole pixel.
    """
    height, width = mask.shape
    top, bottom = (int(np.round(height * edge)) for edge in (box[0], box[2]))
    left, right = (int(np.round(width * edge)) for edge in (box[1], box[3]))
    if bottom <= top or right <= left:
        raise BadExample("region_box", f"no whole pixel of {height} x {width} is in the box {box}")
    part = Image.fromarray(mask[top:bottom, left:right].astype(np.float32))
    return np.asarray(part.resize((MASK_SIDE, MASK_SIDE), Image.Resampling.BILINEAR))
