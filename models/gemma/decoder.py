"""Gemma's transformer: scaled embeddings, blocks with rotary positions, a last norm; for texts, or behind a prefix.

A prefix, of embeddings that are no tokens' (pictures) and of tokens, sees all of itself; what follows it sees the
prefix and what came before. A text alone has no prefix.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict

import keras
from keras import ops

from diptych.core.losses.products import soft_capped
from diptych.models.cached_decoder import CachedDecoder
from diptych.models.gemma.config import GemmaConfig
from diptych.models.parts.block import Block, BlockConfig
from diptych.models.parts.embeddings import TokenEmbedding

ROTARY_BASE = 10_000.0


def block_config(config: GemmaConfig) -> BlockConfig:
    """No biases; kernels from a truncated normal of variance 1 / inputs."""
    return BlockConfig(
        num_heads=config.num_heads,
        num_key_value_heads=config.num_key_value_heads,
        head_dim=config.head_dim,
        mlp_dim=config.mlp_dim,
        rotary_base=ROTARY_BASE,
        query_scale=None if config.query_width is None else config.query_width**-0.5,
        soft_cap=config.attention_soft_cap,
        gated=True,
        norm="rms_from_one",
        post_norms=config.post_norms,
        use_bias=False,
        attention_bias=False,
        attention_initializer="lecun_normal",
        mlp_initializer="lecun_normal",
    )


@keras.saving.register_keras_serializable("diptych")
class GemmaDecoder(CachedDecoder):
    """Token ids int32 `[batch, length]` -> features `[batch, length, width]`, those of a prefix of pictures left out.

    Embeddings of tokens are multiplied by the root of the width, rounded to the dtype that is computed in, as all of
    Gemma's implementations do: 45.25 instead of 45.2548 in bfloat16 at a width of 2,048.

    Args:
        config: a `GemmaConfig` (or the dictionary of its fields).
        rematerialize: trade one more forward pass for the memory of the blocks' activations.
        seed: begins the names of the weights' random streams.

    Call:
        token_ids, token_mask, suffix_mask, soft_tokens, soft_mask: of `placed`; soft tokens are unscaled.
    """

    def __init__(
        self, config: GemmaConfig | Mapping, *, rematerialize: bool = False, seed: str = "0/decoder", **kwargs
    ):
        super().__init__(**kwargs)
        self.config = config = config if isinstance(config, GemmaConfig) else GemmaConfig(**config)
        self.rematerialize, self.seed = rematerialize, seed
        block, shared = block_config(config), {"dtype": self.dtype_policy, "trainable": self.trainable}
        self.token_embedding = TokenEmbedding(
            vocab_size=config.vocab_size,
            width=config.width,
            seed=f"{seed}/token_embedding",
            name="token_embedding",
            **shared,
        )
        names = [f"block_{index:02d}" for index in range(config.depth)]
        self.blocks = [Block(config=block, seed=f"{seed}/{name}", name=name, **shared) for name in names]
        self.norm = block.make_norm(name="norm", **shared)

    def build(self, input_shape):
        sequence = (None, None, self.config.width)
        self.token_embedding.build((None, None))
        for part in (*self.blocks, self.norm):
            part.build(sequence)

    def call(self, token_ids, token_mask=None, suffix_mask=None, soft_tokens=None, soft_mask=None):
        x, places = self.placed(token_ids, token_mask, suffix_mask, soft_tokens, soft_mask)
        features, _ = self.through(x, places, places)
        return features[:, -ops.shape(token_ids)[1] :]

    def embedded(self, token_ids, positions=None):
        """Scaled embeddings of tokens, `[..., width]`; positions are inside attention."""
        x = self.token_embedding.call(token_ids)
        return x * ops.cast(ops.convert_to_tensor(math.sqrt(self.config.width), "float32"), x.dtype)

    def finished(self, x):
        return self.norm.call(x)

    def window(self, layer: int) -> int | None:
        return self.config.window(layer)

    @property
    def logits_kernel(self):
        """The transposed token table `[width, predicted ids]`."""
        return ops.transpose(self.token_embedding.table()[: self.config.num_predicted])

    def logits(self, features):
        """Features `[..., width]` -> float32 logits `[..., predicted ids]`, all at once: for a few tokens of a text."""
        logits = ops.cast(self.token_embedding.logits(features, self.config.num_predicted), "float32")
        return soft_capped(logits, self.config.logits_soft_cap)

    def compute_output_shape(self, input_shape, *_):
        return (*input_shape, self.config.width)

    def get_config(self):
        return {
            **super().get_config(),
            "config": asdict(self.config),
            "rematerialize": self.rematerialize,
            "seed": self.seed,
        }
