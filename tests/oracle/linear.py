"""y = x W + b."""

import numpy as np


def linear(x, kernel, bias):
    """`[..., inputs]`, `[inputs, outputs]`, `[outputs]` -> `[..., outputs]`.

    dx = dy Wᵀ, dW = Σ xᵀ dy, db = Σ dy, summed over all leading axes.
    """

    def backward(dy):
        rows_x, rows_dy = x.reshape(-1, x.shape[-1]), dy.reshape(-1, dy.shape[-1])
        return dy @ kernel.T, rows_x.T @ rows_dy, rows_dy.sum(0)

    return x @ kernel + bias, backward


def linear_layer(x, parameters, kernel="kernel", bias="bias"):
    """`linear` with named parameters; its backward returns dx alone and collects the rest."""
    y, backward_linear = linear(x, parameters[kernel], parameters[bias])

    def backward(dy):
        dx, dkernel, dbias = backward_linear(dy)
        parameters.add(kernel, dkernel)
        parameters.add(bias, dbias)
        return dx

    return y, backward


def sum_to(gradient, shape):
    """The gradient of a broadcast: sums over the axes along which an array of `shape` was repeated."""
    leading = gradient.ndim - len(shape)
    gradient = gradient.sum(tuple(range(leading)))
    repeated = tuple(axis for axis, size in enumerate(shape) if size == 1 and gradient.shape[axis] != 1)
    return np.sum(gradient, axis=repeated, keepdims=True)
