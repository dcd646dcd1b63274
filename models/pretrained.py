"""Whole models of any family by the name of a preset, or by a configuration."""

from pathlib import Path

from diptych.models.checkpoints import load_pair
from diptych.models.clip.config import CLIPConfig
from diptych.models.clip.model import CLIP
from diptych.models.siglip.config import SigLIPConfig
from diptych.models.siglip.model import SigLIP
from diptych.models.two_towers import PretrainedPair


def from_preset(
    preset: str | Path, *, revision: str | None = None, load_weights: bool = True, **arguments
) -> PretrainedPair:
    """The model of a preset, of whatever family it is; arguments and errors as for `SigLIP.from_preset`."""
    kinds = (SigLIPConfig, CLIPConfig)
    return load_pair(preset, build_model, kinds, revision=revision, load_weights=load_weights, **arguments)


def build_model(config: SigLIPConfig | CLIPConfig, **arguments) -> PretrainedPair:
    """The model that a configuration describes, with fresh weights."""
    if isinstance(config, CLIPConfig):
        return CLIP(config, **arguments)
    return SigLIP(config, **arguments)
