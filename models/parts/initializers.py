"""Weight initialisers drawn by NumPy, so that one seed gives the same weights on every backend.

Each draw comes from a Philox stream keyed by a name such as "0/image/encoder/block_03/mlp/in_kernel": the number is the
model's seed, the rest is where the weight lives. Adding a layer therefore leaves the other layers' weights as they
were.
"""

import hashlib
import math
from collections.abc import Callable

import keras
import numpy as np


def generator(seed: str) -> np.random.Generator:
    """The random stream of one named weight."""
    key = int.from_bytes(hashlib.sha256(seed.encode()).digest()[:16], "little")
    return np.random.Generator(np.random.Philox(key=key))


class _Drawn(keras.initializers.Initializer):
    """An initialiser whose `draw` returns a float32 NumPy array."""

    def __init__(self, *, seed: str):
        self.seed = seed

    def draw(self, shape: tuple[int, ...]) -> np.ndarray:
        raise NotImplementedError

    def __call__(self, shape, dtype=None):
        return keras.ops.convert_to_tensor(self.draw(tuple(shape)), dtype=dtype)

    def get_config(self):
        return {"seed": self.seed}


@keras.saving.register_keras_serializable("diptych")
class Normal(_Drawn):
    """N(0, stddev²)."""

    def __init__(self, *, stddev: float, seed: str):
        super().__init__(seed=seed)
        self.stddev = stddev

    def draw(self, shape):
        values = generator(self.seed).standard_normal(shape, dtype="float32")
        values *= np.float32(self.stddev)
        return values

    def get_config(self):
        return {**super().get_config(), "stddev": self.stddev}


@keras.saving.register_keras_serializable("diptych")
class XavierUniform(_Drawn):
    """U(-a, a) with a = sqrt(6 / (fan_in + fan_out)).

    The fans are given by the caller because fused kernels (query, key and value in one) keep the fans of their parts.
    """

    def __init__(self, *, fan_in: int, fan_out: int, seed: str):
        super().__init__(seed=seed)
        self.fan_in, self.fan_out = fan_in, fan_out

    def draw(self, shape):
        limit = math.sqrt(6.0 / (self.fan_in + self.fan_out))
        values = generator(self.seed).random(shape, dtype="float32")  # in [0, 1)
        values *= np.float32(2 * limit)
        values -= np.float32(limit)
        return values

    def get_config(self):
        return {**super().get_config(), "fan_in": self.fan_in, "fan_out": self.fan_out}


@keras.saving.register_keras_serializable("diptych")
class LecunNormal(_Drawn):
    """A normal cut off at two standard deviations, rescaled to variance 1 / fan_in (flax's `lecun_normal`)."""

    _STDDEV_OF_UNIT_NORMAL_WITHIN_TWO = 0.87962566103423978

    def __init__(self, *, fan_in: int, seed: str):
        super().__init__(seed=seed)
        self.fan_in = fan_in

    def draw(self, shape):
        rng = generator(self.seed)
        values = rng.standard_normal(shape, dtype="float32")
        outside = np.abs(values) > 2
        while outside.any():
            values[outside] = rng.standard_normal(int(outside.sum()), dtype="float32")
            outside = np.abs(values) > 2
        values *= np.float32(math.sqrt(1.0 / self.fan_in) / self._STDDEV_OF_UNIT_NORMAL_WITHIN_TWO)
        return values

    def get_config(self):
        return {**super().get_config(), "fan_in": self.fan_in}


KERNELS: dict[str, Callable] = {
    "xavier_uniform": lambda fan_in, fan_out, seed: XavierUniform(fan_in=fan_in, fan_out=fan_out, seed=seed),
    "lecun_normal": lambda fan_in, fan_out, seed: LecunNormal(fan_in=fan_in, seed=seed),
    "scaled_normal": lambda fan_in, fan_out, seed: Normal(stddev=fan_in**-0.5, seed=seed),
    "small_normal": lambda fan_in, fan_out, seed: Normal(stddev=0.02, seed=seed),
}
"""How kernels are drawn, by name: ViT's, CapPa's decoder's and Gemma's, CLIP's attention pooling's, GPT's."""
