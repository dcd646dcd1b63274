"""Rotary positions: queries and keys turned by angles that grow with the place (RoPE, Su et al. 2021, equation 34)."""

from keras import ops


def rotate(x, positions, *, base: float = 10_000.0):
    """Turns each pair (x_i, x_{i + d/2}) by position · base^(-2i/d): `[batch, length, heads, d]` -> the same.

    Halves are paired, as in GPT-NeoX, Llama and Gemma; the paper pairs neighbours, which is the same up to the order of
    a kernel's columns. Angles and products are float32.

    Args:
        x: queries or keys; d is even.
        positions: int `[length]` or `[batch, length]`.
        base: of the wavelengths, 2π for the first pair and 2π · base^(1 - 2/d) for the last.
    """
    half = x.shape[-1] // 2
    frequencies = ops.power(float(base), -ops.arange(half, dtype="float32") / half)
    angles = (ops.cast(positions, "float32")[..., None] * frequencies)[..., None, :]
    cos, sin = ops.cos(angles), ops.sin(angles)
    wide = ops.cast(x, "float32")
    first, second = wide[..., :half], wide[..., half:]
    turned = ops.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
    return ops.cast(turned, x.dtype)
