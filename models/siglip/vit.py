"""Vision transformer with attention pooling, as in SigLIP (Zhai et al. 2023) and big_vision `models/siglip/vit.py`.

Patches -> + learned positions -> pre-LN blocks -> LayerNorm -> MAP head. The pooled vector is the image embedding;
SigLIP puts no projection behind it.
"""

from collections.abc import Mapping
from dataclasses import asdict
from functools import lru_cache

import keras
import numpy as np
from keras import ops

from diptych.core.weights.resizing import interpolation_matrix
from diptych.models.parts.embeddings import ClassToken, PatchEmbedding, PositionEmbedding, SinCosPositions
from diptych.models.siglip.config import VisionConfig
from diptych.models.siglip.trunk import ByName, through_trunk, trunk
from diptych.models.tower import ImageTower, policy_of


@keras.saving.register_keras_serializable("diptych")
class VisionTransformer(ImageTower):
    """Images -> {"pooled": [batch, output_width], "tokens": [batch, num_patches (+ 1 with "cls"), width]}.

    Args:
        config: a `VisionConfig` (or the dictionary of its fields).
        seed: of the initial weights; the same on every backend.
        dtype: Keras dtype policy, e.g. "mixed_bfloat16" for bfloat16 compute over float32 weights.
        rematerialize: keep no activations inside the blocks; they are computed again in the backward pass.
        name: first part of every weight's path.

    Input: [batch, image_size, image_size, 3], values in [-1, 1].
    """

    config_class = VisionConfig

    def __init__(
        self,
        config: VisionConfig | Mapping,
        *,
        seed: int = 0,
        dtype: str | None = None,
        rematerialize: bool = False,
        name: str = "image",
    ):
        config = config if isinstance(config, VisionConfig) else VisionConfig(**config)
        policy = policy_of(dtype)
        path = f"{seed}/{name}"
        images = keras.Input((config.image_size, config.image_size, 3), name="images")

        with keras.name_scope(name):
            layers: dict[str, keras.layers.Layer] = {
                "patch_embedding": PatchEmbedding(
                    patch_size=config.patch_size,
                    width=config.width,
                    seed=f"{path}/patch_embedding",
                    name="patch_embedding",
                    dtype=policy,
                ),
                "position_embedding": _positions(config, path, policy),
                **trunk(config, path=path, dtype=policy, rematerialize=rematerialize),
            }
            if config.pooling == "cls":
                layers["class_token"] = ClassToken(name="class_token", dtype=policy)
            outputs = _through_tower(layers.__getitem__, config, images)

        super().__init__(inputs=images, outputs=outputs, name=name)
        self.remember(config=asdict(config), seed=seed, dtype=policy.name, rematerialize=rematerialize)

    def encode(self, images, *, mask_token=None, masked=None) -> dict:
        """What calling the tower gives, for images of another size too, and with some of their patches hidden.

        For a training step: the same weights, through which gradients flow. Learned positions are resized to the
        images' grid, bilinear with antialiasing between half-pixel centres; a mask token takes the place of a patch's
        embedding before positions are added (iBOT and DINOv2), so that the tower knows where something is missing, but
        not what.

        Args:
            images: `[batch, size, size, 3]` in [-1, 1], of any size from a patch on; pixels that fill no patch are
                dropped, as at the tower's own size.
            mask_token: `[width]`.
            masked: bool `[batch, patches]`, the patches that it replaces; both or neither are given.

        Returns:
            {"pooled": [batch, output_width], "tokens": [batch, patches (+ 1 in front with "cls"), width]}.

        Raises:
            ValueError: for images of another size or shape, or one of mask token and mask alone.
        """
        config = VisionConfig(**self._arguments["config"])
        height, width = images.shape[1:3]
        if height != width or not height or height < config.patch_size:
            raise ValueError(
                f"encode takes square images that hold a patch of {config.patch_size} px at least, got {height} x "
                f"{width}."
            )
        if (mask_token is None) != (masked is None):
            raise ValueError(
                "encode needs a mask token and the patches that it replaces, or neither; one was given alone."
            )
        return _through_tower(self.get_layer, config, images, mask_token=mask_token, masked=masked)


def _positions(config: VisionConfig, path: str, policy) -> keras.layers.Layer:
    """The layer that adds positions to patches."""
    if config.positions == "sincos2d":
        return SinCosPositions(name="position_embedding", dtype=policy)
    return PositionEmbedding(
        stddev=config.position_stddev, seed=f"{path}/position_embedding", name="position_embedding", dtype=policy
    )


def _through_tower(layer: ByName, config: VisionConfig, images, *, mask_token=None, masked=None) -> dict:
    """What the tower of these layers gives; see `VisionTransformer.encode`."""
    x = layer("patch_embedding")(images)
    if masked is not None:
        x = ops.where(ops.expand_dims(masked, -1), ops.cast(mask_token, x.dtype), x)
    grid, own_grid = images.shape[1] // config.patch_size, config.image_size // config.patch_size
    if grid == own_grid or config.positions != "learned":
        x = layer("position_embedding")(x)
    else:
        table = ops.cast(layer("position_embedding").embedding, "float32")
        x = x + ops.cast(ops.matmul(_resize_matrix(own_grid, grid), table), x.dtype)
    if config.pooling == "cls":
        x = layer("class_token")(x)
    return through_trunk(layer, config, x)


@lru_cache(maxsize=16)
def _resize_matrix(old: int, new: int) -> np.ndarray:
    """A square table of positions, flattened, at another grid: float32 [new², old²]."""
    line = interpolation_matrix(old, new, antialias=True)
    return np.kron(line, line).astype(np.float32)
