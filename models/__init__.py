"""Towers and whole models, each defined once in Keras 3.

Keras is imported with the first model that is asked for; configurations, presets and counts do without it.
"""

from typing import TYPE_CHECKING

from diptych.models.config import SigLIPConfig, TextConfig, VisionConfig

if TYPE_CHECKING:
    from diptych.models.text import TextTransformer
    from diptych.models.two_towers import SigLIP, TwoTowers
    from diptych.models.vit import VisionTransformer

__all__ = ["SigLIP", "SigLIPConfig", "TextConfig", "TextTransformer", "TwoTowers", "VisionConfig", "VisionTransformer"]


def __getattr__(name: str):
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from diptych.models.text import TextTransformer
    from diptych.models.two_towers import SigLIP, TwoTowers
    from diptych.models.vit import VisionTransformer

    models = {model.__name__: model for model in (SigLIP, TextTransformer, TwoTowers, VisionTransformer)}
    globals().update(models)
    return models[name]


if __name__ == "models":
    from diptych.checkout import alias_room

    alias_room(__name__)
