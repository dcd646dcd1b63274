"""The block of a transformer: attention, attention to a context, MLP, each beside the stream that it adds to."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import ClassVar, Literal

import keras

from diptych.models.parts.attention import Attention
from diptych.models.parts.dropout import Dropout
from diptych.models.parts.mlp import Mlp
from diptych.models.parts.norms import EPSILON, LayerNorm, RMSNorm


@dataclass(frozen=True, kw_only=True)
class BlockConfig:
    """What a block is made of; the defaults are ViT's (Dosovitskiy et al. 2021; big_vision `models/vit.py`).

    Attributes:
        num_heads, num_key_value_heads, head_dim, causal, rotary_base, query_scale, soft_cap: of `Attention`.
        mlp_dim, activation, gated: of `Mlp`.
        norm, norm_epsilon: "layer" (`LayerNorm`), "rms" (`RMSNorm`) or "rms_from_one" (the same, `from_one`).
        norm_first: x + part(norm(x)), as ViT and all that came after GPT-2; else norm(x + part(x)), as GPT-1.
        post_norms: x + norm(part(norm(x))), as Gemma 2.
        use_bias: in norms and MLP.
        attention_bias, attention_initializer: of `Attention`'s projections.
        mlp_initializer: of `Mlp`.
    """

    num_heads: int
    mlp_dim: int
    num_key_value_heads: int | None = None
    head_dim: int | None = None
    causal: bool = False
    rotary_base: float | None = None
    query_scale: float | None = None
    soft_cap: float | None = None
    activation: str = "gelu_tanh"
    gated: bool = False
    norm: Literal["layer", "rms", "rms_from_one"] = "layer"
    norm_epsilon: float = EPSILON
    norm_first: bool = True
    post_norms: bool = False
    use_bias: bool = True
    attention_bias: bool = True
    attention_initializer: str = "xavier_uniform"
    mlp_initializer: str = "xavier_uniform"

    def make_norm(self, **arguments) -> keras.layers.Layer:
        """A norm of the kind that the block has."""
        if self.norm == "layer":
            return LayerNorm(epsilon=self.norm_epsilon, use_bias=self.use_bias, **arguments)
        return RMSNorm(epsilon=self.norm_epsilon, from_one=self.norm == "rms_from_one", **arguments)


@keras.saving.register_keras_serializable("diptych")
class Block(keras.layers.Layer):
    """`[batch, length, width]` -> the same; built with the shape of a context as well, it attends to that too.

    Attributes:
        names: of its six parts, in the paths of their weights; norms behind parts have the part's with "_post_norm".
    """

    names: ClassVar = ("attention_norm", "attention", "context_norm", "context_attention", "mlp_norm", "mlp")

    def __init__(self, *, config: BlockConfig | Mapping, looks: bool = False, seed: str = "0/block", **kwargs):
        """`looks`: whether it attends to a context."""
        super().__init__(**kwargs)
        self.config = config = config if isinstance(config, BlockConfig) else BlockConfig(**config)
        self.looks, self.seed = looks, seed
        shared = {"dtype": self.dtype_policy, "trainable": self.trainable}
        norm_name, name, context_norm_name, context_name, mlp_norm_name, mlp_name = self.names

        def attention(name, **kind):
            return Attention(
                num_heads=config.num_heads,
                num_key_value_heads=config.num_key_value_heads,
                head_dim=config.head_dim,
                use_bias=config.attention_bias,
                query_scale=config.query_scale,
                soft_cap=config.soft_cap,
                initializer=config.attention_initializer,
                seed=f"{seed}/{name}",
                name=name,
                **kind,
                **shared,
            )

        self.attention_norm = config.make_norm(name=norm_name, **shared)
        self.attention = attention(name, causal=config.causal, rotary_base=config.rotary_base)
        self.post_norms = {}
        if config.post_norms:
            parts = (name, context_name, mlp_name) if looks else (name, mlp_name)
            self.post_norms = {part: config.make_norm(name=f"{part}_post_norm", **shared) for part in parts}
        if looks:
            self.context_norm = config.make_norm(name=context_norm_name, **shared)
            self.context_attention = attention(context_name)
        self.mlp_norm = config.make_norm(name=mlp_norm_name, **shared)
        self.mlp = Mlp(
            mlp_dim=config.mlp_dim,
            activation=config.activation,
            gated=config.gated,
            use_bias=config.use_bias,
            initializer=config.mlp_initializer,
            seed=f"{seed}/{mlp_name}",
            name=mlp_name,
            **shared,
        )

    def build(self, input_shape, context_shape=None):
        self.attention_norm.build(input_shape)
        self.attention.build(input_shape)
        if self.looks:
            self.context_norm.build(input_shape)
            self.context_attention.build(input_shape, context_shape)
        self.mlp_norm.build(input_shape)
        self.mlp.build(input_shape)
        for norm in self.post_norms.values():
            norm.build(input_shape)

    def call(self, x, context=None, token_mask=None, context_mask=None, positions=None, dropout: Dropout | None = None):
        """
        Args:
            x: `[batch · sequences of each context, length, width]`.
            context: `[batch, keys, context width]`.
            token_mask, context_mask: as `Attention`'s `attention_mask`, among tokens and to the context.
            positions: as `Attention`'s.
            dropout: of attention among tokens, and of what it and the MLP add to x; None for nothing.
        """
        dropout = dropout and dropout.inside(self.name)
        mixed = self.attention.call(self._before(self.attention_norm, x), token_mask, positions, dropout)
        x = self._behind(self.attention_norm, x + self._added(self.attention, mixed, dropout))
        keys_values = self.context_attention.keys_values(context) if self.looks else None
        return self._look_and_think(x, keys_values, context_mask, dropout)

    def step(self, x, cache, place, keys_values=None, token_mask=None, context_mask=None, positions=None):
        """More tokens of each sequence, see `Attention.step`; `keys_values` are the context's."""
        mixed, cache = self.attention.step(self._before(self.attention_norm, x), cache, place, token_mask, positions)
        x = self._behind(self.attention_norm, x + self._added(self.attention, mixed))
        return self._look_and_think(x, keys_values, context_mask), cache

    def _look_and_think(self, x, keys_values, context_mask, dropout: Dropout | None = None):
        """What comes after the attention among tokens, for any number of tokens of a sequence."""
        if self.looks:
            seen = self.context_attention.look(self._before(self.context_norm, x), *keys_values, context_mask)
            x = self._behind(self.context_norm, x + self._added(self.context_attention, seen))
        thought = self.mlp.call(self._before(self.mlp_norm, x))
        return self._behind(self.mlp_norm, x + self._added(self.mlp, thought, dropout))

    def _before(self, norm, x):
        return norm.call(x) if self.config.norm_first else x

    def _added(self, part, result, dropout: Dropout | None = None):
        """What a part's result adds to the stream."""
        norm = self.post_norms.get(part.name)
        result = result if norm is None else norm.call(result)
        return dropout.of_addition(result, part.name) if dropout else result

    def _behind(self, norm, x):
        return x if self.config.norm_first else norm.call(x)

    def get_config(self):
        return {**super().get_config(), "config": asdict(self.config), "looks": self.looks, "seed": self.seed}


def recomputed(block: Block, *tensors, **masks):
    """block(*tensors, **masks), computed again in the backward pass instead of being kept.

    What is differentiated must be among the tensors: tensorflow gives no gradient to what such a function closes over.
    """

    # A new function each time, because jax remembers what it traced for a function, and with it the values of the
    # weights at that time. Through `__call__`, because that sets up mixed precision again in the backward pass.
    def call(*tensors):
        return block(*tensors, **masks)

    return keras.remat(call)(*tensors)
