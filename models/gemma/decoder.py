"""Gemma's transformer: scaled embeddings, blocks with rotary positions, a last norm; for texts, or behind a prefix.

A prefix, of embeddings that are no tokens' (pictures) and of tokens, sees all of itself; what follows it sees the
prefix and what came before. A text alone has no prefix.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import keras
from keras import ops

from diptych.core.losses.products import soft_capped
from diptych.models.gemma.config import GemmaConfig
from diptych.models.gemma.places import Places
from diptych.models.parts.block import Block, BlockConfig, recomputed
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
class GemmaDecoder(keras.layers.Layer):
    """Token ids int32 `[batch, length]` -> features `[batch, length, width]`, those of a prefix of pictures left out.

    Embeddings of tokens are multiplied by the root of the width, rounded to the dtype that is computed in, as all of
    Gemma's implementations do: 45.25 instead of 45.2548 in bfloat16 at a width of 2,048.

    Args:
        config: a `GemmaConfig` (or the dictionary of its fields).
        rematerialize: trade one more forward pass for the memory of the blocks' activations.
        seed: begins the names of the weights' random streams.

    Call:
        token_ids: int32 `[batch, length]`.
        token_mask: bool `[batch, length]`, False for padding, wherever it stands; None for no padding.
        suffix_mask: bool `[batch, length]`, False for tokens of the prefix; None for no token of it.
        soft_tokens: `[batch · pictures, tokens, width]`, embeddings that stand in front of the tokens, unscaled; those
            of an example's pictures follow each other.
        soft_mask: bool `[batch · pictures, tokens]`, False for padding among them; None for no padding.
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

    def placed(self, token_ids, token_mask=None, suffix_mask=None, soft_tokens=None, soft_mask=None):
        """What goes into the blocks, `[batch, soft tokens + length, width]`, and its `Places`; arguments of a call."""
        x = self.embedded(token_ids)
        everywhere = ops.ones(ops.shape(token_ids), "bool")
        count = everywhere if token_mask is None else ops.cast(token_mask, "bool")
        causal = everywhere if suffix_mask is None else ops.cast(suffix_mask, "bool")
        if soft_tokens is not None:
            batch = ops.shape(token_ids)[0]
            soft = ops.reshape(ops.cast(soft_tokens, x.dtype), (batch, -1, self.config.width))
            x = ops.concatenate([soft, x], axis=1)
            exist = ops.ones(ops.shape(soft)[:2], "bool")
            if soft_mask is not None:
                exist = ops.reshape(ops.cast(soft_mask, "bool"), (batch, -1))
            count = ops.concatenate([exist, count], axis=1)
            causal = ops.concatenate([ops.zeros_like(exist), causal], axis=1)
        return x, Places.of(count, causal)

    def embedded(self, token_ids):
        """Scaled embeddings of tokens, `[..., width]`."""
        x = self.token_embedding.call(token_ids)
        return x * ops.cast(ops.convert_to_tensor(math.sqrt(self.config.width), "float32"), x.dtype)

    def through(self, x, queries: Places, keys: Places, caches=None, place=0) -> tuple[Any, tuple]:
        """`[batch, tokens, width]` through all blocks and the last norm.

        Args:
            queries, keys: the places of these tokens, and of all that there are to see.
            caches, place: for each block keys and values of all places, of which these tokens' are from `place` on, see
                `Attention.step`; None where the tokens see each other alone.

        Returns:
            features `[batch, tokens, width]`, and the caches with these tokens added.
        """
        windows = {self.config.window(layer) for layer in range(self.config.depth)}
        masks = {window: keys.seen_from(queries, window=window) for window in windows}
        kept = []
        for layer, block in enumerate(self.blocks):
            given = {"token_mask": masks[self.config.window(layer)], "positions": queries.positions}
            if caches is not None:
                x, cache = block.step(x, caches[layer], place, **given)
                kept.append(cache)
            else:
                x = recomputed(block, x, **given) if self.rematerialize else block.call(x, **given)
        return self.norm.call(x), tuple(kept)

    def empty_caches(self, batch, length: int) -> tuple:
        """For each block keys and values of no token yet, for `through`."""
        return tuple(block.attention.empty_cache(batch, length) for block in self.blocks)

    @property
    def logits_kernel(self):
        """The transposed token table `[width, predicted ids]`."""
        return ops.transpose(self.token_embedding.embedding.value[: self.config.num_predicted])

    def logits(self, features):
        """Features `[..., width]` -> float32 logits `[..., predicted ids]`, all at once: for a few tokens of a text."""
        kernel = self.logits_kernel
        logits = ops.cast(ops.matmul(ops.cast(features, kernel.dtype), kernel), "float32")
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
