"""Heads of towers: token features pooled to one vector, and two vectors as embeddings that can be compared."""

import math

import keras
from keras import ops

from diptych.models.parts.attention import Attention
from diptych.models.parts.initializers import LecunNormal, XavierUniform
from diptych.models.parts.int8_weights import as_float
from diptych.models.parts.mlp import Mlp
from diptych.models.parts.norms import LayerNorm


@keras.saving.register_keras_serializable("diptych")
class MapHead(Attention):
    """Multi-head attention pooling: `[batch, length, width]` -> `[batch, width]` (Zhai et al. 2022, "MAP").

    A learned probe attends to the tokens, where `key_mask` (bool `[batch, length]`) is given to those it marks; then
    y = x + mlp(norm(x)). There is no residual around the attention.
    """

    def __init__(self, *, num_heads: int, mlp_dim: int, seed: str = "0/map_head", **kwargs):
        super().__init__(num_heads=num_heads, seed=seed, **kwargs)
        self.mlp_dim = mlp_dim
        shared = {"dtype": self.dtype_policy, "trainable": self.trainable}
        self.norm = LayerNorm(name="norm", **shared)
        self.mlp = Mlp(mlp_dim=mlp_dim, seed=f"{seed}/mlp", name="mlp", **shared)

    def build(self, input_shape, *_):
        width = input_shape[-1]
        initializer = XavierUniform(fan_in=1, fan_out=width, seed=f"{self.seed}/probe")
        self.probe = self.add_weight(name="probe", shape=(1, 1, width), initializer=initializer)
        super().build((None, 1, width), (None, None, width))
        self.norm.build((None, width))
        self.mlp.build((None, width))

    def call(self, tokens, key_mask=None):
        # Projected once for all examples, with its three axes: tensorflow rounds bfloat16 otherwise in a flat product.
        query = ops.matmul(self.probe, as_float(self.query_kernel, self.compute_dtype)) + self.query_bias
        heads = (1, self.num_heads, self.head_width)
        query = ops.broadcast_to(ops.reshape(query, (1, *heads)), (ops.shape(tokens)[0], *heads))
        mask = None if key_mask is None else key_mask[:, None, None, :]
        x = self.mix(query, *self.keys_values(tokens), mask)
        return x + self.mlp.call(self.norm.call(x))

    def compute_output_shape(self, input_shape, *_):
        return input_shape[0], input_shape[-1]

    def get_config(self):
        base = keras.layers.Layer.get_config(self)
        return {**base, "num_heads": self.num_heads, "mlp_dim": self.mlp_dim, "seed": self.seed}


@keras.saving.register_keras_serializable("diptych")
class Projection(keras.layers.Layer):
    """A linear map to the shared embedding space, with bias (big_vision's `head`) or, as in CLIP, without; with `tanh`
    the layer in front of a classifier's head (big_vision's `pre_logits`).
    """

    def __init__(
        self, *, embed_dim: int, use_bias: bool = True, tanh: bool = False, seed: str = "0/projection", **kwargs
    ):
        super().__init__(**kwargs)
        self.embed_dim, self.use_bias, self.tanh, self.seed = embed_dim, use_bias, tanh, seed

    def build(self, input_shape):
        width = input_shape[-1]
        initializer = LecunNormal(fan_in=width, seed=f"{self.seed}/kernel")
        self.kernel = self.add_weight(name="kernel", shape=(width, self.embed_dim), initializer=initializer)
        if self.use_bias:
            self.bias = self.add_weight(name="bias", shape=(self.embed_dim,), initializer="zeros")

    def call(self, x):
        x = ops.matmul(x, self.kernel)
        if self.use_bias:
            x = x + self.bias
        return ops.tanh(x) if self.tanh else x

    def compute_output_shape(self, input_shape):
        return *input_shape[:-1], self.embed_dim

    def get_config(self):
        names = ("embed_dim", "use_bias", "tanh", "seed")
        return {**super().get_config(), **{name: getattr(self, name) for name in names}}


def normalize(x):
    """x / (‖x‖₂ + 1e-8) over the last axis, in float32 (big_vision `two_towers.py`).

    The square root is bounded below, so a zero vector has a finite gradient on every backend.
    """
    x = ops.cast(x, "float32")
    squared = ops.sum(ops.square(x), axis=-1, keepdims=True)
    return x / (ops.sqrt(ops.maximum(squared, 1e-24)) + 1e-8)


@keras.saving.register_keras_serializable("diptych")
class Normalize(keras.layers.Layer):
    """`normalize` as a layer: unit-length float32 embeddings, whatever the compute dtype."""

    def __init__(self, **kwargs):
        super().__init__(**{**kwargs, "dtype": "float32"})

    def call(self, x):
        return normalize(x)


@keras.saving.register_keras_serializable("diptych")
class AtMost(keras.constraints.Constraint):
    """A weight that an optimizer's step leaves at `largest` or below."""

    def __init__(self, largest: float):
        self.largest = largest

    def __call__(self, w):
        return ops.minimum(w, self.largest)

    def get_config(self):
        return {"largest": self.largest}


@keras.saving.register_keras_serializable("diptych")
class PairLogits(keras.layers.Layer):
    """Holds what turns cosines into logits: scale t = exp(`log_logit_scale`) and `logit_bias` b, both learned float32
    scalars.

    Its call normalises the two towers' outputs. Logits are left to the objective, which may compute them in tiles.
    SigLIP starts at t = 10, b = -10 (Zhai et al. 2023, section 3.2); `bias_for_batch` gives the choice for small
    batches. Optimizers bring t back to `max_logit_scale` after a step that takes it beyond: CLIP's bound is 100
    (Radford et al. 2021, section 2.5), SigLIP has none.
    """

    def __init__(
        self,
        *,
        init_logit_scale: float = 10.0,
        init_logit_bias: float | None = -10.0,
        max_logit_scale: float | None = None,
        **kwargs,
    ):
        super().__init__(**{**kwargs, "dtype": "float32"})
        self.init_logit_scale, self.init_logit_bias = init_logit_scale, init_logit_bias
        self.max_logit_scale = max_logit_scale

    def build(self, image_shape, text_shape):
        if image_shape[-1] != text_shape[-1]:
            raise ValueError(
                f"The towers' outputs differ in width: image {image_shape[-1]}, text {text_shape[-1]}. Give one of "
                "them a projection: `TextConfig(embed_dim=...)` or `VisionConfig(embed_dim=...)`."
            )
        constant = keras.initializers.Constant
        bound = None if self.max_logit_scale is None else AtMost(math.log(self.max_logit_scale))
        self.log_logit_scale = self.add_weight(
            name="log_logit_scale",
            shape=(),
            initializer=constant(math.log(self.init_logit_scale)),
            constraint=bound,
        )
        self.logit_bias = None
        if self.init_logit_bias is not None:
            self.logit_bias = self.add_weight(name="logit_bias", shape=(), initializer=constant(self.init_logit_bias))

    def call(self, image, text):
        return normalize(image), normalize(text)

    def get_config(self):
        return {
            **super().get_config(),
            "init_logit_scale": self.init_logit_scale,
            "init_logit_bias": self.init_logit_bias,
            "max_logit_scale": self.max_logit_scale,
        }


def bias_for_batch(batch_size: int) -> float:
    """b = log(p / (1 - p)) with p = 1 / batch_size: the logit of the share of true pairs in a batch.

    SigLIP's b = -10 is this for a batch of about 22,000; at a batch of 256 it is -5.5.
    """
    if batch_size < 2:
        raise ValueError(f"A batch of {batch_size} has no negatives: the bias needs batch_size >= 2.")
    return -math.log(batch_size - 1)
