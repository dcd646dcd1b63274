"""Configurations of CLIP's towers: frozen values that models are built from and files are written from."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from diptych.models.clip.resnet_config import CLIPResNetConfig
from diptych.models.parts.config_checks import check_activation, check_pair, check_tower


@dataclass(frozen=True, kw_only=True)
class CLIPVisionConfig:
    """CLIP's vision transformer (Radford et al. 2021): class token with a position, a norm before the blocks, no patch
    bias.
    """

    describes: ClassVar[str] = "CLIPVisionTransformer"
    width: int
    depth: int
    mlp_dim: int
    num_heads: int
    patch_size: int = 32
    image_size: int = 224
    embed_dim: int = 512
    activation: str = "quick_gelu"
    """One of `diptych.models.parts.mlp.ACTIVATIONS`: quick_gelu in OpenAI's own models, gelu in most others."""
    pooling: ClassVar[str] = "cls"

    def __post_init__(self):
        check_tower(self, "patch_size", "image_size", "embed_dim")
        check_activation(self)

    @property
    def num_patches(self) -> int:
        return (self.image_size // self.patch_size) ** 2

    @property
    def output_width(self) -> int:
        return self.embed_dim


@dataclass(frozen=True, kw_only=True)
class CLIPTextConfig:
    """CLIP's text transformer: causal, read at the end-of-text token."""

    describes: ClassVar[str] = "CLIPTextTransformer"
    width: int
    depth: int
    mlp_dim: int
    num_heads: int
    vocab_size: int = 49_408
    context_length: int = 77
    embed_dim: int = 512
    activation: str = "quick_gelu"
    """One of `diptych.models.parts.mlp.ACTIVATIONS`: quick_gelu in OpenAI's own models, gelu in most others."""
    eot_id: int | None = None
    """The text is read at the first token of this id; None for the largest id, which end-of-text has in CLIP's
    vocabulary.
    """
    pooling: ClassVar[str] = "eot"

    def __post_init__(self):
        check_tower(self, "vocab_size", "context_length", "embed_dim")
        check_activation(self)

    @property
    def output_width(self) -> int:
        return self.embed_dim


@dataclass(frozen=True, kw_only=True)
class CLIPConfig:
    """CLIP's two towers and the scale of their logits; the image tower is a transformer or a ResNet."""

    describes: ClassVar[str] = "CLIP"
    vision: CLIPVisionConfig | CLIPResNetConfig
    text: CLIPTextConfig
    init_logit_scale: float = 1 / 0.07
    max_logit_scale: float | None = 100.0
    """The largest scale that training leaves (Radford et al. 2021, section 2.5); None for no bound."""

    def __post_init__(self):
        if isinstance(self.vision, Mapping):
            kind = CLIPResNetConfig if "stage_depths" in self.vision else CLIPVisionConfig
            object.__setattr__(self, "vision", kind(**self.vision))
        if isinstance(self.text, Mapping):
            object.__setattr__(self, "text", CLIPTextConfig(**self.text))
        check_pair(self)
