"""The transformer of a GPT: embeddings and post-LN blocks, for whole texts and one token after the other."""

from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import asdict

import keras
from keras import ops

from diptych.models.cached_decoder import CachedDecoder
from diptych.models.gpt.config import GPTConfig
from diptych.models.parts.block import Block, BlockConfig, recomputed
from diptych.models.parts.dropout import Dropout, drop
from diptych.models.parts.embeddings import PositionEmbedding, TokenEmbedding

STDDEV = 0.02


def block_config(config: GPTConfig) -> BlockConfig:
    """A norm behind attention and one behind the MLP; all kernels from N(0, 0.02²), not truncated, biases zero."""
    return BlockConfig(
        num_heads=config.num_heads,
        mlp_dim=config.mlp_dim,
        causal=True,
        activation=config.activation,
        norm_epsilon=config.norm_epsilon,
        norm_first=False,
        attention_initializer="small_normal",
        mlp_initializer="small_normal",
    )


@keras.saving.register_keras_serializable("diptych")
class GPTDecoder(CachedDecoder):
    """Token ids int32 `[batch, length]` -> features `[batch, length, width]`, of which place j has seen tokens 0 to j.
    Examples of several texts, `[batch, texts, length]`, give `[batch, texts, length, width]`.

    n = norm(x + attention(x)), x' = norm(n + mlp(n)) in each block; neither a norm behind the last block nor a factor
    of the embeddings (OpenAI's `train.py`, `model` and `block`).

    Args:
        config: a `GPTConfig` (or the dictionary of its fields).
        rematerialize: trade one more forward pass for the memory of the blocks' activations.
        seed: begins the names of the weights' random streams.
    """

    def __init__(self, config: GPTConfig | Mapping, *, rematerialize: bool = False, seed: str = "0/decoder", **kwargs):
        super().__init__(**kwargs)
        self.config = config = config if isinstance(config, GPTConfig) else GPTConfig(**config)
        self.rematerialize, self.seed = rematerialize, seed
        shared = {"dtype": self.dtype_policy, "trainable": self.trainable}
        self.token_embedding = TokenEmbedding(
            vocab_size=config.vocab_size,
            width=config.width,
            stddev=STDDEV,
            seed=f"{seed}/token_embedding",
            name="token_embedding",
            **shared,
        )
        self.position_embedding = PositionEmbedding(
            stddev=STDDEV, seed=f"{seed}/position_embedding", name="position_embedding", **shared
        )
        names = [f"block_{index:02d}" for index in range(config.depth)]
        self.blocks = [Block(config=block_config(config), seed=f"{seed}/{name}", name=name, **shared) for name in names]

    def build(self, input_shape):
        sequence = (None, self.config.context_length, self.config.width)
        self.token_embedding.build((None, self.config.context_length))
        for part in (self.position_embedding, *self.blocks):
            part.build(sequence)

    @property
    def logits_kernel(self):
        """A float32 tensor `[width, predicted_rows]`: the transposed token table, and the position table's behind it
        where these are predicted too.
        """
        return self._logits_kernel(*self._tables())

    def call(self, token_ids, dropout_seeds=None):
        *axes, length = token_ids.shape
        if len(axes) > 1:
            token_ids = ops.reshape(token_ids, (-1, length))
        features = deque(self._states(token_ids, dropout_seeds), maxlen=1).pop()  # none but the last is held
        return ops.reshape(features, (*axes, length, self.config.width)) if len(axes) > 1 else features

    def hidden_states(self, token_ids, dropout_seeds=None) -> list:
        """`[batch, length, width]` of the embeddings and of what each block makes of them, the last being the features.

        Args:
            dropout_seeds: int32 `[batch]`, of each example and step; None for nothing left out.

        Raises:
            ValueError: for texts longer than there are positions.
        """
        return list(self._states(token_ids, dropout_seeds))

    def features_and_kernel(self, token_ids, dropout_seeds=None):
        """The features of a call, and the logits' kernel that belongs to them: where dropout is on the table, both are
        of the same table.
        """
        tables = self._dropped_tables(dropout_seeds)
        return self.call(token_ids, dropout_seeds), self._logits_kernel(*tables)

    def embedded(self, token_ids, positions):
        """Embeddings of tokens at their positions, int32 of the same shape, `[..., width]`."""
        return self.token_embedding.call(token_ids) + ops.take(self.position_embedding.embedding, positions, axis=0)

    def logits(self, features):
        """Features `[..., width]` -> float32 logits `[..., tokens]` of the token behind each: none of positions."""
        return self.token_embedding.logits(ops.cast(features, "float32"))

    def _states(self, token_ids, dropout_seeds) -> Iterator:
        x, dropout = self._embedded(token_ids, dropout_seeds), self._dropout(dropout_seeds)
        yield x
        for block in self.blocks:
            x = recomputed(block, x, dropout=dropout) if self.rematerialize else block.call(x, dropout=dropout)
            yield x

    def _embedded(self, token_ids, dropout_seeds):
        config, length = self.config, token_ids.shape[1]
        if length > config.context_length:
            raise ValueError(
                f"This GPT has positions for {config.context_length} tokens, got texts of {length}: cut them, or build "
                "it with a larger context_length."
            )
        tokens, positions = self._dropped_tables(dropout_seeds)
        # The reshape makes the gradient dense on tensorflow, as in `TokenEmbedding`.
        x = ops.take(ops.reshape(tokens, (config.vocab_size, config.width)), token_ids, axis=0)
        x = ops.cast(x + positions[:length], self.compute_dtype)
        if dropout_seeds is None or config.dropout_on == "table":
            return x
        return drop(x, dropout_seeds, rate=config.embedding_dropout, place=f"{self.name}/embedding")

    def _tables(self) -> tuple:
        tables = (self.token_embedding.table(), self.position_embedding.embedding.value)
        return tuple(ops.cast(table, "float32") for table in tables)

    def _dropped_tables(self, dropout_seeds) -> tuple:
        """The tables of tokens and positions; where dropout is on them, with the mask of the batch's first text."""
        tables = self._tables()
        if dropout_seeds is None or self.config.dropout_on == "sum":
            return tables
        return tuple(
            drop(table[None], dropout_seeds[:1], rate=self.config.embedding_dropout, place=f"{self.name}/{name}")[0]
            for table, name in zip(tables, ("tokens", "positions"), strict=True)
        )

    def _logits_kernel(self, tokens, positions):
        tables = (tokens, positions) if self.config.predicts == "rows" else (tokens,)
        return ops.transpose(ops.concatenate(tables, axis=0))

    def _dropout(self, seeds) -> Dropout | None:
        if seeds is None:
            return None
        return Dropout(
            seeds=seeds,
            addition_rate=self.config.addition_dropout,
            attention_rate=self.config.attention_dropout,
            place=self.name,
        )

    def compute_output_shape(self, input_shape, *_):
        return (*input_shape, self.config.width)

    def get_config(self):
        return {
            **super().get_config(),
            "config": asdict(self.config),
            "rematerialize": self.rematerialize,
            "seed": self.seed,
        }
