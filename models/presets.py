"""Named models of all families, and the look-up of a configuration by name."""

import difflib
from pathlib import Path

from diptych.core.weights.hub import SCHEME, SHIPPED
from diptych.models.bit import presets as bit
from diptych.models.clip import presets as clip
from diptych.models.clip.config import CLIPConfig
from diptych.models.siglip import presets as siglip
from diptych.models.siglip.config import SigLIPConfig

PRESETS: dict[str, SigLIPConfig | CLIPConfig] = {**siglip.PRESETS, **clip.PRESETS, **bit.PRESETS}
"""Configurations by name; their weights are fresh."""


def preset_config(name: str) -> SigLIPConfig | CLIPConfig:
    """The configuration of a named preset; raises ValueError for a name that is none."""
    if name in SHIPPED or name.startswith(SCHEME) or Path(name).exists():
        raise ValueError(
            f"{name!r} is a checkpoint, and the name of a size is expected, such as siglip_b16_224, whose weights are "
            "fresh. Recipes begin from a checkpoint by --pretrained, programs by from_preset."
        )
    if name not in PRESETS:
        near = difflib.get_close_matches(name, PRESETS, n=3, cutoff=0.4)
        raise ValueError(
            f"Unknown preset {name!r}. "
            + (f"Near matches: {', '.join(near)}. " if near else "")
            + "All names are in diptych.models.presets.PRESETS."
        )
    return PRESETS[name]
