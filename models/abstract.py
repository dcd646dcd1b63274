"""Models as shapes alone: built by the same code as real ones, without memory for their weights."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import keras
import numpy as np
from keras.src.backend.common import global_state


@contextmanager
def shapes_only() -> Iterator[None]:
    """Models built inside have weights with paths, shapes and dtypes but no values: a billion parameters cost a few MB.

    >>> with shapes_only():
    ...     model = SigLIP.from_preset("siglip2_giant_patch16_384", load_weights=False)
    >>> model.count_params()
    1871885426

    Such a model answers `weights`, `summary` and `count_params`; it cannot be called.
    """
    # Keras queues variables without values and draws them all at the end of the next StatelessScope, wherever that is;
    # there is no public way to take them off the queue.
    queue = "uninitialized_variables"
    waiting = list(global_state.get_global_attribute(queue, []))
    try:
        with keras.StatelessScope(initialize_variables=False):
            yield
    finally:
        global_state.set_global_attribute(queue, waiting)


_LARGE = 1 << 22  # bytes


def give_values(model: keras.Model, values: Iterable[tuple[str, np.ndarray]]) -> None:
    """Gives each weight of a model built by `shapes_only` its value, by path; the model is then as any other.

    Memory is taken for one weight after the other, and none for initial values.
    """
    variables = {variable.path: variable for variable in model.variables}
    given: list[keras.Variable] = []
    size = 0
    for path, value in values:
        variable = variables.pop(path)
        given, size = [*given, variable], size + value.nbytes
        variable._initializer = _Value(value)
        del value  # held by nobody else, so that it is gone as soon as the framework has its own copy
        variable._deferred_initialize()
        if size >= _LARGE:
            _wait_for(given)
            given, size = [], 0
    if variables:
        raise ValueError(f"{len(variables)} weights were given no value: {', '.join(list(variables)[:5])}, ...")


def _wait_for(variables: Iterable[keras.Variable]) -> None:
    """Returns when the variables have their values.

    jax copies an array in the background and holds it meanwhile: unless it is waited for, whatever is read next comes
    on top.
    """
    for variable in variables:
        corner = (slice(0, 1),) * len(variable.shape)
        keras.ops.convert_to_numpy(variable.value[corner])


class _Value:
    """An initialiser that gives what is known, once."""

    def __init__(self, value: np.ndarray):
        self._held = [value]

    def __call__(self, shape, dtype=None):
        value = self._held.pop()
        if tuple(shape) != value.shape:
            raise ValueError(f"expected shape {tuple(shape)}, got {value.shape}")
        if keras.config.backend() != "tensorflow" or value.nbytes <= _LARGE:
            return keras.ops.convert_to_tensor(value, dtype=dtype)
        # tensorflow makes two copies of an array and keeps one until the tensor is gone: so in pieces, each computed
        # with once.
        pieces = [
            keras.ops.convert_to_tensor(part, dtype=dtype) * 1 for part in np.array_split(value, value.nbytes // _LARGE)
        ]
        del value
        return keras.ops.concatenate(pieces, axis=0)
