"""The configuration of PaliGemma, and its parameters by arithmetic."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from diptych.models.counting import count_tower_parameters
from diptych.models.gemma.config import GemmaConfig, count_gemma_parameters
from diptych.models.parts.config_checks import require
from diptych.models.siglip.config import NaFlexVisionConfig, VisionConfig


@dataclass(frozen=True, kw_only=True)
class PaliGemmaConfig:
    """An image tower of SigLIP whose tokens a Gemma reads (Beyer et al. 2024; Steiner et al. 2024 for the second)."""

    describes: ClassVar[str] = "PaliGemma"
    vision: VisionConfig | NaFlexVisionConfig
    """Its tokens are read as they are, so that it pools by no weights: pooling "gap", without a projection."""
    text: GemmaConfig

    def __post_init__(self):
        if isinstance(self.vision, Mapping):
            kind = NaFlexVisionConfig if "position_grid" in self.vision else VisionConfig
            object.__setattr__(self, "vision", kind(**self.vision))
        if isinstance(self.text, Mapping):
            object.__setattr__(self, "text", GemmaConfig(**self.text))
        require(
            self.vision.pooling == "gap" and self.vision.embed_dim is None,
            "PaliGemma reads the image tower's tokens, and weights that pool them would be of no use: expected pooling "
            f"'gap' and embed_dim None, got {self.vision.pooling!r} and {self.vision.embed_dim}.",
        )


def count_paligemma_parameters(config: PaliGemmaConfig) -> dict[str, int]:
    """-> {"image", "projector", "text", "total"}: numbers of trained scalars."""
    parts = {
        "image": count_tower_parameters(config.vision),
        "projector": (config.vision.width + 1) * config.text.width,
        "text": count_gemma_parameters(config.text)["total"],
    }
    return {**parts, "total": sum(parts.values())}
