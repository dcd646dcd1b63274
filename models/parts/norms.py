"""Normalisation over the last axis or over groups of channels, in float32, returned in the input's dtype."""

import keras
from keras import ops

EPSILON = 1e-6


@keras.saving.register_keras_serializable("diptych")
class LayerNorm(keras.layers.Layer):
    """Layer normalisation (Ba et al. 2016), with a scale and, unless it is left out, a bias."""

    def __init__(self, *, epsilon: float = EPSILON, use_bias: bool = True, **kwargs):
        super().__init__(**kwargs)
        self.epsilon, self.use_bias = epsilon, use_bias

    def build(self, input_shape):
        width = input_shape[-1]
        self.scale = self.add_weight(name="scale", shape=(width,), initializer="ones", autocast=False)
        self.bias = None
        if self.use_bias:
            self.bias = self.add_weight(name="bias", shape=(width,), initializer="zeros", autocast=False)

    def call(self, x):
        bias = None if self.bias is None else self.bias.value
        return ops.layer_normalization(x, self.scale.value, bias, epsilon=self.epsilon)

    def get_config(self):
        return {**super().get_config(), "epsilon": self.epsilon, "use_bias": self.use_bias}


@keras.saving.register_keras_serializable("diptych")
class RMSNorm(keras.layers.Layer):
    """x / sqrt(mean(x²) + epsilon) · scale (Zhang and Sennrich 2019).

    With `from_one` the weight is what the scale has beyond one, zero at first, as Gemma's checkpoints store it.
    """

    def __init__(self, *, epsilon: float = EPSILON, from_one: bool = False, **kwargs):
        super().__init__(**kwargs)
        self.epsilon, self.from_one = epsilon, from_one

    def build(self, input_shape):
        start = "zeros" if self.from_one else "ones"
        self.scale = self.add_weight(name="scale", shape=(input_shape[-1],), initializer=start, autocast=False)

    def call(self, x):
        wide, scale = ops.cast(x, "float32"), ops.cast(self.scale.value, "float32")
        inverse = ops.rsqrt(ops.mean(ops.square(wide), axis=-1, keepdims=True) + self.epsilon)
        return ops.cast(wide * inverse * (1 + scale if self.from_one else scale), x.dtype)

    def get_config(self):
        return {**super().get_config(), "epsilon": self.epsilon, "from_one": self.from_one}


@keras.saving.register_keras_serializable("diptych")
class GroupNorm(keras.layers.Layer):
    """(x - mean) / √(variance + epsilon) · scale + bias over each of `num_groups` groups of neighbouring channels, and
    all places of an image, of `[batch, height, width, channels]` (Wu and He 2018, arXiv 1803.08494).

    Args:
        initial_scale: 0 for the last norm of a residual branch, which then starts as the identity.
    """

    def __init__(self, *, num_groups: int, epsilon: float = EPSILON, initial_scale: float = 1.0, **kwargs):
        super().__init__(**kwargs)
        self.num_groups, self.epsilon, self.initial_scale = num_groups, epsilon, initial_scale

    def build(self, input_shape):
        shape, initial = input_shape[-1:], keras.initializers.Constant(self.initial_scale)
        self.scale = self.add_weight(name="scale", shape=shape, initializer=initial, autocast=False)
        self.bias = self.add_weight(name="bias", shape=shape, initializer="zeros", autocast=False)

    def call(self, x):
        _, height, width, channels = x.shape
        groups = (-1, height * width, self.num_groups, channels // self.num_groups)
        grouped = ops.reshape(ops.cast(x, "float32"), groups)
        centred = grouped - ops.mean(grouped, axis=(1, 3), keepdims=True)
        variance = ops.mean(ops.square(centred), axis=(1, 3), keepdims=True)
        normalised = ops.reshape(centred * ops.rsqrt(variance + self.epsilon), (-1, height, width, channels))
        return ops.cast(normalised * self.scale.value + self.bias.value, x.dtype)

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        names = ("num_groups", "epsilon", "initial_scale")
        return {**super().get_config(), **{name: getattr(self, name) for name in names}}
