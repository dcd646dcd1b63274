"""The collectives of a compiled program of jax, and the bytes of their results."""

import math
import re
from collections.abc import Iterator
from typing import NamedTuple

BYTES = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "s32": 4, "u32": 4, "f32": 4}
_COLLECTIVE = re.compile(
    r"= (?P<result>.*?) (?P<name>all-gather|all-reduce|reduce-scatter|collective-permute|all-to-all)\("
)
_ARRAY = re.compile(rf"({'|'.join(BYTES)})\[([\d,]*)\]")


class Sent(NamedTuple):
    """How many collectives of a kind there are, and the bytes of their results on one device."""

    count: int
    bytes: int


def collectives(program: str) -> dict[str, Sent]:
    """The collectives of a program that was compiled for CPUs, by their names."""
    found: dict[str, list[int]] = {}
    for match in _COLLECTIVE.finditer(program):
        found.setdefault(match["name"], []).append(sum(_sizes(match["result"])))
    return {name: Sent(len(sizes), sum(sizes)) for name, sizes in found.items()}


def _sizes(result: str) -> Iterator[int]:
    for dtype, lengths in _ARRAY.findall(result):
        yield BYTES[dtype] * math.prod(map(int, filter(None, lengths.split(","))))
