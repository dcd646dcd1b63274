"""The block of a decoder that looks at an image: attention among tokens, attention to the image, MLP (CapPa's
`cappa.py`).

Notable features: pre-LN throughout, no biases in attention, and none in norms and MLP either unless asked for;
attention kernels from a truncated normal of variance 1 / inputs, the MLP's from Glorot's uniform distribution. An
image's keys and values are projected once, whatever the number of sequences that look at it.

Each part has a `call` for whole sequences and, where it differs, what one more token needs of it.
"""

import keras
from keras import ops

from diptych.models.parts.initializers import LecunNormal, XavierUniform
from diptych.models.parts.layers import LayerNorm, Mlp


@keras.saving.register_keras_serializable("diptych")
class ScaleNorm(LayerNorm):
    """Layer normalisation with a scale and no bias."""

    def build(self, input_shape):
        self.scale = self.add_weight(name="scale", shape=(input_shape[-1],), initializer="ones", autocast=False)

    def call(self, x):
        return ops.layer_normalization(x, self.scale.value, epsilon=self.epsilon)


@keras.saving.register_keras_serializable("diptych")
class PlainMlp(Mlp):
    """width -> mlp_dim -> activation -> width, without biases."""

    def build(self, input_shape):
        width = input_shape[-1]
        self.in_kernel, self.out_kernel = (
            self.add_weight(
                name=name,
                shape=shape,
                initializer=XavierUniform(fan_in=width, fan_out=self.mlp_dim, seed=f"{self.seed}/{name}"),
            )
            for name, shape in (("in_kernel", (width, self.mlp_dim)), ("out_kernel", (self.mlp_dim, width)))
        )
        self.in_bias = self.out_bias = 0


class _Attention(keras.layers.Layer):
    """What both kinds of attention share: heads of width / num_heads, and the projection of their results."""

    def __init__(self, *, num_heads: int, seed: str = "0/attention", **kwargs):
        super().__init__(**kwargs)
        self.num_heads, self.seed = num_heads, seed

    def kernel(self, name: str, inputs: int, outputs: int):
        """A new kernel [inputs, outputs]."""
        initializer = LecunNormal(fan_in=inputs, seed=f"{self.seed}/{name}")
        return self.add_weight(name=name, shape=(inputs, outputs), initializer=initializer)

    def heads(self, x, kernel, parts: int):
        """x · kernel, `[batch, length, inputs]` -> `parts` arrays `[batch, length, heads, head width]`."""
        head_width = kernel.shape[-1] // (parts * self.num_heads)
        y = ops.reshape(_product(x, kernel), (*ops.shape(x)[:2], parts, self.num_heads, head_width))
        return tuple(y[:, :, part] for part in range(parts))

    def mixed(self, query, key, value, mask):
        """Attention's results of all heads, projected: `[batch, queries, width]`."""
        y = ops.dot_product_attention(query, key, value, mask=mask)
        y = ops.reshape(y, (*ops.shape(query)[:2], self.out_kernel.shape[0]))
        return _product(y, self.out_kernel)

    def get_config(self):
        return {**super().get_config(), "num_heads": self.num_heads, "seed": self.seed}


@keras.saving.register_keras_serializable("diptych")
class TokenAttention(_Attention):
    """Attention among the tokens of a sequence, `[batch, length, width]` -> the same.

    `mask`, bool `[batch or 1, 1, length, length]`, is True where a token (row) attends to another.
    """

    def build(self, input_shape):
        width = input_shape[-1]
        self.qkv_kernel = self.kernel("qkv_kernel", width, 3 * width)
        self.out_kernel = self.kernel("out_kernel", width, width)

    def call(self, x, mask):
        return self.mixed(*self.heads(x, self.qkv_kernel, 3), mask)

    def step(self, x, cache, position, mask):
        """One more token `[batch, 1, width]` at a position; -> (its result, the cache with its key and value)."""
        query, key, value = self.heads(x, self.qkv_kernel, 3)
        place = (0, position, 0, 0)
        keys, values = (ops.slice_update(old, place, new) for old, new in zip(cache, (key, value), strict=True))
        return self.mixed(query, keys, values, mask), (keys, values)


@keras.saving.register_keras_serializable("diptych")
class ImageAttention(_Attention):
    """Attention of tokens to an image's tokens.

    `mask`, bool `[batch, 1, 1, image tokens]`, is False for image tokens that nobody is to attend to.
    """

    def build(self, input_shape, image_shape):
        width = input_shape[-1]
        self.query_kernel = self.kernel("query_kernel", width, width)
        self.key_value_kernel = self.kernel("key_value_kernel", image_shape[-1], 2 * width)
        self.out_kernel = self.kernel("out_kernel", width, width)

    def keys_values(self, image_tokens):
        """`[images, image tokens, encoder width]` -> keys and values `[images, image tokens, heads, head width]`."""
        return self.heads(image_tokens, self.key_value_kernel, 2)

    def call(self, x, keys, values, mask):
        """Sequences `[images · sequences of each, length, width]` -> the same; all of an image share its keys."""
        images, shape = ops.shape(keys)[0], ops.shape(x)
        (query,) = self.heads(ops.reshape(x, (images, -1, x.shape[-1])), self.query_kernel, 1)
        return ops.reshape(self.mixed(query, keys, values, mask), shape)


@keras.saving.register_keras_serializable("diptych")
class DecoderBlock(keras.layers.Layer):
    """x + attention among tokens(norm(x)), then x + attention to the image(norm(x)), then x + mlp(norm(x)).

    Input: `[images · sequences of each, length, width]` and image tokens `[images, image tokens, encoder width]`.
    """

    def __init__(
        self, *, num_heads: int, mlp_dim: int, use_bias: bool = False, seed: str = "0/decoder_block", **kwargs
    ):
        super().__init__(**kwargs)
        self.num_heads, self.mlp_dim, self.use_bias, self.seed = num_heads, mlp_dim, use_bias, seed
        shared = {"dtype": self.dtype_policy, "trainable": self.trainable}
        norm, mlp = (LayerNorm, Mlp) if use_bias else (ScaleNorm, PlainMlp)

        def attention(kind, name):
            return kind(num_heads=num_heads, seed=f"{seed}/{name}", name=name, **shared)

        self.token_norm = norm(name="token_norm", **shared)
        self.token_attention = attention(TokenAttention, "token_attention")
        self.image_norm = norm(name="image_norm", **shared)
        self.image_attention = attention(ImageAttention, "image_attention")
        self.mlp_norm = norm(name="mlp_norm", **shared)
        self.mlp = mlp(mlp_dim=mlp_dim, seed=f"{seed}/mlp", name="mlp", **shared)

    def build(self, input_shape, image_shape):
        for part in (self.token_norm, self.token_attention, self.image_norm, self.mlp_norm, self.mlp):
            part.build(input_shape)
        self.image_attention.build(input_shape, image_shape)

    def call(self, x, image_tokens, token_mask, image_mask):
        x = x + self.token_attention.call(self.token_norm.call(x), token_mask)
        return self.look_and_think(x, self.image_attention.keys_values(image_tokens), image_mask)

    def look_and_think(self, x, keys_values, image_mask):
        """What comes after the attention among tokens, for any number of tokens of a sequence."""
        x = x + self.image_attention.call(self.image_norm.call(x), *keys_values, image_mask)
        return x + self.mlp.call(self.mlp_norm.call(x))

    def step(self, x, cache, position, keys_values, token_mask, image_mask):
        """One more token of each sequence; see `TokenAttention.step`."""
        mixed, cache = self.token_attention.step(self.token_norm.call(x), cache, position, token_mask)
        return self.look_and_think(x + mixed, keys_values, image_mask), cache

    def get_config(self):
        return {
            **super().get_config(),
            "num_heads": self.num_heads,
            "mlp_dim": self.mlp_dim,
            "use_bias": self.use_bias,
            "seed": self.seed,
        }


def _product(x, kernel):
    """x · kernel over the last axis, as one product of two matrices (see `diptych.models.parts.layers.affine`)."""
    y = ops.matmul(ops.reshape(x, (-1, x.shape[-1])), kernel)
    return ops.reshape(y, (*ops.shape(x)[:-1], kernel.shape[-1]))
