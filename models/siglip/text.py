"""Text transformer of SigLIP: bidirectional, no masks, pooled at the last position (big_vision `text_transformer.py`).

The SigLIP 2 paper speaks of MAP pooling for both towers; its released checkpoints read the last position, which for
short texts is padding that attends to the words. `pooling="last"` is what those checkpoints need.
"""

from collections.abc import Mapping
from dataclasses import asdict

import keras

from diptych.models.parts.embeddings import PositionEmbedding, TokenEmbedding
from diptych.models.parts.heads import MapHead, Projection
from diptych.models.parts.layers import Encoder
from diptych.models.siglip.config import TextConfig
from diptych.models.tower import Tower


@keras.saving.register_keras_serializable("diptych")
class TextTransformer(Tower):
    """Token ids -> {"pooled": [batch, output_width], "tokens": [batch, context_length, width]}.

    Args:
        config: a `TextConfig` (or the dictionary of its fields).
        seed, dtype, rematerialize, name: as for `VisionTransformer`.

    Input: int32 [batch, context_length], always padded to the full length: there is no mask, and padding takes part.
    """

    def __init__(
        self,
        config: TextConfig | Mapping,
        *,
        seed: int = 0,
        dtype: str | None = None,
        rematerialize: bool = False,
        name: str = "text",
    ):
        config = config if isinstance(config, TextConfig) else TextConfig(**config)
        policy = keras.dtype_policies.get(dtype or keras.config.dtype_policy())
        path = f"{seed}/{name}"
        ids = keras.Input((config.context_length,), dtype="int32", name="token_ids")

        with keras.name_scope(name):
            x = TokenEmbedding(
                vocab_size=config.vocab_size,
                width=config.width,
                seed=f"{path}/token_embedding",
                name="token_embedding",
                dtype=policy,
            )(ids)
            x = PositionEmbedding(seed=f"{path}/position_embedding", name="position_embedding", dtype=policy)(x)
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
                pooled = tokens[:, -1] if config.pooling == "last" else tokens[:, 0]
            if config.embed_dim:
                pooled = Projection(
                    embed_dim=config.embed_dim, seed=f"{path}/projection", name="projection", dtype=policy
                )(pooled)

        super().__init__(inputs=ids, outputs={"pooled": pooled, "tokens": tokens}, name=name)
        self.remember(config=asdict(config), seed=seed, dtype=policy.name, rematerialize=rematerialize)
