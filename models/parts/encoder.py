"""The transformer that both towers are made of (Dosovitskiy et al. 2021; big_vision `models/siglip/vit.py`).

`Encoder` is the one layer that Keras calls; it hands activations to its parts through their `call` methods. Keras's own
`__call__` costs tens of microseconds a layer on eager torch, and these parts need nothing that it does (their dtype
policy is the encoder's).
"""

from collections.abc import Mapping
from dataclasses import asdict

import keras

from diptych.models.parts.block import Block, BlockConfig, recomputed


@keras.saving.register_keras_serializable("diptych")
class Encoder(keras.layers.Layer):
    """`depth` blocks and a final norm, `[batch, length, width]` -> the same.

    Where `key_mask`, bool `[batch, length]`, is given, nobody attends to tokens for which it is False. With
    `rematerialize`, a block's activations are computed again in the backward pass instead of being kept.
    """

    def __init__(
        self,
        *,
        depth: int,
        block: BlockConfig | Mapping,
        rematerialize: bool = False,
        seed: str = "0/encoder",
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.block = block = block if isinstance(block, BlockConfig) else BlockConfig(**block)
        self.depth, self.rematerialize, self.seed = depth, rematerialize, seed
        shared = {"dtype": self.dtype_policy, "trainable": self.trainable}
        names = [f"block_{index:02d}" for index in range(depth)]
        self.blocks = [Block(config=block, seed=f"{seed}/{name}", name=name, **shared) for name in names]
        self.norm = block.make_norm(name="norm", **shared)

    def build(self, input_shape, *_):
        for part in (*self.blocks, self.norm):
            part.build(input_shape)

    def call(self, x, key_mask=None):
        mask = None if key_mask is None else key_mask[:, None, None, :]
        for block in self.blocks:
            x = recomputed(block, x, token_mask=mask) if self.rematerialize else block.call(x, token_mask=mask)
        return self.norm.call(x)

    def compute_output_shape(self, input_shape, *_):
        return input_shape

    def get_config(self):
        return {
            **super().get_config(),
            "depth": self.depth,
            "block": asdict(self.block),
            "rematerialize": self.rematerialize,
            "seed": self.seed,
        }
