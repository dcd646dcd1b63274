"""Vision transformer with attention pooling, as in SigLIP (Zhai et al. 2023) and big_vision `models/vit.py`.

Patches -> + learned positions -> pre-LN blocks -> LayerNorm -> MAP head. The pooled vector is the image embedding; SigLIP
puts no projection behind it.
"""

from collections.abc import Mapping
from dataclasses import asdict

import keras

from diptych.models.config import VisionConfig
from diptych.models.embeddings import ClassToken, PatchEmbedding, PositionEmbedding
from diptych.models.heads import MapHead, Projection
from diptych.models.layers import Encoder
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
            x = PositionEmbedding(seed=f"{path}/position_embedding", name="position_embedding", dtype=policy)(x)
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
