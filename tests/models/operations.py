"""Floating-point operations of a backend's matrix products, by its own records; two a multiply-add."""

import re
from math import prod

import keras

from tests.models.examples import value_and_gradients


def forward_flops(model, batch) -> int:
    """Of one forward pass."""
    return operations_of(lambda: model(batch)["image_embedding"])


def training_flops(model, batch) -> int:
    """Of one forward and backward pass of `model.compute_loss`."""

    def loss():
        return model.compute_loss(batch, y_pred=model(batch))

    return operations_of(lambda: value_and_gradients(loss, model.trainable_variables, compiled=False)[1])


def operations_of(function) -> int:
    """Of a call of a function."""
    return {"jax": _on_jax, "torch": _on_torch, "tensorflow": _on_tensorflow}[keras.config.backend()](function)


def _on_torch(function) -> int:
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    # The counter does not know the CPU's attention kernel; the plain path is made of products that it does know.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        function()
    return counter.get_total_flops()


def _on_jax(function) -> int:
    import jax

    return _of_jaxpr(jax.make_jaxpr(function)().jaxpr)


def _of_jaxpr(jaxpr) -> int:
    from jax.extend import core

    total = 0
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            left = equation.invars[0].aval.shape
            total += 2 * prod(equation.outvars[0].aval.shape) * prod(left[axis] for axis in contracted)
        for parameter in equation.params.values():
            for inner in parameter if isinstance(parameter, (list, tuple)) else [parameter]:
                if isinstance(inner, core.ClosedJaxpr):
                    total += _of_jaxpr(inner.jaxpr)
                elif isinstance(inner, core.Jaxpr):
                    total += _of_jaxpr(inner)
    return total


def _on_tensorflow(function) -> int:
    import tensorflow as tf

    graph = tf.function(function, autograph=False).get_concrete_function().graph
    return sum(_of_operation(operation) for operation in graph.get_operations())


def _of_operation(operation) -> int:
    if operation.type in ("MatMul", "BatchMatMulV2"):
        transposed = operation.get_attr("transpose_a" if operation.type == "MatMul" else "adj_x")
        left = operation.inputs[0].shape.as_list()
        return 2 * prod(operation.outputs[0].shape.as_list()) * left[-2 if transposed else -1]
    if operation.type == "Einsum":
        operands = re.split(",|->", operation.get_attr("equation").decode())
        tensors = [*operation.inputs, *operation.outputs]
        sides = {
            label: side
            for term, x in zip(operands, tensors, strict=True)
            for label, side in zip(term, x.shape, strict=True)
        }
        return 2 * prod(sides.values())
    return 0
