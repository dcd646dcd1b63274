"""The costs of CLIP's ResNet image towers before they are built: parameters, operations and memory, layer by layer.

Counted as in `models/counting.py`: a multiply-add is two operations, norms, pools and activations are none.
"""

from collections.abc import Iterator
from typing import NamedTuple

from diptych.models.clip.resnet_config import CLIPResNetConfig

EXPANSION = 4
"""Channels of a block's output over those inside it."""
_FLOAT32_BYTES = 4


class CountedConvolution(NamedTuple):
    """A convolution without bias and the norm behind it; `side` is that of its output in pixels."""

    name: str  # the path of its layer in the tower
    kernel_size: int
    inputs: int
    outputs: int
    side: int


def parameters(config: CLIPResNetConfig) -> int:
    """Trained scalars, scale and bias of each norm among them; the moving statistics are not trained."""
    counted = sum(one.kernel_size**2 * one.inputs * one.outputs + 2 * one.outputs for one in convolutions(config))
    c, e = config.channels, config.embed_dim
    return counted + (1 + config.num_patches) * c + 3 * (c * c + c) + c * e + e


def flops(config: CLIPResNetConfig) -> int:
    """Operations of a forward pass for one image."""
    counted = sum(2 * one.kernel_size**2 * one.inputs * one.outputs * one.side**2 for one in convolutions(config))
    n, c = 1 + config.num_patches, config.channels
    return counted + 2 * (c * c + 2 * n * c * c + 2 * n * c + c * config.embed_dim)


def activation_bytes(config: CLIPResNetConfig, *, compute_bytes: int) -> int:
    """Bytes of one image that the tower keeps for its backward pass: of each convolution what it gives, what the norm
    behind it takes in float32, and what the activation gives.
    """
    kept = sum(one.outputs * one.side**2 * (2 * compute_bytes + _FLOAT32_BYTES) for one in convolutions(config))
    return kept + 3 * (1 + config.num_patches) * config.channels * compute_bytes


def convolutions(config: CLIPResNetConfig) -> Iterator[CountedConvolution]:
    """Those of a tower, from the picture on."""
    side, half = config.image_size // 2, config.width // 2
    yield CountedConvolution("stem/conv_1", 3, 3, half, side)
    yield CountedConvolution("stem/conv_2", 3, half, half, side)
    yield CountedConvolution("stem/conv_3", 3, half, config.width, side)
    side, inputs = side // 2, config.width
    for stage, depth in enumerate(config.stage_depths):
        width = config.width * 2**stage
        outputs = EXPANSION * width
        for block in range(depth):
            name = f"stage_{stage + 1}/block_{block:02d}"
            yield CountedConvolution(f"{name}/conv_1", 1, inputs, width, side)
            yield CountedConvolution(f"{name}/conv_2", 3, width, width, side)
            if block == 0 and stage:
                side //= 2
            yield CountedConvolution(f"{name}/conv_3", 1, width, outputs, side)
            if block == 0:
                yield CountedConvolution(f"{name}/shortcut_conv", 1, inputs, outputs, side)
            inputs = outputs
