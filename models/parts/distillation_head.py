"""The head between features and prototypes in self-distillation and masked prediction.

Reference: Caron et al. 2021, section 3.2.
"""

import keras
from keras import ops

from diptych.models.parts.affine import affine
from diptych.models.parts.heads import normalize
from diptych.models.parts.initializers import Normal
from diptych.models.parts.mlp import ACTIVATIONS

_DINOS_SMALLEST_TOWER, _DINOS_HIDDEN, _DINOS_BOTTLENECK = 384, 2048, 256


@keras.saving.register_keras_serializable("diptych")
class DistillationHead(keras.layers.Layer):
    """`[..., width]` -> logits, float32 `[..., outputs]`: cosines between a bottleneck's features and learned
    prototypes.

    `layers` linear maps with GELU (its exact form) in between, width -> hidden -> ... -> hidden -> bottleneck, then L2
    normalisation and the product with `outputs` directions of unit length (DINO's weight-normalised last layer with its
    magnitude fixed to 1).

    Kernels are drawn from N(0, 0.02²), biases are 0. (DINO's normal is cut off at ±2, a hundred deviations away, and
    leaves the last layer to torch's uniform default; its directions are as even.) A kernel with fewer inputs than any
    of DINO's (384 of its smallest tower, 2048 inside, 256 at the bottleneck) is drawn wider, by the root of their
    ratio: else what reaches the normalisation is so short that its gradient drowns all others. All kernels decay,
    `prototype_kernel` too, as in DINO: decay cannot change its directions, but without it the kernel, whose gradient is
    at a right angle to it, would only grow, and turn ever more slowly.

    Args:
        hidden: width of the inner layers.
        bottleneck: width of the normalised features.
        outputs: number of prototypes K.
        layers: linear maps in front of the normalisation, 1 or more.
        seed: name of the weights' random streams.
    """

    def __init__(
        self,
        *,
        hidden: int = 2048,
        bottleneck: int = 256,
        outputs: int = 65_536,
        layers: int = 3,
        seed: str = "0/distillation_head",
        **kwargs,
    ):
        super().__init__(**kwargs)
        if min(hidden, bottleneck, outputs, layers) < 1:
            raise ValueError(
                "hidden, bottleneck, outputs and layers must be 1 or more, got "
                f"{hidden}, {bottleneck}, {outputs} and {layers}."
            )
        self.hidden, self.bottleneck, self.outputs, self.layers, self.seed = hidden, bottleneck, outputs, layers, seed

    def build(self, input_shape):
        widths = [input_shape[-1], *[self.hidden] * (self.layers - 1), self.bottleneck]

        def kernel(name, shape, dinos_inputs, **settings):
            stddev = 0.02 * max(1.0, dinos_inputs / shape[0]) ** 0.5
            initializer = Normal(stddev=stddev, seed=f"{self.seed}/{name}")
            return self.add_weight(name=name, shape=shape, initializer=initializer, **settings)

        self.maps = []
        for index in range(self.layers):
            inputs = _DINOS_HIDDEN if index else _DINOS_SMALLEST_TOWER
            weight = kernel(f"layer_{index}_kernel", (widths[index], widths[index + 1]), inputs)
            bias = self.add_weight(name=f"layer_{index}_bias", shape=(widths[index + 1],), initializer="zeros")
            self.maps.append((weight, bias))
        shape = (self.bottleneck, self.outputs)
        self.prototype_kernel = kernel("prototype_kernel", shape, _DINOS_BOTTLENECK, autocast=False)

    def features(self, x):
        """The normalised bottleneck, float32 `[..., bottleneck]`."""
        x = ops.cast(x, self.compute_dtype)
        for index, weights in enumerate(self.maps):
            if index:
                x = ACTIVATIONS["gelu"](x)
            # Cast here, because Keras does so only within `__call__`.
            x = affine(x, *(ops.cast(weight, self.compute_dtype) for weight in weights))
        return normalize(x)

    def prototypes(self):
        """The directions of the last layer, float32 `[bottleneck, outputs]`, each column of unit length."""
        kernel = ops.cast(self.prototype_kernel, "float32")
        squared = ops.sum(ops.square(kernel), axis=0, keepdims=True)
        return kernel * ops.rsqrt(ops.maximum(squared, 1e-24))

    def call(self, x):
        features, prototypes = self.features(x), self.prototypes()
        flat = ops.matmul(ops.reshape(features, (-1, self.bottleneck)), prototypes)
        return ops.reshape(flat, (*ops.shape(features)[:-1], self.outputs))

    def compute_output_spec(self, x):
        return keras.KerasTensor((*x.shape[:-1], self.outputs), dtype="float32")

    def get_config(self):
        return {
            **super().get_config(),
            "hidden": self.hidden,
            "bottleneck": self.bottleneck,
            "outputs": self.outputs,
            "layers": self.layers,
            "seed": self.seed,
        }
