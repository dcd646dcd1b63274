"""The block of a decoder that looks at an image (CapPa's `cappa.py`)."""

from typing import ClassVar

import keras

from diptych.models.captioner.config import CaptionerConfig
from diptych.models.parts.block import Block, BlockConfig


@keras.saving.register_keras_serializable("diptych")
class DecoderBlock(Block):
    """Attention among tokens, attention to the image, MLP; pre-LN throughout.

    An image's keys and values are projected once, whatever the number of sequences that look at it.
    """

    names: ClassVar = ("token_norm", "token_attention", "image_norm", "image_attention", "mlp_norm", "mlp")


def block_config(config: CaptionerConfig) -> BlockConfig:
    """No biases in attention, and none in norms and MLP either unless asked for; attention kernels from a truncated
    normal of variance 1 / inputs, the MLP's from Glorot's uniform distribution.
    """
    return BlockConfig(
        num_heads=config.num_heads,
        mlp_dim=config.mlp_dim,
        use_bias=config.use_bias,
        attention_bias=False,
        attention_initializer="lecun_normal",
    )
