"""The values of Keras variables, as arrays that a checkpoint holds."""

import zlib
from collections.abc import Mapping

import keras
import numpy as np

from diptych.core.training.checkpoint import CheckpointError


def checksum(variables: Mapping[str, keras.Variable]) -> int:
    """Of the values and their names: equal bits have an equal one."""
    found = 0
    for name in sorted(variables):
        array = np.asarray(keras.ops.convert_to_numpy(variables[name].value))
        found = zlib.crc32(array.tobytes(), zlib.crc32(name.encode(), found))
    return found


def assign_all(group: str, variables: Mapping[str, keras.Variable], arrays: Mapping[str, np.ndarray]) -> None:
    """Gives each variable the array of its name.

    Raises:
        CheckpointError: where names or shapes differ, listing them; then nothing was assigned.
    """
    missing, unknown = sorted(variables.keys() - arrays.keys()), sorted(arrays.keys() - variables.keys())
    shapes = [
        f"{name}: stored {list(arrays[name].shape)}, expected {list(variable.shape)}"
        for name, variable in variables.items()
        if name in arrays and tuple(arrays[name].shape) != tuple(variable.shape)
    ]
    if missing or unknown or shapes:
        raise CheckpointError(
            f"The checkpoint's {group} do not fit this model. Missing: {missing or 'none'}. Unknown: "
            f"{unknown or 'none'}. Other shapes: {shapes or 'none'}. Use the options the run was started with, or "
            "another --run-dir."
        )
    for name, variable in variables.items():
        variable.assign(arrays[name])
