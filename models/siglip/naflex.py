"""NaFlex: a vision transformer for images of any size and aspect (SigLIP 2, section 2.4.2; big_vision `naflex_vit.py`).

An image arrives as its patches, row by row and padded to the batch's length, with the (rows, columns) of its grid. The
learned square table of positions is resized to each grid, bilinear with antialiasing, as the product of two small
interpolation matrices; padding is masked in every attention.
"""

from collections.abc import Mapping
from dataclasses import asdict

import keras
from keras import ops

from diptych.models.parts.embeddings import PatchProjection
from diptych.models.parts.initializers import Normal
from diptych.models.siglip.config import NaFlexVisionConfig
from diptych.models.siglip.trunk import through_trunk, trunk
from diptych.models.tower import ImageTower, policy_of


def patch_places(spatial_shapes, length: int):
    """Where the patches of grids (rows, columns) lie: -> (row, column), int32 `[batch, length]`, and which of them
    exist, bool.

    Patches that do not exist are given a place inside the grid.
    """
    index = ops.expand_dims(ops.arange(length, dtype="int32"), 0)
    rows, columns = (ops.maximum(spatial_shapes[:, axis : axis + 1], 1) for axis in (0, 1))
    row = ops.minimum(ops.floor_divide(index, columns), rows - 1)
    return row, ops.mod(index, columns), index < rows * columns


def interpolation_weights(place, size, grid: int):
    """How much each of `grid` samples counts at `place` of `size` samples: float32 `[..., grid]`, summing to one.

    Bilinear with antialiasing: a triangle as wide as the wider of both spacings, around half-pixel centres, cut off at
    the ends (`jax.image.resize(..., "bilinear", antialias=True)`, torch
    `interpolate(mode="bilinear", antialias=True)`).
    """
    scale = grid / ops.cast(size, "float32")
    centre = (ops.cast(place, "float32") + 0.5) * scale
    samples = ops.arange(grid, dtype="float32") + 0.5
    distance = ops.abs(samples - ops.expand_dims(centre, -1)) / ops.expand_dims(ops.maximum(scale, 1.0), -1)
    weights = ops.maximum(1.0 - distance, 0.0)
    return weights / ops.sum(weights, axis=-1, keepdims=True)


def table_weights(spatial_shapes, length: int, grid: int):
    """How much each entry of a `[grid, grid]` table counts for each patch of grids (rows, columns):
    `[batch · length, grid²]`.
    """
    row, column, _ = patch_places(spatial_shapes, length)
    sizes = ops.expand_dims(ops.maximum(spatial_shapes, 1), 1)
    both = interpolation_weights(ops.stack([row, column], axis=-1), sizes, grid)
    return ops.reshape(ops.expand_dims(both[:, :, 0], -1) * ops.expand_dims(both[:, :, 1], -2), (-1, grid**2))


@keras.saving.register_keras_serializable("diptych")
class ResizedPositionEmbedding(keras.layers.Layer):
    """Adds to the patches `[batch, length, width]` of grids `spatial_shapes` a `[grid, grid, width]` table resized to
    each grid.
    """

    def __init__(self, *, grid: int, seed: str = "0/position_embedding", **kwargs):
        super().__init__(**kwargs)
        self.grid, self.seed = grid, seed

    def build(self, input_shape, *_):
        width = input_shape[-1]
        self.embedding = self.add_weight(
            name="embedding",
            shape=(self.grid, self.grid, width),
            initializer=Normal(stddev=width**-0.5, seed=f"{self.seed}/embedding"),
            autocast=False,
        )

    def call(self, x, spatial_shapes):
        batch, length, width = ops.shape(x)
        table = ops.reshape(self.embedding, (self.grid**2, width))
        positions = ops.matmul(table_weights(spatial_shapes, length, self.grid), table)
        positions = ops.cast(ops.reshape(positions, (batch, length, width)), x.dtype)
        positions += x  # in place on torch: to take memory for another array of this size costs a quarter of the time
        return positions

    def compute_output_shape(self, input_shape, *_):
        return input_shape

    def get_config(self):
        return {**super().get_config(), "grid": self.grid, "seed": self.seed}


@keras.saving.register_keras_serializable("diptych")
class PatchMask(keras.layers.Layer):
    """(patches `[batch, length, ...]`, `spatial_shapes`) -> bool `[batch, length]`, True for the patches of each
    grid.
    """

    def call(self, patches, spatial_shapes):
        return patch_places(spatial_shapes, ops.shape(patches)[1])[2]

    def compute_output_spec(self, patches, spatial_shapes):
        return keras.KerasTensor(patches.shape[:2], dtype="bool")


@keras.saving.register_keras_serializable("diptych")
class NaFlexVisionTransformer(ImageTower):
    """{"patches", "spatial_shapes"} -> {"pooled": [batch, output_width], "tokens": [batch, length, width]}.

    Args:
        config: a `NaFlexVisionConfig` (or the dictionary of its fields).
        seed, dtype, rematerialize, name: as for `VisionTransformer`.

    Input: patches `[batch, length, patch_size² · 3]` in [-1, 1], of any length, and spatial_shapes int32 `[batch, 2]`,
    the rows and columns of each image's grid, with rows · columns <= length. Tokens beyond them are padding without
    meaning.
    """

    config_class = NaFlexVisionConfig

    def __init__(
        self,
        config: NaFlexVisionConfig | Mapping,
        *,
        seed: int = 0,
        dtype: str | None = None,
        rematerialize: bool = False,
        name: str = "image",
    ):
        config = config if isinstance(config, NaFlexVisionConfig) else NaFlexVisionConfig(**config)
        policy = policy_of(dtype)
        path = f"{seed}/{name}"
        patches = keras.Input((None, config.patch_size**2 * 3), name="patches")
        spatial_shapes = keras.Input((2,), dtype="int32", name="spatial_shapes")

        with keras.name_scope(name):
            mask = PatchMask(name="patch_mask")(patches, spatial_shapes)
            x = PatchProjection(
                patch_size=config.patch_size,
                width=config.width,
                seed=f"{path}/patch_embedding",
                name="patch_embedding",
                dtype=policy,
            )(patches)
            x = ResizedPositionEmbedding(
                grid=config.position_grid, seed=f"{path}/position_embedding", name="position_embedding", dtype=policy
            )(x, spatial_shapes)
            layers = trunk(config, path=path, dtype=policy, rematerialize=rematerialize)
            outputs = through_trunk(layers.__getitem__, config, x, mask)

        inputs = {"patches": patches, "spatial_shapes": spatial_shapes}
        super().__init__(inputs=inputs, outputs=outputs, name=name)
        self.remember(config=asdict(config), seed=seed, dtype=policy.name, rematerialize=rematerialize)
