"""The captioning decoder of SigLIP 2 (LocCa, Wan et al. 2024; arranged as CapPa, Tschannen et al. 2023, `cappa.py`).

Notable features: a pre-LN transformer that attends to the un-pooled tokens of the image tower; several sequences for an
image (caption, referring expression, grounded caption) in one pass; sequences that are predicted token by token and
sequences that are predicted in parallel, side by side in one batch of static shape; a token table and a logits kernel
of their own.

The decoder stops at its last norm. Logits over 256,000 tokens would be a fifth of a gigabyte for each image's three
sequences of 64, and as much again for their gradient; `diptych.core.losses.captioning` has them a part at a time.
"""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Self

import keras
from keras import ops

from diptych.core.files.errors import as_settings
from diptych.core.files.json_objects import read_json, write_config
from diptych.core.weights.mapping import Table
from diptych.core.weights.open import open_weights
from diptych.core.weights.safetensors import write_safetensors
from diptych.models.abstract import give_values, shapes_only
from diptych.models.captioner.config import CaptionerConfig
from diptych.models.captioner.decoder_block import DecoderBlock, block_config
from diptych.models.parts.block import recomputed
from diptych.models.parts.embeddings import PositionEmbedding, TokenEmbedding
from diptych.models.parts.initializers import Normal
from diptych.models.parts.norms import LayerNorm

CONFIG_FILE, WEIGHTS_FILE = "captioner.json", "captioner.safetensors"


@keras.saving.register_keras_serializable("diptych")
class TargetEmbedding(TokenEmbedding):
    """`TokenEmbedding` with a table drawn from N(0, 1)."""

    def build(self, input_shape):
        self.embedding = self.add_weight(
            name="embedding",
            shape=(self.vocab_size, self.width),
            initializer=Normal(stddev=1.0, seed=f"{self.seed}/embedding"),
            autocast=False,
        )


@keras.saving.register_keras_serializable("diptych")
class Captioner(keras.layers.Layer):
    """Token ids and image tokens -> features `[batch, tasks, length, width]`, of which token j is predicted at place j.

    A causal sequence enters shifted by one, with token 0 (padding) in front, and each place sees itself and those
    before it. A parallel one enters as nothing but mask tokens, and each place sees all. Which is which may differ by
    sequence.

    Args:
        config: a `CaptionerConfig` (or the dictionary of its fields).
        seed: of the initial weights; the same on every backend.
        dtype: Keras dtype policy; with "mixed_bfloat16" weights, lookups and logits stay float32.
        rematerialize: trade one more forward pass for the memory of the blocks' activations.

    Call:
        token_ids: int32 `[batch, tasks, length]`, the sequences to predict, not shifted; length ≤ context_length.
        encoder_tokens: `[batch, image tokens, encoder_width]`.
        parallel: bool `[batch, tasks]`; None for nowhere.
        encoder_mask: bool `[batch, image tokens]`, False for padding; None for no padding.

    Logits are features · `logits_kernel` + `logits_bias`. The kernel starts at zero, so that the first loss is log
    vocab_size. With `tie_embeddings` the kernel is the token table, drawn from N(0, 1/width).
    """

    def __init__(
        self,
        config: CaptionerConfig | Mapping,
        *,
        seed: int = 0,
        dtype: str | None = None,
        rematerialize: bool = False,
        name: str = "captioner",
        **kwargs,
    ):
        super().__init__(dtype=dtype, name=name, **kwargs)
        self.config = config = config if isinstance(config, CaptionerConfig) else CaptionerConfig(**config)
        self.seed, self.rematerialize = seed, rematerialize
        path, shared = f"{seed}/{name}", {"dtype": self.dtype_policy, "trainable": self.trainable}
        embedding = TokenEmbedding if config.tie_embeddings else TargetEmbedding
        self.token_embedding = embedding(
            vocab_size=config.vocab_size + 1,
            width=config.width,
            seed=f"{path}/token_embedding",
            name="token_embedding",
            **shared,
        )
        self.position_embedding = PositionEmbedding(
            seed=f"{path}/position_embedding", name="position_embedding", **shared
        )
        self.blocks = [
            DecoderBlock(
                config=block_config(config),
                looks=True,
                seed=f"{path}/block_{index:02d}",
                name=f"block_{index:02d}",
                **shared,
            )
            for index in range(config.depth)
        ]
        self.norm = LayerNorm(name="norm", **shared)
        self.build()

    def build(self):
        """Makes all weights; the configuration has every shape."""
        config = self.config
        sequence, image = (None, config.context_length, config.width), (None, None, config.encoder_width)
        self.token_embedding.build((None, config.context_length))
        self.position_embedding.build(sequence)
        for block in self.blocks:
            block.build(sequence, image)
        self.norm.build(sequence)

        def zeros(name, shape):
            return self.add_weight(name=name, shape=shape, initializer="zeros", autocast=False)

        self._kernel = None if config.tie_embeddings else zeros("logits_kernel", (config.width, config.vocab_size))
        self._bias = zeros("logits_bias", (config.vocab_size,))

    @property
    def logits_kernel(self):
        """A float32 tensor `[width, vocab_size]`."""
        if self._kernel is not None:
            return self._kernel.value
        return ops.transpose(self.token_embedding.table()[: self.config.vocab_size])

    @property
    def logits_bias(self):
        """A float32 tensor `[vocab_size]`."""
        return self._bias.value

    def logits(self, features):
        """Features `[..., width]` -> float32 logits `[..., vocab_size]`, all at once: for a token or two of each
        sequence.
        """
        return ops.matmul(ops.cast(features, "float32"), self.logits_kernel) + self.logits_bias

    def call(self, token_ids, encoder_tokens, parallel=None, encoder_mask=None):
        _, tasks, length = token_ids.shape
        if length > self.config.context_length:
            raise ValueError(
                f"The captioner has positions for {self.config.context_length} tokens, got sequences of {length}: cut "
                "them, or build it with a larger context_length."
            )
        inputs = ops.concatenate([ops.zeros_like(token_ids[..., :1]), token_ids[..., :-1]], axis=-1)
        places = ops.arange(length, dtype="int32")
        token_mask = (places[:, None] >= places[None, :])[None, None]
        if parallel is not None:
            inputs = ops.where(parallel[..., None], ops.cast(self.config.mask_id, inputs.dtype), inputs)
            token_mask = ops.logical_or(token_mask, ops.reshape(parallel, (-1, 1, 1, 1)))
        x = self.token_embedding.call(ops.reshape(inputs, (-1, length))) + self.position_embedding.embedding[:length]
        image_mask = None if encoder_mask is None else encoder_mask[:, None, None, :]
        for block in self.blocks:
            if self.rematerialize:
                x = recomputed(block, x, encoder_tokens, token_mask=token_mask, context_mask=image_mask)
            else:
                x = block.call(x, encoder_tokens, token_mask, image_mask)
        return ops.reshape(self.norm.call(x), (-1, tasks, length, self.config.width))

    def step(self, token_ids, position, caches, images, encoder_mask=None):
        """One more token of each sequence, with what is known of those before it; see
        `diptych.models.generation`.

        Args:
            token_ids: int32 `[batch]`, the tokens in front of the place to predict: 0 for the first.
            position: int32 scalar, that place.
            caches: for each block keys and values `[batch, places, heads, head width]` of earlier places.
            images: for each block keys and values of the image, see `image_keys_values`.
            encoder_mask: as for a call.

        Returns:
            float32 logits `[batch, vocab_size]`, and the caches with this place added.
        """
        places = ops.arange(caches[0][0].shape[1], dtype="int32")
        token_mask = (places <= position)[None, None, None, :]
        image_mask = None if encoder_mask is None else encoder_mask[:, None, None, :]
        own_position = ops.take(self.position_embedding.embedding, position, axis=0)
        x = self.token_embedding.call(token_ids[:, None]) + own_position
        kept = []
        for block, cache, image in zip(self.blocks, caches, images, strict=True):
            x, cache = block.step(x, cache, position, image, token_mask, image_mask)
            kept.append(cache)
        return self.logits(self.norm.call(x)[:, 0]), tuple(kept)

    def image_keys_values(self, encoder_tokens):
        """For each block the keys and values of the images, `[batch, image tokens, heads, head width]`."""
        return tuple(block.context_attention.keys_values(encoder_tokens) for block in self.blocks)

    def get_config(self):
        return {
            **super().get_config(),
            "config": asdict(self.config),
            "seed": self.seed,
            "rematerialize": self.rematerialize,
        }

    def named_weights(self) -> dict[str, keras.Variable]:
        """Weights by their path inside the captioner."""
        return {variable.path.removeprefix(f"{self.path}/"): variable for variable in self.variables}

    def save_to(self, folder: str | Path) -> None:
        """Writes captioner.json and captioner.safetensors into a folder, which is made if need be; bit for bit."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        readers = {name: _reader(variable) for name, variable in self.named_weights().items()}
        write_safetensors(folder / WEIGHTS_FILE, readers)
        write_config(folder / CONFIG_FILE, {"model_type": "diptych_captioner", "config": asdict(self.config)})

    @classmethod
    def from_folder(cls, folder: str | Path, **arguments) -> Self:
        """The captioner that `save_to` wrote.

        Args:
            arguments: of the constructor: dtype, rematerialize, name.

        Raises:
            FileNotFoundError, ValueError: naming what is missing or does not fit.
        """
        folder = Path(folder)
        if not (folder / CONFIG_FILE).is_file():
            raise FileNotFoundError(f"{folder} holds no captioner: expected {CONFIG_FILE} and {WEIGHTS_FILE}.")
        with shapes_only():
            with as_settings(folder / CONFIG_FILE):
                config = CaptionerConfig(**read_json(folder / CONFIG_FILE)["config"])
            captioner = cls(config, **arguments)
        variables = captioner.named_weights()
        shapes = {name: tuple(variable.shape) for name, variable in variables.items()}
        with open_weights(folder / WEIGHTS_FILE) as files:
            table = Table.same_names(shapes)
            table.check(shapes, files)
            give_values(captioner, ((variables[name].path, value) for name, value in table.load(files)))
        return captioner


def _reader(variable):
    return lambda: ops.convert_to_numpy(variable.value)
