"""The decoder of mask codes: sixteen codes of 128 become a mask of 64 x 64 (Ning et al. 2023, arXiv 2301.02229).

The decoder of a VQ-VAE on masks of Open Images. PaliGemma writes the codes as `<seg000>` to `<seg127>`; big_vision
reads them with `vae-oid.npz`, whose names `models/weights/mask_decoder.py` knows.
"""

from collections.abc import Mapping
from dataclasses import asdict

import keras
from keras import ops

from diptych.models.language_model import TextPredictor
from diptych.models.paligemma.mask_decoder_config import DOUBLINGS, MaskDecoderConfig
from diptych.models.parts.initializers import LecunNormal, Normal
from diptych.models.tower import policy_of

GRID = 4
"""Codes along a side, row by row."""


@keras.saving.register_keras_serializable("diptych")
class CodeGrid(keras.layers.Layer):
    """Codes int32 `[batch, 16]` -> their vectors `[batch, 4, 4, code_width]`; a code that does not exist counts as the
    nearest that does.
    """

    def __init__(self, codes: int, code_width: int, *, seed: str = "0/codes", **kwargs):
        super().__init__(**kwargs)
        self.codes, self.code_width, self.seed = codes, code_width, seed

    def build(self, input_shape):
        self.embedding = self.add_weight(
            name="embedding", shape=(self.codes, self.code_width), initializer=Normal(stddev=1.0, seed=self.seed)
        )

    def call(self, codes):
        found = ops.take(self.embedding, ops.clip(codes, 0, self.codes - 1), axis=0)
        return ops.reshape(found, (-1, GRID, GRID, self.code_width))

    def get_config(self):
        names = ("codes", "code_width", "seed")
        return {**super().get_config(), **{name: getattr(self, name) for name in names}}


@keras.saving.register_keras_serializable("diptych")
class MaskDecoder(TextPredictor):
    """Codes int32 `[batch, 16]` -> masks float32 `[batch, 64, 64]`, above 0 where the thing is.

    >>> decoder = MaskDecoder.from_preset("vae-oid.npz")
    >>> masks = decoder(codes)

    Args:
        config: a `MaskDecoderConfig` (or the dictionary of its fields).
        seed: of the initial weights; the same on every backend.

    Reads and writes big_vision's archive and diptych's folders ("big_vision", "diptych").
    """

    config_class = MaskDecoderConfig

    def __init__(self, config: MaskDecoderConfig | Mapping, *, seed: int = 0, name: str = "mask_decoder"):
        config = config if isinstance(config, MaskDecoderConfig) else MaskDecoderConfig(**config)
        policy, seed_of = policy_of("float32"), f"{seed}/{name}"
        codes = keras.Input((GRID * GRID,), dtype="int32", name="codes")

        def layer(kind, part: str, filters: int, size: int, inputs: int, **others):
            drawn = LecunNormal(fan_in=size * size * inputs, seed=f"{seed_of}/{part}")
            shared = {"padding": "same", "data_format": "channels_last", "dtype": policy, "name": part}
            return kind(filters, size, kernel_initializer=drawn, **shared, **others)

        def convolution(part: str, filters: int, size: int, inputs: int):
            return layer(keras.layers.Conv2D, part, filters, size, inputs)

        grid = CodeGrid(config.codes, config.code_width, seed=f"{seed_of}/codes", dtype=policy, name="codes_grid")
        width = config.width
        x = ops.relu(convolution("in", width, 1, config.code_width)(grid(codes)))
        for block in range(config.depth):
            first, second, last = (
                convolution(f"block_{block}_{number}", width, size, width) for number, size in enumerate((3, 3, 1))
            )
            x = x + last(ops.relu(second(ops.relu(first(x)))))
        inputs = width
        for number in range(DOUBLINGS):
            doubling = layer(
                keras.layers.Conv2DTranspose, f"doubling_{number}", width // 2**number, 4, inputs, strides=2
            )
            x, inputs = ops.relu(doubling(x)), width // 2**number
        masks = ops.squeeze(convolution("out", 1, 1, inputs)(x), axis=-1)
        super().__init__(inputs=codes, outputs=masks, name=name)
        self.config = config
        self.remember(config=asdict(config), seed=seed)
