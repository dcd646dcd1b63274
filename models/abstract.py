"""Models as shapes alone: built by the same code as real ones, without memory for their weights."""

from collections.abc import Iterator
from contextlib import contextmanager

import keras
from keras.src.backend.common import global_state


@contextmanager
def shapes_only() -> Iterator[None]:
    """Models built inside have weights with paths, shapes and dtypes but no values: a billion parameters cost a few MB.

    >>> with shapes_only():
    ...     model = SigLIP.from_preset("siglip2_giant_patch16_384")
    >>> model.count_params()
    1871885426

    Such a model answers `weights`, `summary` and `count_params`; it cannot be called.
    """
    # Keras queues variables without values and draws them all at the end of the next StatelessScope, wherever that is; there
    # is no public way to take them off the queue.
    queue = "uninitialized_variables"
    waiting = list(global_state.get_global_attribute(queue, []))
    try:
        with keras.StatelessScope(initialize_variables=False):
            yield
    finally:
        global_state.set_global_attribute(queue, waiting)
