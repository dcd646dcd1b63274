"""The precision in which models that predict one token after the other are asked for the next."""

from collections.abc import Callable

import keras


class InPrecision(keras.layers.Layer):
    """A function of tensors, called with a layer's mixed precision as the layer's own call is."""

    def __init__(self, function: Callable, layer: keras.layers.Layer):
        super().__init__(dtype=layer.dtype_policy)
        self.function = function

    def call(self, *tensors):
        return self.function(*tensors)
