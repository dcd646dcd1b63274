"""PaliGemma's published sizes by name, and tiny ones.

`paligemma_3b_pt_224` is `google/paligemma-3b-pt-224`. pt and mix are one model with other weights: they differ in what
they were trained on last, and in how long texts may be there.
"""

from dataclasses import replace

from diptych.models.gemma import presets as gemma
from diptych.models.gemma.config import GemmaConfig
from diptych.models.paligemma.config import PaliGemmaConfig
from diptych.models.siglip.config import VisionConfig
from diptych.models.sizes import vision_size

VOCABULARY = 257_152
"""Gemma's 256,000 tokens, 1,024 places and 128 segment codes."""

_RELEASED = {
    "paligemma_3b": ("gemma_2b", {"pt": (224, 448, 896), "mix": (224, 448)}),
    "paligemma2_3b": ("gemma2_2b", {"pt": (224, 448, 896), "mix": (224, 448)}),
    "paligemma2_10b": ("gemma2_9b", {"pt": (224, 448, 896), "mix": (224, 448)}),
    "paligemma2_28b": ("gemma2_27b", {"pt": (224, 448, 896), "mix": (224, 448)}),
}


def paligemma_config(text: GemmaConfig, *, image_size: int, size: str = "So400m/14") -> PaliGemmaConfig:
    """A language model that reads the tokens of an image tower of a size such as "So400m/14".

    Its tokens see all tokens before them, in every block: PaliGemma 2 was trained without Gemma 2's sliding window.
    """
    vision = VisionConfig(**vision_size(size), image_size=image_size, pooling="gap")
    return PaliGemmaConfig(vision=vision, text=replace(text, sliding_window=None))


def _released() -> dict[str, PaliGemmaConfig]:
    found = {}
    for family, (text, kinds) in _RELEASED.items():
        config = replace(gemma.PRESETS[text], vocab_size=VOCABULARY)
        for kind, resolutions in kinds.items():
            for resolution in resolutions:
                found[f"{family}_{kind}_{resolution}"] = paligemma_config(config, image_size=resolution)
    return found


_TINY_VISION = VisionConfig(width=32, depth=2, mlp_dim=48, num_heads=4, patch_size=14, image_size=28, pooling="gap")

_EMOJI_VISION = VisionConfig(width=128, depth=2, mlp_dim=512, num_heads=2, patch_size=12, image_size=48, pooling="gap")
"""Of the weights emoji_36_languages."""
_EMOJI_TEXT = GemmaConfig(
    width=128,
    depth=2,
    mlp_dim=256,
    num_heads=4,
    num_key_value_heads=1,
    head_dim=32,
    vocab_size=1_792,
    context_length=128,
)

PRESETS: dict[str, PaliGemmaConfig] = {
    "paligemma_tiny": PaliGemmaConfig(vision=_TINY_VISION, text=gemma.PRESETS["gemma_tiny"]),
    "paligemma2_tiny": PaliGemmaConfig(
        vision=_TINY_VISION, text=replace(gemma.PRESETS["gemma2_tiny"], sliding_window=None)
    ),
    "paligemma_emoji": PaliGemmaConfig(vision=_EMOJI_VISION, text=_EMOJI_TEXT),
    **_released(),
}
"""Configurations by name; their weights are fresh."""
