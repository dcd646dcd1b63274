"""The costs of BiT's ResNet image towers before they are built: parameters, operations and memory, layer by layer.

Counted as in `models/counting.py`: a multiply-add is two operations, norms, maxima and activations are none.
"""

from collections.abc import Iterator
from typing import NamedTuple

from diptych.models.bit.config import BiTConfig, UnitSize

_FLOAT32_BYTES = 4


class _Convolution(NamedTuple):
    """A convolution without bias; `side` is that of its output in pixels."""

    kernel_size: int
    inputs: int
    outputs: int
    side: int

    @property
    def weights(self) -> int:
        return self.kernel_size**2 * self.inputs * self.outputs


def parameters(config: BiTConfig) -> int:
    """Trained scalars: kernels, scale and bias of each norm, the projection."""
    kernels = sum(one.weights for one in _convolutions(config))
    projection = (config.channels + 1) * config.embed_dim if config.embed_dim else 0
    return kernels + 2 * sum(_normed_channels(config)) + projection


def flops(config: BiTConfig) -> int:
    """Operations of a forward pass for one image."""
    projection = 2 * config.channels * config.embed_dim if config.embed_dim else 0
    return sum(2 * one.weights * one.side**2 for one in _convolutions(config)) + projection


def activation_bytes(config: BiTConfig, *, compute_bytes: int, rematerialize: bool) -> int:
    """Bytes of one image that the tower keeps for its backward pass: around each convolution its output, what a norm
    takes in float32, and what the activation gives. Where units are computed again it keeps their inputs, and one unit
    at a time is whole.
    """

    def kept(convolutions: Iterator[_Convolution]) -> int:
        return sum(one.outputs * one.side**2 * (2 * compute_bytes + _FLOAT32_BYTES) for one in convolutions)

    if not rematerialize:
        return kept(_convolutions(config))
    inputs = sum(unit.inputs * side**2 * compute_bytes for unit, side in _units(config))
    return kept(iter([_stem(config)])) + inputs + max(kept(_of_unit(*each)) for each in _units(config))


def _convolutions(config: BiTConfig) -> Iterator[_Convolution]:
    yield _stem(config)
    for each in _units(config):
        yield from _of_unit(*each)


def _stem(config: BiTConfig) -> _Convolution:
    return _Convolution(7, 3, config.width, -(-config.image_size // 2))


def _units(config: BiTConfig) -> Iterator[tuple[UnitSize, int]]:
    """Each unit with the side of its input."""
    side = -(-config.image_size // 4)
    for unit in config.units():
        yield unit, side
        side = -(-side // unit.stride)


def _of_unit(unit: UnitSize, side: int) -> Iterator[_Convolution]:
    after = -(-side // unit.stride)
    yield _Convolution(1, unit.inputs, unit.width, side)
    yield _Convolution(3, unit.width, unit.width, after)
    yield _Convolution(1, unit.width, unit.outputs, after)
    if unit.projects:
        yield _Convolution(1, unit.inputs, unit.outputs, after)


def _normed_channels(config: BiTConfig) -> Iterator[int]:
    """The channels of each norm."""
    if config.pre_activation:
        yield config.channels
        for unit in config.units():
            yield from (unit.inputs, unit.width, unit.width)
        return
    yield config.width
    for unit in config.units():
        yield from (unit.width, unit.width, unit.outputs)
        if unit.projects:
            yield unit.outputs
