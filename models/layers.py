"""The transformer that both towers are made of (Dosovitskiy et al. 2021; big_vision `models/vit.py`).

Notable features: pre-LN blocks, tanh-approximate GELU, LayerNorm with epsilon 1e-6 computed in float32, biases everywhere,
no dropout, no causal or padding mask. Query, key and value share one kernel, drawn with the fans of its parts.

`Encoder` is the one layer that Keras calls; it hands activations to its parts through their `call` methods. Keras's own
`__call__` costs tens of microseconds a layer on eager torch, and these parts need nothing that it does (their dtype policy is
the encoder's).
"""

import keras
from keras import ops

from diptych.models.initializers import Normal, XavierUniform

LAYER_NORM_EPSILON = 1e-6


def affine(x, kernel, bias):
    """x · kernel + bias over the last axis, `[..., in]` -> `[..., out]`, as one product of two matrices.

    XLA on the CPU computes a kernel's gradient from a batched product by transposing activations, at less than half the
    speed of the flat product.
    """
    y = ops.matmul(ops.reshape(x, (-1, x.shape[-1])), kernel) + bias
    return ops.reshape(y, (*ops.shape(x)[:-1], kernel.shape[-1]))


@keras.saving.register_keras_serializable("diptych")
class LayerNorm(keras.layers.Layer):
    """Layer normalisation over the last axis in float32, returned in the input's dtype."""

    def build(self, input_shape):
        width = input_shape[-1]
        self.scale = self.add_weight(name="scale", shape=(width,), initializer="ones", autocast=False)
        self.bias = self.add_weight(name="bias", shape=(width,), initializer="zeros", autocast=False)

    def call(self, x):
        return ops.layer_normalization(x, self.scale.value, self.bias.value, epsilon=LAYER_NORM_EPSILON)


@keras.saving.register_keras_serializable("diptych")
class SelfAttention(keras.layers.Layer):
    """Multi-head self-attention, `[batch, length, width]` -> the same; head size = width / num_heads."""

    def __init__(self, *, num_heads: int, seed: str = "0/attention", **kwargs):
        super().__init__(**kwargs)
        self.num_heads, self.seed = num_heads, seed

    def build(self, input_shape):
        width = input_shape[-1]

        def xavier(name):
            return XavierUniform(fan_in=width, fan_out=width, seed=f"{self.seed}/{name}")

        self.qkv_kernel = self.add_weight(name="qkv_kernel", shape=(width, 3 * width), initializer=xavier("qkv_kernel"))
        self.qkv_bias = self.add_weight(name="qkv_bias", shape=(3 * width,), initializer="zeros")
        self.out_kernel = self.add_weight(name="out_kernel", shape=(width, width), initializer=xavier("out_kernel"))
        self.out_bias = self.add_weight(name="out_bias", shape=(width,), initializer="zeros")

    def call(self, x):
        batch, length, width = ops.shape(x)
        head_dim = width // self.num_heads
        qkv = affine(x, self.qkv_kernel, self.qkv_bias)
        qkv = ops.reshape(qkv, (batch, length, 3, self.num_heads, head_dim))
        y = ops.dot_product_attention(qkv[:, :, 0], qkv[:, :, 1], qkv[:, :, 2])
        return affine(ops.reshape(y, (batch, length, width)), self.out_kernel, self.out_bias)

    def get_config(self):
        return {**super().get_config(), "num_heads": self.num_heads, "seed": self.seed}


@keras.saving.register_keras_serializable("diptych")
class Mlp(keras.layers.Layer):
    """width -> mlp_dim -> GELU (tanh) -> width; biases drawn from N(0, 1e-6²)."""

    def __init__(self, *, mlp_dim: int, seed: str = "0/mlp", **kwargs):
        super().__init__(**kwargs)
        self.mlp_dim, self.seed = mlp_dim, seed

    def build(self, input_shape):
        width = input_shape[-1]

        def weight(name, shape, initializer):
            return self.add_weight(name=name, shape=shape, initializer=initializer(f"{self.seed}/{name}"))

        def xavier(seed):
            return XavierUniform(fan_in=width, fan_out=self.mlp_dim, seed=seed)

        def tiny(seed):
            return Normal(stddev=1e-6, seed=seed)

        self.in_kernel = weight("in_kernel", (width, self.mlp_dim), xavier)
        self.in_bias = weight("in_bias", (self.mlp_dim,), tiny)
        self.out_kernel = weight("out_kernel", (self.mlp_dim, width), xavier)
        self.out_bias = weight("out_bias", (width,), tiny)

    def call(self, x):
        hidden = ops.gelu(affine(x, self.in_kernel, self.in_bias), approximate=True)
        return affine(hidden, self.out_kernel, self.out_bias)

    def get_config(self):
        return {**super().get_config(), "mlp_dim": self.mlp_dim, "seed": self.seed}


@keras.saving.register_keras_serializable("diptych")
class Block(keras.layers.Layer):
    """x + attention(norm(x)), then x + mlp(norm(x))."""

    def __init__(self, *, num_heads: int, mlp_dim: int, seed: str = "0/block", **kwargs):
        super().__init__(**kwargs)
        self.num_heads, self.mlp_dim, self.seed = num_heads, mlp_dim, seed
        self.attention_norm = LayerNorm(name="attention_norm", dtype=self.dtype_policy)
        self.attention = SelfAttention(
            num_heads=num_heads, seed=f"{seed}/attention", name="attention", dtype=self.dtype_policy
        )
        self.mlp_norm = LayerNorm(name="mlp_norm", dtype=self.dtype_policy)
        self.mlp = Mlp(mlp_dim=mlp_dim, seed=f"{seed}/mlp", name="mlp", dtype=self.dtype_policy)

    def build(self, input_shape):
        for part in (self.attention_norm, self.attention, self.mlp_norm, self.mlp):
            part.build(input_shape)

    def call(self, x):
        x = x + self.attention.call(self.attention_norm.call(x))
        return x + self.mlp.call(self.mlp_norm.call(x))

    def get_config(self):
        return {**super().get_config(), "num_heads": self.num_heads, "mlp_dim": self.mlp_dim, "seed": self.seed}


def _recomputed(block, x):
    """block(x), computed again in the backward pass instead of being kept."""

    # A new function each time, because jax remembers what it traced for a function, and with it the values of the weights at
    # that time. Through `__call__`, because that sets up mixed precision again in the backward pass.
    def call(x):
        return block(x)

    return keras.remat(call)(x)


@keras.saving.register_keras_serializable("diptych")
class Encoder(keras.layers.Layer):
    """`depth` blocks and a final LayerNorm, `[batch, length, width]` -> the same.

    With `rematerialize`, a block's activations are computed again in the backward pass instead of being kept.
    """

    def __init__(
        self,
        *,
        depth: int,
        num_heads: int,
        mlp_dim: int,
        rematerialize: bool = False,
        seed: str = "0/encoder",
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.depth, self.num_heads, self.mlp_dim = depth, num_heads, mlp_dim
        self.rematerialize, self.seed = rematerialize, seed
        self.blocks = [
            Block(
                num_heads=num_heads,
                mlp_dim=mlp_dim,
                seed=f"{seed}/block_{index:02d}",
                name=f"block_{index:02d}",
                dtype=self.dtype_policy,
            )
            for index in range(depth)
        ]
        self.norm = LayerNorm(name="norm", dtype=self.dtype_policy)

    def build(self, input_shape):
        for part in (*self.blocks, self.norm):
            part.build(input_shape)

    def call(self, x):
        for block in self.blocks:
            x = _recomputed(block, x) if self.rematerialize else block.call(x)
        return self.norm.call(x)

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        return {
            **super().get_config(),
            "depth": self.depth,
            "num_heads": self.num_heads,
            "mlp_dim": self.mlp_dim,
            "rematerialize": self.rematerialize,
            "seed": self.seed,
        }
