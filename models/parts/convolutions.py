"""Parts of residual networks: convolutions without bias, batch normalisation, pooling, stages of blocks.

Like the transformer's layers they are called by the one layer around them through their `call` methods.
"""

import math
from typing import Literal

import keras
from keras import ops

from diptych.core.training.whole_batch import whole_batch
from diptych.models.parts.affine import affine
from diptych.models.parts.initializers import LecunNormal

Padding = Literal["symmetric", "same"]
"""Where zeros lie around an image of n pixels a side for a kernel of k at stride s. "symmetric", as in torch: k // 2 on
each side. "same", as tensorflow and XLA do: as few as ⌈n / s⌉ places need, of an odd number one more behind. At
stride 1 both are one and the same; around 224 pixels a kernel of 7 at stride 2 has 3 and 3, or 2 and 3."""


@keras.saving.register_keras_serializable("diptych")
class Convolution(keras.layers.Layer):
    """A convolution without bias over `[batch, height, width, in]`, its kernel `[size, size, in, out]`, of odd size,
    which counts with its low-rank adapter where it has one.
    """

    kernel_in_compute_dtype = True
    """Whether the kernel is cast before anything is computed from it."""

    def __init__(
        self,
        *,
        filters: int,
        kernel_size: int,
        stride: int = 1,
        padding: Padding = "symmetric",
        seed: str = "0/convolution",
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.filters, self.kernel_size, self.stride = filters, kernel_size, stride
        self.padding, self.seed = padding, seed

    def build(self, input_shape):
        size, channels = self.kernel_size, input_shape[-1]
        self.kernel = self.add_weight(
            name="kernel",
            shape=(size, size, channels, self.filters),
            initializer=LecunNormal(fan_in=size * size * channels, seed=f"{self.seed}/kernel"),
            autocast=self.kernel_in_compute_dtype,
        )

    def applied_kernel(self):
        """What images are convolved with, in the compute dtype."""
        return self.kernel

    def call(self, x):
        margin = self.kernel_size // 2
        if margin and self.padding == "symmetric":
            x = ops.pad(x, ((0, 0), (margin, margin), (margin, margin), (0, 0)))
        y = self._over(x, self.applied_kernel())
        adapter = getattr(self.kernel, "low_rank", None)  # see `parts.low_rank`
        if adapter is not None:
            down, up, scale = adapter
            narrow = ops.reshape(down, (*self.kernel.shape[:-1], down.shape[-1]))
            y += scale * affine(self._over(x, narrow), up)
        return y

    def _over(self, x, kernel):
        padding = "same" if self.padding == "same" else "valid"
        return ops.conv(x, kernel, strides=self.stride, padding=padding, data_format="channels_last")

    def compute_output_shape(self, input_shape):
        batch, height, width, _ = input_shape
        return batch, -(-height // self.stride), -(-width // self.stride), self.filters

    def get_config(self):
        names = ("filters", "kernel_size", "stride", "padding", "seed")
        return {**super().get_config(), **{name: getattr(self, name) for name in names}}


@keras.saving.register_keras_serializable("diptych")
class StandardizedConvolution(Convolution):
    """A convolution by a kernel of mean 0 and deviation 1 for each output (Qiao et al. 2019, "Weight Standardization").

        w <- (w - mean) / (deviation + epsilon),   or with `epsilon_in_root`   (w - mean) / √(variance + epsilon)

    over height, width and inputs, with the population's variance, in float32 whatever the compute dtype.
    """

    kernel_in_compute_dtype = False

    def __init__(self, *, epsilon: float, epsilon_in_root: bool = False, **kwargs):
        super().__init__(**kwargs)
        self.epsilon, self.epsilon_in_root = epsilon, epsilon_in_root

    def applied_kernel(self):
        kernel = self.kernel.value
        centred = kernel - ops.mean(kernel, axis=(0, 1, 2), keepdims=True)
        variance = ops.mean(ops.square(centred), axis=(0, 1, 2), keepdims=True)
        if self.epsilon_in_root:
            kernel = centred * ops.rsqrt(variance + self.epsilon)
        else:  # bounded below, so that a kernel of equal numbers has a finite gradient
            kernel = centred / (ops.sqrt(ops.maximum(variance, 1e-24)) + self.epsilon)
        return ops.cast(kernel, self.compute_dtype)

    def get_config(self):
        return {**super().get_config(), "epsilon": self.epsilon, "epsilon_in_root": self.epsilon_in_root}


@keras.saving.register_keras_serializable("diptych")
class BatchNorm(keras.layers.Layer):
    """Batch normalisation over all axes but the last, in float32, returned in the input's dtype (Ioffe and Szegedy
    2015).

    In training the batch's own mean and variance are used, those of the rows of all processes, and the moving ones
    follow them:

        moving <- momentum · moving + (1 - momentum) · batch

    with the unbiased variance, as in torch (Keras's layer takes the biased one; torch calls 1 - momentum momentum).
    Otherwise, and where the layer or its `scale` is frozen, the moving ones are used and stay. They are weights that
    are not trained: on jax they change where the caller keeps updates of such weights, as `fit` does.

    Args:
        initial_scale: 0 for the last norm of a residual branch, which then starts as the identity.
    """

    def __init__(self, *, epsilon: float = 1e-5, momentum: float = 0.9, initial_scale: float = 1.0, **kwargs):
        super().__init__(**kwargs)
        self.epsilon, self.momentum, self.initial_scale = epsilon, momentum, initial_scale

    def build(self, input_shape):
        def weight(name, value, *, trainable):
            initializer = keras.initializers.Constant(value)
            return self.add_weight(
                name=name, shape=input_shape[-1:], initializer=initializer, trainable=trainable, autocast=False
            )

        self.scale = weight("scale", self.initial_scale, trainable=True)
        self.bias = weight("bias", 0.0, trainable=True)
        self.moving_mean = weight("moving_mean", 0.0, trainable=False)
        self.moving_variance = weight("moving_variance", 1.0, trainable=False)

    def call(self, x, training=False):
        dtype, x = x.dtype, ops.cast(x, "float32")
        if training and self.trainable and self.scale.trainable:
            batch = whole_batch()
            mean = batch.mean(ops.mean(x, axis=(0, 1, 2)))
            variance = batch.mean(ops.mean(ops.square(x - mean), axis=(0, 1, 2)))
            self._follow(mean, variance, ops.cast(batch.parts * math.prod(ops.shape(x)[:-1]), "float32"))
        else:
            mean, variance = self.moving_mean.value, self.moving_variance.value
        factor = ops.rsqrt(variance + self.epsilon) * self.scale.value
        return ops.cast((x - mean) * factor + self.bias.value, dtype)

    def _follow(self, mean, variance, count):
        unbiased = variance * count / ops.maximum(count - 1.0, 1.0)
        for moving, batch in ((self.moving_mean, mean), (self.moving_variance, unbiased)):
            moving.assign(self.momentum * moving.value + (1.0 - self.momentum) * ops.stop_gradient(batch))

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        names = ("epsilon", "momentum", "initial_scale")
        return {**super().get_config(), **{name: getattr(self, name) for name in names}}


def average_pool(x, size: int):
    """Means over squares of `size` by `size` pixels of `[batch, height, width, channels]`."""
    return x if size == 1 else ops.average_pool(x, size, size, padding="valid", data_format="channels_last")


class ResidualStage(keras.layers.Layer):
    """Blocks one after the other, `blocks`, the first of which may change size and channels."""

    blocks: list[keras.layers.Layer]

    def build(self, input_shape):
        for block in self.blocks:
            block.build(input_shape)
            input_shape = block.compute_output_shape(input_shape)

    def call(self, x, training=False):
        for block in self.blocks:
            x = block.call(x, training=training)
        return x

    def compute_output_shape(self, input_shape):
        return self.blocks[0].compute_output_shape(input_shape)
