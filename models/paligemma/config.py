"""The configuration of PaliGemma."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from diptych.models.gemma.config import GemmaConfig
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
