"""Embeddings of pixels and token ids: patches, tokens and positions as vectors."""

import math
from functools import lru_cache
from typing import ClassVar

import keras
import numpy as np
from keras import ops

from diptych.models.parts.affine import affine
from diptych.models.parts.initializers import LecunNormal, Normal
from diptych.models.parts.int8_weights import Int8Weights, scale_of

INT8_ROWS = 16_384
"""Of a table in int8 that are made wider at a time, for logits."""


@keras.saving.register_keras_serializable("diptych")
class PatchProjection(keras.layers.Layer):
    """Projects flattened patches `[batch, patches, patch_size² · 3]` to `width`; a patch is flattened as (row, column,
    channel).
    """

    def __init__(
        self, *, patch_size: int, width: int, use_bias: bool = True, seed: str = "0/patch_embedding", **kwargs
    ):
        super().__init__(**kwargs)
        self.patch_size, self.width, self.use_bias, self.seed = patch_size, width, use_bias, seed

    def build(self, input_shape):
        patch = self.patch_size
        self.kernel = self.add_weight(
            name="kernel",
            shape=(patch, patch, 3, self.width),
            initializer=LecunNormal(fan_in=patch * patch * 3, seed=f"{self.seed}/kernel"),
        )
        if self.use_bias:
            self.bias = self.add_weight(name="bias", shape=(self.width,), initializer="zeros")

    def call(self, patches):
        x = ops.cast(patches, self.compute_dtype)
        return affine(x, ops.reshape(self.kernel, (-1, self.width)), self.bias if self.use_bias else 0)

    def compute_output_shape(self, input_shape):
        return *input_shape[:-1], self.width

    def get_config(self):
        return {
            **super().get_config(),
            "patch_size": self.patch_size,
            "width": self.width,
            "use_bias": self.use_bias,
            "seed": self.seed,
        }


@keras.saving.register_keras_serializable("diptych")
class PatchEmbedding(PatchProjection):
    """Cuts `[batch, height, width, 3]` images into square patches, row by row, and projects each to `width`.

    Equal to a convolution with kernel and stride `patch_size` and no padding: pixels that do not fill a patch are
    dropped (384 px in patches of 14 give 27 x 27).
    """

    def call(self, images):
        batch, height, width, channels = ops.shape(images)
        patch = self.patch_size
        rows, columns = height // patch, width // patch
        x = ops.cast(images, self.compute_dtype)[:, : rows * patch, : columns * patch]
        x = ops.reshape(x, (batch, rows, patch, columns, patch, channels))
        x = ops.transpose(x, (0, 1, 3, 2, 4, 5))
        return super().call(ops.reshape(x, (batch, rows * columns, patch * patch * channels)))

    def compute_output_shape(self, input_shape):
        batch, height, width, _ = input_shape
        return batch, (height // self.patch_size) * (width // self.patch_size), self.width


@keras.saving.register_keras_serializable("diptych")
class TokenEmbedding(Int8Weights):
    """Looks token ids `[batch, length]` up in a `[vocab_size, width]` table drawn from N(0, stddev²); None for
    width^-0.5.

    In mixed precision the table and its gradient stay float32: rows are cast after the lookup, so that a frequent
    token's gradient is not summed in bfloat16 and the table is not copied.
    """

    matrices: ClassVar = {"embedding": 1}

    def __init__(
        self,
        *,
        vocab_size: int,
        width: int,
        stddev: float | None = None,
        seed: str = "0/token_embedding",
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.vocab_size, self.width, self.stddev, self.seed = vocab_size, width, stddev, seed

    def build(self, input_shape):
        self.embedding = self.add_weight(
            name="embedding",
            shape=(self.vocab_size, self.width),
            initializer=Normal(stddev=self.stddev or self.width**-0.5, seed=f"{self.seed}/embedding"),
            autocast=False,
        )

    def call(self, ids):
        if (scale := scale_of(self.embedding)) is not None:
            rows = ops.cast(ops.take(self.embedding, ids, axis=0), "float32")
            return ops.cast(rows * ops.take(scale, ids)[..., None], self.compute_dtype)
        # The reshape changes no value. On tensorflow its gradient is a dense tensor, where a bare lookup's is a sparse
        # IndexedSlices that optimizers treat differently from the other backends' dense gradient.
        table = ops.reshape(self.embedding, (self.vocab_size, self.width))
        return ops.cast(ops.take(table, ids, axis=0), self.compute_dtype)

    def table(self):
        """The table `[vocab_size, width]` as it is computed with."""
        scale = scale_of(self.embedding)
        return self.embedding.value if scale is None else ops.cast(self.embedding, "float32") * scale[:, None]

    def logits(self, features, rows: int | None = None):
        """Products of features `[..., width]` with the first rows of the table, `[..., rows]`; None for all."""
        rows = rows or self.vocab_size
        scale = scale_of(self.embedding)
        if scale is None:
            kernel = ops.transpose(self.embedding.value[:rows])
            return ops.matmul(ops.cast(features, kernel.dtype), kernel)
        parts = []
        for start in range(0, rows, INT8_ROWS):
            some = slice(start, min(start + INT8_ROWS, rows))
            kernel = ops.transpose(ops.cast(self.embedding.value[some], features.dtype))
            parts.append(ops.cast(ops.matmul(features, kernel), "float32") * scale.value[some])
        return ops.concatenate(parts, axis=-1) if len(parts) > 1 else parts[0]

    def compute_output_shape(self, input_shape):
        return *input_shape, self.width

    def get_config(self):
        names = ("vocab_size", "width", "stddev", "seed")
        return {**super().get_config(), **{name: getattr(self, name) for name in names}}


@keras.saving.register_keras_serializable("diptych")
class PositionEmbedding(keras.layers.Layer):
    """Adds a learned vector to each position of `[batch, length, width]`, drawn from N(0, stddev²); None for
    width^-0.5.
    """

    def __init__(self, *, stddev: float | None = None, seed: str = "0/position_embedding", **kwargs):
        super().__init__(**kwargs)
        self.stddev, self.seed = stddev, seed

    def build(self, input_shape):
        _, length, width = input_shape
        self.embedding = self.add_weight(
            name="embedding",
            shape=(length, width),
            initializer=Normal(stddev=self.stddev or width**-0.5, seed=f"{self.seed}/embedding"),
        )

    def call(self, x):
        return x + self.embedding

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        return {**super().get_config(), "stddev": self.stddev, "seed": self.seed}


@keras.saving.register_keras_serializable("diptych")
class SinCosPositions(keras.layers.Layer):
    """Adds fixed sines and cosines of the row y and the column x to each place of a square grid, `[batch, grid²,
    width]` (Chen et al. 2021, "MoCo v3"; big_vision's `posemb_sincos_2d`):

        [sin(x ω), cos(x ω), sin(y ω), cos(y ω)],   ω_k = 10,000^(-k / (width / 4 - 1)),   k = 0 ... width / 4 - 1
    """

    def call(self, x):
        table = sincos_positions(math.isqrt(x.shape[1]), x.shape[2])
        return x + ops.cast(ops.convert_to_tensor(table), x.dtype)

    def compute_output_shape(self, input_shape):
        return input_shape


@lru_cache(maxsize=16)
def sincos_positions(grid: int, width: int) -> np.ndarray:
    """What `SinCosPositions` adds, row by row, float32 [grid², width]."""
    frequencies = 10_000.0 ** -(np.arange(width // 4) / (width // 4 - 1))
    rows, columns = np.divmod(np.arange(grid**2), grid)
    angles = [np.outer(places, frequencies) for places in (columns, rows)]
    parts = [function(angle) for angle in angles for function in (np.sin, np.cos)]
    return np.concatenate(parts, axis=1).astype(np.float32)


@keras.saving.register_keras_serializable("diptych")
class ClassToken(keras.layers.Layer):
    """Puts one learned vector (zero at first, without a position) in front of `[batch, length, width]`."""

    def build(self, input_shape):
        self.token = self.add_weight(name="token", shape=(input_shape[-1],), initializer="zeros")

    def call(self, x):
        batch, _, width = ops.shape(x)
        token = ops.broadcast_to(ops.reshape(self.token, (1, 1, width)), (batch, 1, width))
        return ops.concatenate([token, x], axis=1)

    def compute_output_shape(self, input_shape):
        batch, length, width = input_shape
        return batch, length + 1, width


def embedded_tokens(ids, *, vocab_size: int, width: int, path: str, dtype):
    """Token ids int32 `[batch, length]` -> their embeddings with learned positions, `[batch, length, width]`.

    Args:
        path: begins the names of the layers' random streams.
    """
    tokens = TokenEmbedding(
        vocab_size=vocab_size, width=width, seed=f"{path}/token_embedding", name="token_embedding", dtype=dtype
    )
    positions = PositionEmbedding(seed=f"{path}/position_embedding", name="position_embedding", dtype=dtype)
    return positions(tokens(ids))
