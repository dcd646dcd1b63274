"""Layer normalisation over the last axis."""

import numpy as np

EPSILON = 1e-6


def layer_norm(x, scale, bias, epsilon=None):
    """y = x̂ scale + bias with x̂ = (x - mean) / sqrt(variance + ε), the variance divided by w (not w - 1); ε is EPSILON
    where none is given.

    With dx̂ = dy scale and means over the last axis: dx = (dx̂ - mean(dx̂) - x̂ mean(dx̂ x̂)) / sqrt(variance + ε).
    """
    epsilon = EPSILON if epsilon is None else epsilon
    centred = x - x.mean(-1, keepdims=True)
    inverse_deviation = 1.0 / np.sqrt(np.square(centred).mean(-1, keepdims=True) + epsilon)
    normalised = centred * inverse_deviation

    def backward(dy):
        leading = tuple(range(dy.ndim - 1))
        dnormalised = dy * scale
        along = (dnormalised * normalised).mean(-1, keepdims=True)
        dx = inverse_deviation * (dnormalised - dnormalised.mean(-1, keepdims=True) - normalised * along)
        return dx, (dy * normalised).sum(leading), dy.sum(leading)

    return normalised * scale + bias, backward


def layer_norm_layer(x, parameters, epsilon=None):
    """`layer_norm` with the parameters "scale" and "bias"."""
    y, backward_norm = layer_norm(x, parameters["scale"], parameters["bias"], epsilon)

    def backward(dy):
        dx, dscale, dbias = backward_norm(dy)
        parameters.add("scale", dscale)
        parameters.add("bias", dbias)
        return dx

    return y, backward
