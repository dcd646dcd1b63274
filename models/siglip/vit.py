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
from diptych.models.parts.embeddings import ClassToken, PatchEmbedding, PositionEmbedding
from diptych.models.parts.heads import MapHead, Projection
from diptych.models.parts.layers import Encoder
from diptych.models.siglip.config import VisionConfig
from diptych.models.tower import ImageTower


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
        policy = keras.dtype_policies.get(dtype or keras.config.dtype_policy())
        path = f"{seed}/{name}"
        images = keras.Input((config.image_size, config.image_size, 3), name="images")

        with keras.name_scope(name):
            x = PatchEmbedding(
                patch_size=config.patch_size,
                width=config.width,
                seed=f"{path}/patch_embedding",
                name="patch_embedding",
                dtype=policy,
            )(images)
            x = PositionEmbedding(
                stddev=config.position_stddev,
                seed=f"{path}/position_embedding",
                name="position_embedding",
                dtype=policy,
            )(x)
            if config.pooling == "cls":
                x = ClassToken(name="class_token", dtype=policy)(x)
            tokens = Encoder(
                depth=config.depth,
                num_heads=config.num_heads,
                mlp_dim=config.mlp_dim,
                rematerialize=rematerialize,
                seed=f"{path}/encoder",
                name="encoder",
                dtype=policy,
            )(x)
            if config.pooling == "map":
                pooled = MapHead(
                    num_heads=config.num_heads,
                    mlp_dim=config.mlp_dim,
                    seed=f"{path}/map_head",
                    name="map_head",
                    dtype=policy,
                )(tokens)
            elif config.pooling == "gap":
                pooled = keras.ops.mean(tokens, axis=1)
            else:
                pooled = tokens[:, 0]
            if config.embed_dim:
                pooled = Projection(
                    embed_dim=config.embed_dim, seed=f"{path}/projection", name="projection", dtype=policy
                )(pooled)

        super().__init__(inputs=images, outputs={"pooled": pooled, "tokens": tokens}, name=name)
        self.remember(config=asdict(config), seed=seed, dtype=policy.name, rematerialize=rematerialize)

    def encode(self, images, *, mask_token=None, masked=None) -> dict:
        """What calling the tower gives, for images of another size too, and with some of their patches hidden.

        For a training step: the same weights, through which gradients flow. Positions are resized to the images' grid,
        bilinear with antialiasing between half-pixel centres; a mask token takes the place of a patch's embedding
        before positions are added (iBOT and DINOv2), so that the tower knows where something is missing, but not what.

        Args:
            images: `[batch, size, size, 3]` in [-1, 1]; size is the tower's own or another multiple of its patch size.
            mask_token: `[width]`.
            masked: bool `[batch, patches]`, the patches that it replaces; both or neither are given.

        Returns:
            {"pooled": [batch, output_width], "tokens": [batch, patches (+ 1 in front with "cls"), width]}.

        Raises:
            ValueError: for images of another size or shape, or one of mask token and mask alone.
        """
        config = VisionConfig(**self._arguments["config"])
        height, width = images.shape[1:3]
        if height != width or (height != config.image_size and (not height or height % config.patch_size)):
            raise ValueError(
                f"encode takes square images of {config.image_size} px or another multiple of the patch size "
                f"{config.patch_size}, got {height} x {width}."
            )
        if (mask_token is None) != (masked is None):
            raise ValueError(
                "encode needs a mask token and the patches that it replaces, or neither; one was given alone."
            )
        # Layers are called whole, because that is what sets up mixed precision for their weights.
        x = self.get_layer("patch_embedding")(images)
        if masked is not None:
            x = ops.where(ops.expand_dims(masked, -1), ops.cast(mask_token, x.dtype), x)
        grid, own_grid = height // config.patch_size, config.image_size // config.patch_size
        if grid == own_grid:
            x = self.get_layer("position_embedding")(x)
        else:
            table = ops.cast(self.get_layer("position_embedding").embedding, "float32")
            x = x + ops.cast(ops.matmul(_resize_matrix(own_grid, grid), table), x.dtype)
        if config.pooling == "cls":
            x = self.get_layer("class_token")(x)
        tokens = self.get_layer("encoder")(x)
        if config.pooling == "map":
            pooled = self.get_layer("map_head")(tokens)
        else:
            pooled = ops.mean(tokens, axis=1) if config.pooling == "gap" else tokens[:, 0]
        if config.embed_dim:
            pooled = self.get_layer("projection")(pooled)
        return {"pooled": pooled, "tokens": tokens}


@lru_cache(maxsize=16)
def _resize_matrix(old: int, new: int) -> np.ndarray:
    """A square table of positions, flattened, at another grid: float32 [new², old²]."""
    line = interpolation_matrix(old, new, antialias=True)
    return np.kron(line, line).astype(np.float32)
