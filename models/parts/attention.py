"""Multi-head attention: of tokens among themselves, or to a context (Vaswani et al. 2017, section 3.2)."""

import math
from typing import Any, ClassVar

import keras
from keras import ops

from diptych.core.losses.products import soft_capped
from diptych.models.parts.affine import affine
from diptych.models.parts.dropout import Dropout
from diptych.models.parts.initializers import KERNELS
from diptych.models.parts.int8_weights import Int8Weights
from diptych.models.parts.rotary import rotate


@keras.saving.register_keras_serializable("diptych")
class Attention(Int8Weights):
    """Queries `[batch, queries, width]` -> the same, by what they find among keys and values.

    Built for tokens alone, they attend to each other, and query, key and value share one kernel, drawn with the fans of
    its parts. Built with the shape of a context as well, they attend to that, whose keys and values `keys_values`
    projects once, for as many calls as look at it.

    Args:
        num_heads: of the queries.
        num_key_value_heads: fewer heads of keys and values, each for a group of the queries' (GQA, Ainslie et al.
            2023); None for as many.
        head_dim: of each head; None for width / num_heads.
        output_dim: of what is found; None for width.
        use_bias: in all projections.
        causal: a token attends to itself and those before it.
        rotary_base: of rotary positions, see `rotate`; None for no positions inside attention.
        query_scale: factor of the products of queries and keys; None for head_dim^-0.5.
        soft_cap: c, so that the scaled products s become c · tanh(s / c) before what is masked leaves them (Gemma 2,
            section 2); None for none.
        initializer: of kernels, one of `KERNELS`.
    """

    matrices: ClassVar = dict.fromkeys(("qkv_kernel", "query_kernel", "key_value_kernel", "out_kernel"), 0)

    def __init__(
        self,
        *,
        num_heads: int,
        num_key_value_heads: int | None = None,
        head_dim: int | None = None,
        output_dim: int | None = None,
        use_bias: bool = True,
        causal: bool = False,
        rotary_base: float | None = None,
        query_scale: float | None = None,
        soft_cap: float | None = None,
        initializer: str = "xavier_uniform",
        seed: str = "0/attention",
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.num_heads, self.num_key_value_heads = num_heads, num_key_value_heads or num_heads
        if num_heads % self.num_key_value_heads:
            raise ValueError(
                f"num_heads must be a multiple of num_key_value_heads, got {num_heads} and {num_key_value_heads}."
            )
        self.head_dim, self.output_dim, self.use_bias, self.causal = head_dim, output_dim, use_bias, causal
        self.rotary_base, self.initializer, self.seed = rotary_base, initializer, seed
        self.query_scale, self.soft_cap = query_scale, soft_cap

    def build(self, input_shape, context_shape=None):
        width = input_shape[-1]
        self.head_width: int = self.head_dim or width // self.num_heads
        inside, key_width = self.num_heads * self.head_width, self.num_key_value_heads * self.head_width
        if context_shape is None:
            self.qkv_kernel, self.qkv_bias = self._linear("qkv", width, inside, columns=inside + 2 * key_width)
            _lay_out(self.qkv_kernel, (width, -1, self.head_width))
        else:
            self.query_kernel, self.query_bias = self._linear("query", width, inside)
            _lay_out(self.query_kernel, (width, -1, self.head_width))
            self.key_value_kernel, self.key_value_bias = self._linear(
                "key_value", context_shape[-1], key_width, columns=2 * key_width
            )
            _lay_out(self.key_value_kernel, (context_shape[-1], -1, self.head_width))
        self.out_kernel, self.out_bias = self._linear("out", inside, self.output_dim or width)
        _lay_out(self.out_kernel, (-1, self.head_width, self.output_dim or width))

    def _linear(self, name: str, fan_in: int, fan_out: int, *, columns: int | None = None):
        """A kernel `[fan_in, columns]`, by default as many as `fan_out`, and its bias or None."""
        columns = columns or fan_out
        initializer = KERNELS[self.initializer](fan_in, fan_out, f"{self.seed}/{name}_kernel")
        kernel = self.add_weight(name=f"{name}_kernel", shape=(fan_in, columns), initializer=initializer)
        if not self.use_bias:
            return kernel, None
        return kernel, self.add_weight(name=f"{name}_bias", shape=(columns,), initializer="zeros")

    def call(self, x, attention_mask=None, positions=None, dropout: Dropout | None = None):
        """Attention of tokens to each other.

        Args:
            attention_mask: bool, broadcast to `[batch, heads, queries, keys]`, False where a query is not to look.
            positions: of `rotate`, where there are rotary positions; None for 0, 1, 2, ...
            dropout: of the shares of values that a token takes; None for nothing left out.
        """
        batch, length, width = ops.shape(x)
        # One name for all: eager torch frees an array when its name goes to the next.
        x = affine(ops.reshape(x, (-1, width)), self.qkv_kernel, self.qkv_bias)
        x = self._found(*self._split(x, batch, length, positions), attention_mask, causal=self.causal, dropout=dropout)
        return ops.reshape(affine(x, self.out_kernel, self.out_bias), (batch, length, -1))

    def step(self, x, cache, place, attention_mask, positions=None):
        """More tokens `[batch, tokens, width]`, or one of each text `[batch, width]`, from a place of the cache on; ->
        (their results, the cache with their keys and values).

        Args:
            place: int32 scalar; None for behind all that the cache holds, which so grows.
            positions: as for a call; None for the places.
        """
        single = len(x.shape) == 2
        batch, length = ops.shape(x)[0], 1 if single else ops.shape(x)[1]
        x = affine(x if single else ops.reshape(x, (-1, x.shape[-1])), self.qkv_kernel, self.qkv_bias)
        if positions is None:
            positions = (cache[0].shape[1] if place is None else place) + ops.arange(length, dtype="int32")
        query, *new = self._split(x, batch, length, positions)
        if place is None:
            keys, values = (ops.concatenate(both, axis=1) for both in zip(cache, new, strict=True))
        else:
            keys, values = (ops.slice_update(old, (0, place, 0, 0), x) for old, x in zip(cache, new, strict=True))
        found = self.mix(query, keys, values, attention_mask)
        return found if single else ops.reshape(found, (batch, length, -1)), (keys, values)

    def empty_cache(self, batch, length: int):
        """Keys and values `[batch, length, key-value heads, head width]` of no token yet, for `step`."""
        shape = (batch, length, self.num_key_value_heads, self.head_width)
        return tuple(ops.zeros(shape, self.compute_dtype) for _ in range(2))

    def keys_values(self, context):
        """`[batch, keys, context width]` -> keys and values `[batch, keys, key-value heads, head width]`."""
        batch, length, width = ops.shape(context)
        x = affine(ops.reshape(context, (-1, width)), self.key_value_kernel, self.key_value_bias)
        x = ops.reshape(x, (batch, length, 2 * self.num_key_value_heads, self.head_width))
        return x[:, :, : self.num_key_value_heads], x[:, :, self.num_key_value_heads :]

    def queries(self, x):
        """`[batch, queries, width]` -> `[batch, queries, heads, head width]`, for attention to a context."""
        batch, _, width = ops.shape(x)
        x = affine(ops.reshape(x, (-1, width)), self.query_kernel, self.query_bias)
        return ops.reshape(x, (batch, -1, self.num_heads, self.head_width))

    def mix(self, query, keys, values, attention_mask=None):
        """What `queries` find among `keys_values`, projected: `[batch · queries, output_dim]`."""
        return affine(self._found(query, keys, values, attention_mask), self.out_kernel, self.out_bias)

    def look(self, x, keys, values, attention_mask=None):
        """Attention of `[batch · sequences, queries, width]` to a context's `keys_values`, shared by its sequences."""
        shape = ops.shape(x)
        query = self.queries(ops.reshape(x, (ops.shape(keys)[0], -1, shape[-1])))
        return ops.reshape(self.mix(query, keys, values, attention_mask), (*shape[:-1], self.out_kernel.shape[-1]))

    def _split(self, x, batch, length: int, positions) -> tuple[Any, Any, Any]:
        """Queries, keys and values, turned by their positions, of `[batch · length, columns of qkv_kernel]`."""
        heads, groups = self.num_heads, self.num_key_value_heads
        x = ops.reshape(x, (batch, length, heads + 2 * groups, self.head_width))
        turned, value = x[:, :, : heads + groups], x[:, :, heads + groups :]
        if self.rotary_base is not None:
            positions = ops.arange(length, dtype="int32") if positions is None else positions
            turned = rotate(turned, positions, base=self.rotary_base)
        return turned[:, :, :heads], turned[:, :, heads:], value

    def _found(self, query, keys, values, mask, *, causal: bool = False, dropout: Dropout | None = None):
        """What all heads find, side by side: `[batch · queries, heads · head width]`."""
        group = self.num_heads // self.num_key_value_heads
        alone = isinstance(query.shape[1], int) and query.shape[1] == 1
        if group > 1 and alone:
            # The heads of a group are as many queries of one head, for which no key or value is repeated.
            query = ops.reshape(query, (-1, self.num_key_value_heads, group, self.head_width))
            query = ops.transpose(query, (0, 2, 1, 3))
        elif group > 1:
            keys, values = (ops.repeat(each, group, axis=2) for each in (keys, values))
        if dropout is None and self.soft_cap is None:
            found = ops.dot_product_attention(query, keys, values, mask=mask, scale=self.query_scale, is_causal=causal)
        else:
            shares = self._shares(query, keys, mask, causal=causal)
            shares = shares if dropout is None else dropout.of_attention(shares, self.name)
            found = ops.einsum("bhqk,bkhd->bqhd", shares, values)
        if group > 1 and alone:
            found = ops.transpose(found, (0, 2, 1, 3))
        return ops.reshape(found, (-1, self.num_heads * self.head_width))

    def _shares(self, query, keys, mask, *, causal: bool):
        """How much of each key's value a query takes, `[batch, heads, queries, keys]`: the softmax, whole.

        Keras has capped scores in its fused attention on TPUs alone.
        """
        scale = 1 / math.sqrt(self.head_width) if self.query_scale is None else self.query_scale
        scores = ops.cast(ops.einsum("bqhd,bkhd->bhqk", query, keys), "float32") * scale
        scores = soft_capped(scores, self.soft_cap)
        if causal:
            places = ops.arange(query.shape[1], dtype="int32")
            before = (places[:, None] >= places[None, :])[None, None]
            mask = before if mask is None else ops.logical_and(mask, before)
        if mask is not None:
            scores = ops.where(mask, scores, -1e9)
        return ops.cast(ops.softmax(scores, axis=-1), query.dtype)

    def get_config(self):
        names = ("num_heads", "num_key_value_heads", "head_dim", "output_dim", "use_bias", "causal", "rotary_base")
        names += ("query_scale", "soft_cap", "initializer", "seed")
        return {**super().get_config(), **{name: getattr(self, name) for name in names}}


def _lay_out(kernel, layout: tuple[int, int, int]) -> None:
    """Notes on a kernel, for optimizers, its shape with an axis for the heads, of which -1 in `layout` stands for all.

    One kernel here is one for each of query, key and value, and each a stack of heads, elsewhere (big_vision): an
    optimizer that looks at a weight as a matrix, as Adafactor, is to see the heads' matrices.
    """
    axis = layout.index(-1)
    heads = math.prod(kernel.shape) // (layout[axis - 1] * layout[axis - 2])
    kernel.heads_layout = (*layout[:axis], heads, *layout[axis + 1 :]), axis
