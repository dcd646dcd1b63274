"""Towers as StableHLO: the graph that XLA compiles, for several kinds of devices at once, without Keras."""

from collections.abc import Callable, Mapping
from pathlib import Path

import jax
import keras
import numpy as np
from jax import export as jax_export

PLATFORMS = ("cpu", "cuda", "rocm", "tpu")


def write_stablehlo(model: keras.Model, shapes: Mapping[str, tuple[int | str, ...]], path: Path) -> None:
    """Writes what `jax.export.deserialize` reads: a function of a dictionary of arrays.

    Args:
        model: a Keras model with inputs by name.
        shapes: of the inputs: sizes, and names of dimensions that may have any size.
        path: of the file.
    """
    names = sorted({size for shape in shapes.values() for size in shape if isinstance(size, str)})
    dimensions = dict(zip(names, jax_export.symbolic_shape(", ".join(names)), strict=True))
    dtypes = {x.name: x.dtype for x in model.inputs}
    specification = {
        name: jax.ShapeDtypeStruct(
            [dimensions[size] if isinstance(size, str) else size for size in shape], dtypes[name]
        )
        for name, shape in shapes.items()
    }
    exported = jax_export.export(jax.jit(lambda inputs: model(inputs, training=False)), platforms=PLATFORMS)
    path.write_bytes(exported(specification).serialize())


def load_stablehlo(path: Path) -> Callable[[Mapping[str, np.ndarray]], np.ndarray]:
    """The file as a function of arrays by name."""
    call = jax.jit(jax_export.deserialize(bytearray(path.read_bytes())).call)

    def run(inputs: Mapping[str, np.ndarray]) -> np.ndarray:
        (output,) = call(dict(inputs)).values()
        return np.asarray(output)

    return run
