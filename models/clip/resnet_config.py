"""The configuration of CLIP's ResNet image towers."""

from dataclasses import dataclass
from typing import ClassVar

from diptych.models.parts.config_checks import MAX_DEPTH, check_size

REDUCTION = 32
"""Pixels to a row of the last stage's features: two halvings in the stem, one in each of the last three stages."""


@dataclass(frozen=True, kw_only=True)
class CLIPResNetConfig:
    """CLIP's modified ResNet (Radford et al. 2021, section 2.4 and table 19); the defaults are RN50's."""

    describes: ClassVar[str] = "CLIPResNet"
    pooling: ClassVar[str] = "attention"
    stage_depths: tuple[int, int, int, int] = (3, 4, 6, 3)
    """Bottleneck blocks of each stage."""
    width: int = 64
    """Channels inside the first stage's blocks; each stage has twice those of the one before, its output four times as
    many.
    """
    num_heads: int = 32
    """Of the attention that pools."""
    image_size: int = 224
    embed_dim: int = 1024

    def __post_init__(self):
        object.__setattr__(self, "stage_depths", tuple(self.stage_depths))  # a list, where it comes from JSON
        for depth in self.stage_depths:
            check_size("each of stage_depths", depth, most=MAX_DEPTH)
        for field in ("width", "num_heads", "image_size", "embed_dim"):
            check_size(field, getattr(self, field))
        for condition, message in (
            (len(self.stage_depths) == 4, f"stage_depths must be four numbers, got {self.stage_depths}."),
            (self.width % 2 == 0, f"width must be even, since the stem starts with half of it, got {self.width}."),
            (
                self.channels % self.num_heads == 0,
                f"num_heads must divide the {self.channels} channels of the last stage, got {self.num_heads}.",
            ),
            (
                self.image_size % REDUCTION == 0,
                f"image_size must be a multiple of {REDUCTION}, got {self.image_size}.",
            ),
        ):
            if not condition:
                raise ValueError(message)

    @property
    def channels(self) -> int:
        """Of the last stage: the width of "tokens"."""
        return 32 * self.width

    @property
    def depth(self) -> int:
        """Blocks of all stages."""
        return sum(self.stage_depths)

    @property
    def patch_size(self) -> int:
        """Pixels to a position of the last stage."""
        return REDUCTION

    @property
    def num_patches(self) -> int:
        """Positions of the last stage, which the pooling attends to."""
        return (self.image_size // REDUCTION) ** 2

    @property
    def output_width(self) -> int:
        return self.embed_dim
