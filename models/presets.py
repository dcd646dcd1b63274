"""Named models of all families, and the look-up of a configuration by name."""

import re
from pathlib import Path

from diptych.core.spelling import did_you_mean
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
        raise ValueError(
            f"Unknown preset {name!r}.{did_you_mean(name, PRESETS, most=3)} `diptych models` lists all names, which "
            "are those of diptych.models.presets.PRESETS."
        )
    return PRESETS[name]


def hub_name(name: str) -> str | None:
    """The released checkpoint of a preset's arrangement, as `from_preset` takes it; None where none is known.

    Example: "siglip2_giant_patch16_256" -> "hf://google/siglip2-giant-opt-patch16-256"
    """
    if not _RELEASED.match(name):
        return None
    if name.startswith("siglip_i18n_"):
        return f"{SCHEME}google/{name.replace('_i18n', '').replace('_', '-')}-multilingual"
    if name.startswith("clip_"):
        return f"{SCHEME}openai/{name.replace('_', '-')}"
    return f"{SCHEME}google/{name.replace('_giant_', '_giant-opt_').replace('_', '-')}"


_RELEASED = re.compile(r"siglip2?_(i18n_)?(base|large|so400m|giant)_|clip_vit_|paligemma2?_\d|gemma2?_\d")
