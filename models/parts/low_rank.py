"""Low-rank adapters: small trained updates of kernels that stay as they are (Hu et al. 2022, "LoRA")."""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import keras
import numpy as np
from keras import ops

from diptych.core.files.json_objects import write_config
from diptych.core.weights.safetensors import write_safetensors
from diptych.models.parts.initializers import Normal


def adapted_kernel(path: str) -> str:
    """The path of the kernel that a weight of adapters belongs to; of any other weight its own."""
    adapters, _, name = path.rpartition("/")
    return name.rpartition("-")[0].replace("-", "/") if adapters and "-" in name else path


@keras.saving.register_keras_serializable("diptych")
class LowRank(keras.layers.Layer):
    """For each of some kernels W `[in, out]` of other layers, a product that is added to it:

        x · W + (alpha / rank) · (x · down) · up,    down `[in, rank]` from N(0, 1 / in), up `[rank, out]` from 0

    (section 4.1). As `up` starts at zero, so does the update. `attach` makes the kernels' own layers add it, by
    `affine`, and `merged_into` makes kernels that compute the same without it. The kernel `[size, size, channels, out]`
    of a convolution counts as the matrix with size · size · channels rows, whose x are the pixels that it looks at.

    Args:
        shapes: path of a kernel -> its shape as a matrix.
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
                if (math.prod(weight.shape[:-1]), weight.shape[-1]) != self.shapes[weight.path]:
                    raise ValueError(
                        f"{weight.path}: expected the shape {self.shapes[weight.path]}, got {weight.shape}."
                    )
                weight.low_rank = (self.down[weight.path], self.up[weight.path], self.alpha / self.rank)

    def detach(self, weights: Sequence[keras.Variable]) -> None:
        """Has the kernels among `weights` meet no adapter any more."""
        for weight in weights:
            if weight.path in self.shapes:
                del weight.low_rank

    @contextmanager
    def merged_into(self, weights: Sequence[keras.Variable]) -> Iterator[None]:
        """Within the block the kernels among `weights` compute alone what they do with their adapters."""
        varied = [*(weight for weight in weights if weight.path in self.shapes), *self.up.values()]
        before = [np.array(ops.convert_to_numpy(variable.value)) for variable in varied]
        try:
            self.merge_into(weights)
            yield
        finally:
            for variable, value in zip(varied, before, strict=True):
                variable.assign(value)

    def merge_into(self, weights: Sequence[keras.Variable]) -> None:
        """Adds its products to the kernels among `weights`, which then compute alone what they did with it."""
        for kernel in weights:
            if kernel.path in self.shapes:
                value, down, up = (
                    np.array(ops.convert_to_numpy(variable.value))
                    for variable in (kernel, self.down[kernel.path], self.up[kernel.path])
                )
                product = self.alpha / self.rank * (down.astype(np.float64) @ up)
                kernel.assign((value + product.reshape(value.shape)).astype(value.dtype))
        for up in self.up.values():
            up.assign(np.zeros(up.shape, "float32"))

    def save_to(self, folder: Path) -> None:
        """Writes adapters.safetensors, with "PATH/down" and "PATH/up" of each kernel, and rank and alpha as JSON."""
        parts = {"down": self.down, "up": self.up}
        arrays = {
            f"{path}/{name}": np.array(ops.convert_to_numpy(variable.value))
            for name, part in parts.items()
            for path, variable in part.items()
        }
        write_safetensors(folder / "adapters.safetensors", arrays)
        write_config(folder / "adapters.json", {"rank": self.rank, "alpha": self.alpha})

    def get_config(self):
        own = {"shapes": self.shapes, "rank": self.rank, "alpha": self.alpha, "seed": self.seed}
        return {**super().get_config(), **own}
