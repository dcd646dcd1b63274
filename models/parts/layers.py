"""The transformer that both towers are made of (Dosovitskiy et al. 2021; big_vision `models/siglip/vit.py`).

Notable features: pre-LN blocks, LayerNorm computed in float32, biases everywhere, no dropout. Query, key and value
share one kernel, drawn with the fans of its parts. SigLIP takes the defaults: tanh-approximate GELU, epsilon 1e-6, no
mask. CLIP's texts are causal, and NaFlex hands in a mask of the patches that are there.

`Encoder` is the one layer that Keras calls; it hands activations to its parts through their `call` methods. Keras's own
`__call__` costs tens of microseconds a layer on eager torch, and these parts need nothing that it does (their dtype
policy is the encoder's).
"""

from collections.abc import Callable
from functools import partial

import keras
from keras import ops

from diptych.models.parts.initializers import Normal, XavierUniform

LAYER_NORM_EPSILON = 1e-6

ACTIVATIONS: dict[str, Callable] = {
    "gelu_tanh": partial(ops.gelu, approximate=True),
    "gelu": partial(ops.gelu, approximate=False),
    "quick_gelu": lambda x: x * ops.sigmoid(1.702 * x),
}
"""What stands between an MLP's two products; CLIP's own models have "quick_gelu"."""


def affine(x, kernel, bias):
    """x · kernel + bias over the last axis, `[..., in]` -> `[..., out]`, as one product of two matrices.

    XLA on the CPU computes a kernel's gradient from a batched product by transposing activations, at less than half the
    speed of the flat product.
    """
    if len(x.shape) > 2:
        y = affine(ops.reshape(x, (-1, x.shape[-1])), kernel, bias)
        return ops.reshape(y, (*ops.shape(x)[:-1], kernel.shape[-1]))
    y = ops.matmul(x, kernel)
    y += bias  # eager torch adds it in place; a sum would be a second array of this size
    return y


@keras.saving.register_keras_serializable("diptych")
class LayerNorm(keras.layers.Layer):
    """Layer normalisation over the last axis in float32, returned in the input's dtype."""

    def __init__(self, *, epsilon: float = LAYER_NORM_EPSILON, **kwargs):
        super().__init__(**kwargs)
        self.epsilon = epsilon

    def build(self, input_shape):
        width = input_shape[-1]
        self.scale = self.add_weight(name="scale", shape=(width,), initializer="ones", autocast=False)
        self.bias = self.add_weight(name="bias", shape=(width,), initializer="zeros", autocast=False)

    def call(self, x):
        return ops.layer_normalization(x, self.scale.value, self.bias.value, epsilon=self.epsilon)

    def get_config(self):
        return {**super().get_config(), "epsilon": self.epsilon}


@keras.saving.register_keras_serializable("diptych")
class SelfAttention(keras.layers.Layer):
    """Multi-head self-attention, `[batch, length, width]` -> the same; head size = width / num_heads.

    Where `causal`, a token attends to itself and those before it. `key_mask`, bool `[batch, length]`, is False for
    tokens that nobody is to attend to.
    """

    def __init__(self, *, num_heads: int, causal: bool = False, seed: str = "0/attention", **kwargs):
        super().__init__(**kwargs)
        self.num_heads, self.causal, self.seed = num_heads, causal, seed

    def build(self, input_shape):
        width = input_shape[-1]

        def xavier(name):
            return XavierUniform(fan_in=width, fan_out=width, seed=f"{self.seed}/{name}")

        self.qkv_kernel = self.add_weight(name="qkv_kernel", shape=(width, 3 * width), initializer=xavier("qkv_kernel"))
        self.qkv_bias = self.add_weight(name="qkv_bias", shape=(3 * width,), initializer="zeros")
        self.out_kernel = self.add_weight(name="out_kernel", shape=(width, width), initializer=xavier("out_kernel"))
        self.out_bias = self.add_weight(name="out_bias", shape=(width,), initializer="zeros")

    def call(self, x, key_mask=None):
        batch, length, width = ops.shape(x)
        mask = None if key_mask is None else key_mask[:, None, None, :]
        # One name for all: eager torch frees an array when its name goes to the next.
        x = affine(ops.reshape(x, (-1, width)), self.qkv_kernel, self.qkv_bias)
        x = ops.reshape(x, (batch, length, 3, self.num_heads, width // self.num_heads))
        x = ops.dot_product_attention(x[:, :, 0], x[:, :, 1], x[:, :, 2], mask=mask, is_causal=self.causal)
        x = affine(ops.reshape(x, (-1, width)), self.out_kernel, self.out_bias)
        return ops.reshape(x, (batch, length, width))

    def get_config(self):
        return {**super().get_config(), "num_heads": self.num_heads, "causal": self.causal, "seed": self.seed}


@keras.saving.register_keras_serializable("diptych")
class Mlp(keras.layers.Layer):
    """width -> mlp_dim -> activation -> width; biases drawn from N(0, 1e-6²)."""

    def __init__(self, *, mlp_dim: int, activation: str = "gelu_tanh", seed: str = "0/mlp", **kwargs):
        super().__init__(**kwargs)
        self.mlp_dim, self.activation, self.seed = mlp_dim, activation, seed

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
        # Flat in between: every `ops.reshape` costs a dozen microseconds on eager torch.
        shape = ops.shape(x)
        x = affine(ops.reshape(x, (-1, x.shape[-1])), self.in_kernel, self.in_bias)
        x = ACTIVATIONS[self.activation](x)
        x = affine(x, self.out_kernel, self.out_bias)
        return ops.reshape(x, shape)

    def get_config(self):
        return {**super().get_config(), "mlp_dim": self.mlp_dim, "activation": self.activation, "seed": self.seed}


@keras.saving.register_keras_serializable("diptych")
class Block(keras.layers.Layer):
    """x + attention(norm(x)), then x + mlp(norm(x))."""

    def __init__(
        self,
        *,
        num_heads: int,
        mlp_dim: int,
        activation: str = "gelu_tanh",
        norm_epsilon: float = LAYER_NORM_EPSILON,
        causal: bool = False,
        seed: str = "0/block",
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.num_heads, self.mlp_dim, self.activation = num_heads, mlp_dim, activation
        self.norm_epsilon, self.causal, self.seed = norm_epsilon, causal, seed
        shared = {"dtype": self.dtype_policy, "trainable": self.trainable}
        self.attention_norm = LayerNorm(epsilon=norm_epsilon, name="attention_norm", **shared)
        self.attention = SelfAttention(
            num_heads=num_heads, causal=causal, seed=f"{seed}/attention", name="attention", **shared
        )
        self.mlp_norm = LayerNorm(epsilon=norm_epsilon, name="mlp_norm", **shared)
        self.mlp = Mlp(mlp_dim=mlp_dim, activation=activation, seed=f"{seed}/mlp", name="mlp", **shared)

    def build(self, input_shape):
        for part in (self.attention_norm, self.attention, self.mlp_norm, self.mlp):
            part.build(input_shape)

    def call(self, x, key_mask=None):
        x = x + self.attention.call(self.attention_norm.call(x), key_mask)
        return x + self.mlp.call(self.mlp_norm.call(x))

    def get_config(self):
        return {
            **super().get_config(),
            "num_heads": self.num_heads,
            "mlp_dim": self.mlp_dim,
            "activation": self.activation,
            "norm_epsilon": self.norm_epsilon,
            "causal": self.causal,
            "seed": self.seed,
        }


def _recomputed(block, x, key_mask):
    """block(x), computed again in the backward pass instead of being kept."""

    # A new function each time, because jax remembers what it traced for a function, and with it the values of the
    # weights at that time. Through `__call__`, because that sets up mixed precision again in the backward pass.
    def call(x):
        return block(x, key_mask)

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
        activation: str = "gelu_tanh",
        norm_epsilon: float = LAYER_NORM_EPSILON,
        causal: bool = False,
        rematerialize: bool = False,
        seed: str = "0/encoder",
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.depth, self.num_heads, self.mlp_dim, self.activation = depth, num_heads, mlp_dim, activation
        self.norm_epsilon, self.causal = norm_epsilon, causal
        self.rematerialize, self.seed = rematerialize, seed
        shared = {"dtype": self.dtype_policy, "trainable": self.trainable}
        self.blocks = [
            Block(
                num_heads=num_heads,
                mlp_dim=mlp_dim,
                activation=activation,
                norm_epsilon=norm_epsilon,
                causal=causal,
                seed=f"{seed}/block_{index:02d}",
                name=f"block_{index:02d}",
                **shared,
            )
            for index in range(depth)
        ]
        self.norm = LayerNorm(epsilon=norm_epsilon, name="norm", **shared)

    def build(self, input_shape, *_):
        for part in (*self.blocks, self.norm):
            part.build(input_shape)

    def call(self, x, key_mask=None):
        for block in self.blocks:
            x = _recomputed(block, x, key_mask) if self.rematerialize else block.call(x, key_mask)
        return self.norm.call(x)

    def compute_output_shape(self, input_shape, *_):
        return input_shape

    def get_config(self):
        return {
            **super().get_config(),
            "depth": self.depth,
            "num_heads": self.num_heads,
            "mlp_dim": self.mlp_dim,
            "activation": self.activation,
            "norm_epsilon": self.norm_epsilon,
            "causal": self.causal,
            "rematerialize": self.rematerialize,
            "seed": self.seed,
        }
