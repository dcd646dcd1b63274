"""The attention of an image tower's pooling probe, patch by patch: one look, the same whatever is asked."""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from diptych.core.evaluation.heat_map import probe_attention
from diptych.models.parts.heads import MapHead
from diptych.models.siglip.config import NaFlexVisionConfig, VisionConfig


def attention_of(encoder: Any) -> Callable[[np.ndarray], np.ndarray] | None:
    """A function from a picture, uint8 [height, width, 3], to the mean of the heads' attention, float64 [rows,
    columns].

    None for a model that pools in another way, or that is shown only the middle of a picture.
    """
    vision = encoder.model.config.vision
    if not isinstance(vision, VisionConfig | NaFlexVisionConfig) or vision.pooling != "map":
        return None
    if getattr(encoder.processor.pixels, "shortest_edge", None) is not None:
        return None
    tower = encoder.model.image_encoder
    head = next(layer for layer in tower.layers if isinstance(layer, MapHead))

    def attention(picture: np.ndarray) -> np.ndarray:
        inputs = encoder.processor.images([picture])
        tokens = tower.predict_on_batch(inputs if len(tower.inputs) > 1 else next(iter(inputs.values())))["tokens"]
        if isinstance(vision, NaFlexVisionConfig):
            rows, columns = inputs["spatial_shapes"][0]
        else:
            rows = columns = vision.image_size // vision.patch_size
        heads = attention_of_head(head, keras.ops.convert_to_numpy(tokens)[0, : rows * columns])
        return heads.mean(axis=0).reshape(rows, columns)

    return attention


def attention_of_head(head: MapHead, tokens: np.ndarray) -> np.ndarray:
    """How the head's probe attends to tokens [length, width]: float64 [num_heads, length]."""
    probe, query_kernel, query_bias, kernel, bias = (
        keras.ops.convert_to_numpy(weight.value)
        for weight in (head.probe, head.query_kernel, head.query_bias, head.key_value_kernel, head.key_value_bias)
    )
    width = tokens.shape[-1]  # keys are the first half of what one kernel makes, values the second
    return probe_attention(
        tokens,
        query=probe.reshape(-1) @ query_kernel + query_bias,
        key_kernel=kernel[:, :width],
        key_bias=bias[:width],
        num_heads=head.num_heads,
    )
