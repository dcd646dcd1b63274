"""Dropout whose masks follow from a seed of each example (Srivastava et al. 2014)."""

import hashlib
import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from keras import ops


@dataclass(frozen=True, kw_only=True)
class Dropout:
    """What is left out of one pass through a model, and what remains in proportion larger.

    A number's fate follows from its example's seed, from the place in the model and from where it stands there: the
    same on every backend, in micro-batches as in one, on one device as on several, and in a pass that is repeated to
    save memory.

    Attributes:
        seeds: int32 `[batch]`, of each example; another one for each step.
        addition_rate: the share that is left out of what attention and MLP add to a token, in [0, 1).
        attention_rate: the share that is left out of the shares that attention gives to keys, in [0, 1).
        place: where in the model this is.
    """

    seeds: Any
    addition_rate: float
    attention_rate: float
    place: str = ""

    def inside(self, part: str) -> "Dropout":
        """The same for a part of the model, by its name."""
        return replace(self, place=f"{self.place}/{part}")

    def of_addition(self, x, name: str):
        """`drop` of what a part of this name adds, `[batch, ...]`."""
        return drop(x, self.seeds, rate=self.addition_rate, place=f"{self.place}/{name}/addition")

    def of_attention(self, shares, name: str):
        """`drop` of the shares of an attention of this name, `[batch, heads, queries, keys]`."""
        return drop(shares, self.seeds, rate=self.attention_rate, place=f"{self.place}/{name}/shares")


def drop(x, seeds, *, rate: float, place: str):
    """x `[batch, ...]` with a share `rate` of its numbers 0 and the others divided by 1 - rate.

    Number i of an example is left out where hash(i XOR hash(seed XOR place)) is in the lowest share `rate` of its 31
    bits. The hash is a multiply-and-shift bijection of 32 bits.

    Args:
        seeds: int32 `[batch]`, or `[1]` for one mask that all examples share.
        place: a name; different places have different masks.
    """
    if not rate:
        return x
    x = ops.convert_to_tensor(x)
    key = _hashed(ops.bitwise_xor(ops.cast(seeds, "int32"), _number_of(place)))
    shape = tuple(x.shape[1:])
    numbers = ops.reshape(ops.arange(math.prod(shape), dtype="int32"), (1, *shape))
    drawn = _hashed(ops.bitwise_xor(numbers, ops.reshape(key, (-1, *(1 for _ in shape)))))
    kept = ops.bitwise_and(drawn, _BITS_31) >= np.int32(round(rate * 2**31))
    return ops.where(kept, x / (1 - rate), ops.zeros((), x.dtype))


_BITS_31 = np.int32(0x7FFFFFFF)


def _number_of(place: str) -> np.int32:
    return np.frombuffer(hashlib.sha256(place.encode()).digest()[:4], "<i4")[0]


def _hashed(x):
    """A bijection of int32 in which each bit of the input moves half of the output's."""
    x = ops.bitwise_xor(x, _upper(x, 16)) * np.int32(0x21F0AAAD)
    x = ops.bitwise_xor(x, _upper(x, 15)) * np.int32(0x735A2D97)
    return ops.bitwise_xor(x, _upper(x, 15))


def _upper(x, bits: int):
    """x shifted to the right as an unsigned number."""
    return ops.bitwise_and(ops.right_shift(x, bits), np.int32((1 << (32 - bits)) - 1))
