"""What CLIP's ResNet image towers are made of."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class CLIPResNetConfig:
    """CLIP's modified ResNet (Radford et al. 2021, section 2.4 and table 19)."""

    stage_depths: tuple[int, int, int, int] = (3, 4, 6, 3)
    width: int = 64
    """Channels of the first stage before its expansion by four."""
    num_heads: int = 32
    image_size: int = 224
    embed_dim: int = 1024

    @property
    def output_width(self) -> int:
        return self.embed_dim
