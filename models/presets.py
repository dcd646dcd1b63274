"""Named models of all families, and the look-up of a configuration by name."""

import difflib
from pathlib import Path

from diptych.core.weights.hub import SCHEME, SHIPPED
from diptych.models.bit import presets as bit
from diptych.models.clip import presets as clip
from diptych.models.clip.config import CLIPConfig
from diptych.models.gemma import presets as gemma
from diptych.models.gemma.config import GemmaConfig
from diptych.models.gpt import presets as gpt
from diptych.models.gpt.config import GPTConfig
from diptych.models.paligemma import presets as paligemma
from diptych.models.paligemma.config import PaliGemmaConfig
from diptych.models.siglip import presets as siglip
from diptych.models.siglip.config import SigLIPConfig

PRESETS: dict[str, SigLIPConfig | CLIPConfig] = {**siglip.PRESETS, **clip.PRESETS, **bit.PRESETS}
"""Configurations of two towers by name; their weights are fresh."""

ALL_PRESETS: dict[str, SigLIPConfig | CLIPConfig | GPTConfig | GemmaConfig | PaliGemmaConfig] = {
    **PRESETS,
    **gpt.PRESETS,
    **gemma.PRESETS,
    **paligemma.PRESETS,
}
"""Those and the configurations of models of other kinds."""


def preset_config(name: str) -> SigLIPConfig | CLIPConfig:
    """The configuration of two towers of a named preset; raises ValueError for a name that is none."""
    if name in SHIPPED or name.startswith(SCHEME) or Path(name).exists():
        raise ValueError(
            f"{name!r} is a checkpoint, and the name of a size is expected, such as siglip_b16_224, whose weights are "
            "fresh. Recipes begin from a checkpoint by --pretrained, programs by from_preset."
        )
    if name in ALL_PRESETS and name not in PRESETS:
        raise ValueError(f"{name!r} is a {ALL_PRESETS[name].describes}, and two towers are expected.")
    if name not in PRESETS:
        near = difflib.get_close_matches(name, PRESETS, n=3, cutoff=0.4)
        raise ValueError(
            f"Unknown preset {name!r}. "
            + (f"Near matches: {', '.join(near)}. " if near else "")
            + "All names are in diptych.models.presets.PRESETS."
        )
    return PRESETS[name]
