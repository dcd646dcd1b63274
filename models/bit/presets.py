"""BiT's ResNets by name, each beside a text tower of SigLIP's, so that either kind of recipe takes them."""

import re

from diptych.models.bit.config import STAGE_DEPTHS, BiTConfig
from diptych.models.siglip.config import SigLIPConfig, TextConfig
from diptych.models.sizes import transformer_size

_NAME = re.compile(r"R(\d+)x(\d+(?:\.\d+)?|\.\d+)")


def bit_size(name: str, *, image_size: int = 224, pre_activation: bool = False) -> BiTConfig:
    """`bit_size("R50x3")` -> the network of 50 layers with three times the usual channels.

    Raises:
        ValueError: for a name of another form, a number of layers that is none of `STAGE_DEPTHS`, and a width that 32
            groups do not divide.
    """
    match = _NAME.fullmatch(name)
    if match is None or int(match.group(1)) not in STAGE_DEPTHS:
        raise ValueError(
            f"A size of BiT is written like 'R50x1' (layers, width), with {', '.join(map(str, STAGE_DEPTHS))} layers; "
            f"got {name!r}."
        )
    depths, width = STAGE_DEPTHS[int(match.group(1))], int(64 * float(match.group(2)))
    return BiTConfig(stage_depths=depths, width=width, image_size=image_size, pre_activation=pre_activation)


def _pair(vision: BiTConfig) -> SigLIPConfig:
    text = TextConfig(**transformer_size("S"), embed_dim=vision.output_width)
    return SigLIPConfig(vision=vision, text=text)


PRESETS: dict[str, SigLIPConfig] = {f"bit_r{layers}x1_224": _pair(bit_size(f"R{layers}x1")) for layers in STAGE_DEPTHS}
"""Configurations by name; their weights are fresh."""
