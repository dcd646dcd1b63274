"""GELU in its tanh approximation (Hendrycks & Gimpel 2016, section 2)."""

import numpy as np

_SCALE = np.sqrt(2.0 / np.pi)
_CUBIC = 0.044715


def gelu(x):
    """y = x (1 + tanh u) / 2 with u = sqrt(2/π) (x + 0.044715 x³); dy/dx = (1 + tanh u) / 2 + x (1 - tanh² u) u' /
    2.
    """
    tanh = np.tanh(_SCALE * (x + _CUBIC * x**3))

    def backward(dy):
        inner = _SCALE * (1.0 + 3.0 * _CUBIC * x**2)
        return dy * (0.5 * (1.0 + tanh) + 0.5 * x * (1.0 - tanh**2) * inner)

    return 0.5 * x * (1.0 + tanh), backward
