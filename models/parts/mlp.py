"""The two or three products between attentions (Vaswani et al. 2017, section 3.3; gated: Shazeer 2020)."""

from collections.abc import Callable
from functools import partial
from typing import ClassVar

import keras
from keras import ops

from diptych.models.parts.affine import affine
from diptych.models.parts.initializers import KERNELS, Normal
from diptych.models.parts.int8_weights import Int8Weights

ACTIVATIONS: dict[str, Callable] = {
    "gelu_tanh": partial(ops.gelu, approximate=True),
    "gelu": partial(ops.gelu, approximate=False),
    "quick_gelu": lambda x: x * ops.sigmoid(1.702 * x),
}
"""What stands between an MLP's products; CLIP's own models have "quick_gelu"."""


@keras.saving.register_keras_serializable("diptych")
class Mlp(Int8Weights):
    """width -> mlp_dim -> activation -> width.

    Where `gated`, the activation of one product scales another: activation(x · gate_kernel) * (x · in_kernel).

    Kernels are drawn as `initializer`, one of `KERNELS`, says. Biases are drawn from N(0, 1e-6²) beside ViT's kernels,
    "xavier_uniform", and are zero beside others.
    """

    matrices: ClassVar = dict.fromkeys(("gate_kernel", "in_kernel", "out_kernel"), 0)

    def __init__(
        self,
        *,
        mlp_dim: int,
        activation: str = "gelu_tanh",
        gated: bool = False,
        use_bias: bool = True,
        initializer: str = "xavier_uniform",
        seed: str = "0/mlp",
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.mlp_dim, self.activation, self.gated = mlp_dim, activation, gated
        self.use_bias, self.initializer, self.seed = use_bias, initializer, seed

    def build(self, input_shape):
        width = input_shape[-1]

        def linear(name, inputs, outputs):
            initializer = KERNELS[self.initializer](inputs, outputs, f"{self.seed}/{name}_kernel")
            kernel = self.add_weight(name=f"{name}_kernel", shape=(inputs, outputs), initializer=initializer)
            if not self.use_bias:
                return kernel, None
            vits = self.initializer == "xavier_uniform"
            small = Normal(stddev=1e-6, seed=f"{self.seed}/{name}_bias") if vits else "zeros"
            return kernel, self.add_weight(name=f"{name}_bias", shape=(outputs,), initializer=small)

        if self.gated:
            self.gate_kernel, self.gate_bias = linear("gate", width, self.mlp_dim)
        self.in_kernel, self.in_bias = linear("in", width, self.mlp_dim)
        self.out_kernel, self.out_bias = linear("out", self.mlp_dim, width)

    def call(self, x):
        # Flat in between: every `ops.reshape` costs a dozen microseconds on eager torch.
        shape, activation = ops.shape(x), ACTIVATIONS[self.activation]
        flat = len(shape) == 2
        x = x if flat else ops.reshape(x, (-1, x.shape[-1]))
        if self.gated:
            x = activation(affine(x, self.gate_kernel, self.gate_bias)) * affine(x, self.in_kernel, self.in_bias)
        else:
            x = affine(x, self.in_kernel, self.in_bias)
            x = activation(x)
        x = affine(x, self.out_kernel, self.out_bias)
        return x if flat else ops.reshape(x, shape)

    def get_config(self):
        names = ("mlp_dim", "activation", "gated", "use_bias", "initializer", "seed")
        return {**super().get_config(), **{name: getattr(self, name) for name in names}}
