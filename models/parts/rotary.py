"""Rotary positions: queries and keys turned by angles that grow with the place (RoPE, Su et al. 2021, equation 34)."""

from typing import Any, NamedTuple

from keras import ops


class Angles(NamedTuple):
    """Cosines and sines float32 `[length or batch, length, 1, d/2]` of the angles that pairs are turned by."""

    cos: Any
    sin: Any


def angles_of(positions, width: int, *, base: float = 10_000.0) -> Angles:
    """The angles of positions, int `[length]` or `[batch, length]`, for heads of `width` numbers; see `rotate`."""
    half = width // 2
    frequencies = ops.power(float(base), -ops.arange(half, dtype="float32") / half)
    angles = (ops.cast(positions, "float32")[..., None] * frequencies)[..., None, :]
    return Angles(ops.cos(angles), ops.sin(angles))


def rotate(x, positions, *, base: float = 10_000.0):
    """Turns each pair (x_i, x_{i + d/2}) by position · base^(-2i/d): `[batch, length, heads, d]` -> the same.

    Halves are paired, as in GPT-NeoX, Llama and Gemma; the paper pairs neighbours, which is the same up to the order of
    a kernel's columns. Angles and products are float32.

    Args:
        x: queries or keys; d is even.
        positions: int `[length]` or `[batch, length]`, or the `Angles` of them.
        base: of the wavelengths, 2π for the first pair and 2π · base^(1 - 2/d) for the last.
    """
    half = x.shape[-1] // 2
    cos, sin = positions if isinstance(positions, Angles) else angles_of(positions, 2 * half, base=base)
    wide = ops.cast(x, "float32")
    first, second = wide[..., :half], wide[..., half:]
    turned = ops.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
    return ops.cast(turned, x.dtype)
