"""The common trunk of SigLIP's towers behind their embeddings: blocks, pooling, projection."""

from collections.abc import Callable

import keras
from keras import ops

from diptych.models.parts.block import BlockConfig
from diptych.models.parts.encoder import Encoder
from diptych.models.parts.heads import MapHead, Projection
from diptych.models.siglip.config import NaFlexVisionConfig, TextConfig, VisionConfig

Config = VisionConfig | NaFlexVisionConfig | TextConfig
ByName = Callable[[str], keras.layers.Layer]
"""Gives a tower's layer of a name."""


def trunk(config: Config, *, path: str, dtype, rematerialize: bool) -> dict[str, keras.layers.Layer]:
    """The layers of `config`, by name; `path` begins the names of their random streams."""
    heads, mlp_dim = config.num_heads, config.mlp_dim
    encoder = Encoder(
        depth=config.depth,
        block=BlockConfig(num_heads=heads, mlp_dim=mlp_dim),
        rematerialize=rematerialize,
        seed=f"{path}/encoder",
        name="encoder",
        dtype=dtype,
    )
    layers: dict[str, keras.layers.Layer] = {"encoder": encoder}
    if config.pooling == "map":
        layers["map_head"] = MapHead(
            num_heads=heads, mlp_dim=mlp_dim, seed=f"{path}/map_head", name="map_head", dtype=dtype
        )
    if isinstance(config, VisionConfig) and config.representation_width:
        layers["representation"] = Projection(
            embed_dim=config.representation_width,
            tanh=True,
            seed=f"{path}/representation",
            name="representation",
            dtype=dtype,
        )
    if config.embed_dim:
        layers["projection"] = Projection(
            embed_dim=config.embed_dim, seed=f"{path}/projection", name="projection", dtype=dtype
        )
    return layers


def through_trunk(layer: ByName, config: Config, x, key_mask=None) -> dict:
    """Embedded tokens `[batch, length, width]` -> {"pooled": [batch, output_width], "tokens": [batch, length, width]}.

    Layers are called whole, because that is what sets up mixed precision for their weights.

    Args:
        key_mask: bool `[batch, length]`, False for tokens that are padding; None where all count.
    """
    masks = () if key_mask is None else (key_mask,)
    tokens = layer("encoder")(x, *masks)
    if config.pooling == "map":
        pooled = layer("map_head")(tokens, *masks)
    elif config.pooling == "gap":
        pooled = ops.mean(tokens, axis=1) if key_mask is None else masked_mean(tokens, key_mask)
    else:
        pooled = tokens[:, -1] if config.pooling == "last" else tokens[:, 0]
    if isinstance(config, VisionConfig) and config.representation_width:
        pooled = layer("representation")(pooled)
    if config.embed_dim:
        pooled = layer("projection")(pooled)
    return {"pooled": pooled, "tokens": tokens}


def masked_mean(tokens, mask):
    """The mean of those of `[batch, length, width]` that the mask marks, `[batch, width]`."""
    weights = ops.expand_dims(ops.cast(mask, tokens.dtype), -1)
    return ops.sum(tokens * weights, axis=1) / ops.sum(weights, axis=1)
