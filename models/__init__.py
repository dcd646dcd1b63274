"""Towers and whole models, each defined once in Keras 3."""

from diptych.models.config import SigLIPConfig, TextConfig, VisionConfig
from diptych.models.text import TextTransformer
from diptych.models.two_towers import SigLIP, TwoTowers
from diptych.models.vit import VisionTransformer

__all__ = ["SigLIP", "SigLIPConfig", "TextConfig", "TextTransformer", "TwoTowers", "VisionConfig", "VisionTransformer"]

if __name__ == "models":
    from diptych.checkout import alias_room

    alias_room(__name__)
