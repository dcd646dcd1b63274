"""Batch selection as the worker of each backend runs it: eager, compiled, and with its largest array measured."""

import os
from functools import cache, partial

import keras
import numpy as np

from diptych.core.training.curation import Scored, pair_scores, select_by_learnability


def select(*, learner: dict, reference: dict, noise, compiled: bool = True, **arguments) -> dict:
    """{"eager", "compiled", "scores"}: indices both ways, or eager alone, and the scores of the pairs alone."""
    models = [_tensors(model) for model in (learner, reference)]
    noise = keras.ops.convert_to_tensor(noise)
    answers = {
        "eager": select_by_learnability(*models, noise=noise, **arguments),
        "scores": pair_scores(*models, method=arguments.get("method", "learnability")),
    }
    if compiled:
        answers["compiled"] = _compiled(tuple(sorted(arguments.items())))(*models, noise)
    return {name: np.array(keras.ops.convert_to_numpy(value)) for name, value in answers.items()}


def largest_array(*, pairs: int, width: int, size: int, chunks: int) -> int:
    """Numbers in the largest array that a selection makes, or, on jax, in all its scratch memory together."""
    rng = np.random.default_rng(0)
    sides = [rng.normal(size=(pairs, width)).astype(np.float32) / np.sqrt(width) for _ in range(4)]
    noise = rng.gumbel(size=(chunks, pairs)).astype(np.float32)
    make = {"jax": _jax_scratch, "torch": _torch_largest, "tensorflow": _tensorflow_largest}
    return make[os.environ["KERAS_BACKEND"]](partial(_from_arrays, size=size), (*sides, noise))


def _from_arrays(x, y, z, w, noise, *, size):
    return select_by_learnability(Scored(x, y, 10.0, -10.0), Scored(z, w, 20.0, -9.0), size=size, noise=noise)


def _tensors(model):
    parts = (np.asarray(model[name], np.float32) for name in Scored._fields)
    return Scored(*map(keras.ops.convert_to_tensor, parts))


@cache
def _compiled(arguments):
    function = partial(select_by_learnability, **dict(arguments))
    if os.environ["KERAS_BACKEND"] == "jax":
        import jax

        return jax.jit(lambda learner, reference, noise: function(learner, reference, noise=noise))
    if os.environ["KERAS_BACKEND"] == "tensorflow":
        import tensorflow as tf

        return tf.function(lambda learner, reference, noise: function(learner, reference, noise=noise), autograph=False)
    return lambda learner, reference, noise: function(learner, reference, noise=noise)


def _jax_scratch(function, arrays):
    import jax

    return jax.jit(function).lower(*arrays).compile().memory_analysis().temp_size_in_bytes // 4


def _torch_largest(function, arrays):
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode

    class Largest(TorchDispatchMode):
        largest = 0

        def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
            result = operation(*args, **(kwargs or {}))
            for value in result if isinstance(result, (tuple, list)) else [result]:
                if isinstance(value, torch.Tensor):
                    self.largest = max(self.largest, value.numel())
            return result

    with Largest() as watched:
        function(*(torch.tensor(array, requires_grad=True) for array in arrays))
    return watched.largest


def _tensorflow_largest(function, arrays):
    import tensorflow as tf

    traced = tf.function(function, autograph=False).get_concrete_function(*map(tf.constant, arrays)).graph
    graphs, sizes = [traced], []
    while graphs:
        graph = graphs.pop()
        operations = graph.get_operations()
        sizes += [output.shape.num_elements() or 0 for operation in operations for output in operation.outputs]
        for operation in operations:
            names = [operation.get_attr(key).name for key in ("body", "cond") if key in operation.node_def.attr]
            graphs += [traced._get_function(name).graph for name in names if traced._get_function(name) is not None]
    return max(sizes)
