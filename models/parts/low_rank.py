"""Low-rank adapters: small trained updates of kernels that stay as they are (Hu et al. 2022, "LoRA")."""

from collections.abc import Mapping, Sequence

import keras
import numpy as np
from keras import ops

from diptych.models.parts.initializers import Normal


@keras.saving.register_keras_serializable("diptych")
class LowRank(keras.layers.Layer):
    """For each of some kernels W `[in, out]` of other layers, a product that is added to it:

        x · W + (alpha / rank) · (x · down) · up,    down `[in, rank]` from N(0, 1 / in), up `[rank, out]` from 0

    (section 4.1). As `up` starts at zero, so does the update. `attach` makes the kernels' own layers add it, by
    `affine`, and `merged` gives the kernels that compute the same without it.

    Args:
        shapes: path of a kernel -> its shape.
        rank, alpha: r and α of the paper.
    """

    def __init__(
        self, *, shapes: Mapping[str, Sequence[int]], rank: int, alpha: float, seed: str = "0/adapters", **kwargs
    ):
        super().__init__(**kwargs)
        self.shapes = {path: tuple(shape) for path, shape in shapes.items()}
        self.rank, self.alpha, self.seed = rank, float(alpha), seed
        self.down: dict[str, keras.Variable] = {}
        self.up: dict[str, keras.Variable] = {}

    def build(self, input_shape=None):
        for path, (inputs, outputs) in self.shapes.items():
            name = path.replace("/", "-")
            narrow = Normal(stddev=inputs**-0.5, seed=f"{self.seed}/{path}")
            self.down[path] = self.add_weight(name=f"{name}-down", shape=(inputs, self.rank), initializer=narrow)
            self.up[path] = self.add_weight(name=f"{name}-up", shape=(self.rank, outputs), initializer="zeros")
        self.built = True

    def attach(self, weights: Sequence[keras.Variable]) -> None:
        """Has each kernel among `weights` meet its adapter wherever it is multiplied."""
        for weight in weights:
            if weight.path in self.shapes:
                if tuple(weight.shape) != self.shapes[weight.path]:
                    raise ValueError(f"{weight.path} has the shape {weight.shape}, adapters {self.shapes[weight.path]}.")
                weight.low_rank = (self.down[weight.path], self.up[weight.path], self.alpha / self.rank)

    def merged(self, path: str, kernel: np.ndarray) -> np.ndarray:
        """The kernel with its adapter added, float32; a kernel without one as it is."""
        if path not in self.shapes:
            return kernel
        down, up = (ops.convert_to_numpy(part[path].value) for part in (self.down, self.up))
        return (kernel + self.alpha / self.rank * (down.astype(np.float64) @ up)).astype(kernel.dtype)

    def get_config(self):
        own = {"shapes": self.shapes, "rank": self.rank, "alpha": self.alpha, "seed": self.seed}
        return {**super().get_config(), **own}

