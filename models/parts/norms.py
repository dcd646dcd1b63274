"""Normalisation over the last axis, computed in float32 and returned in the input's dtype."""

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
