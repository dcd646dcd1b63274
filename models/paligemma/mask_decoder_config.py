"""The configuration of the decoder of mask codes."""

from dataclasses import dataclass
from typing import ClassVar

from diptych.models.parts.config_checks import MAX_DEPTH, check_size, require

DOUBLINGS = 4


@dataclass(frozen=True, kw_only=True)
class MaskDecoderConfig:
    """Sizes of the released decoder, and what may differ in a small one."""

    describes: ClassVar[str] = "MaskDecoder"
    codes: int = 128
    code_width: int = 512
    width: int = 128
    """Of the first layers; each doubling of the side but the first halves it."""
    depth: int = 2
    """Residual blocks."""

    def __post_init__(self):
        for field in ("codes", "code_width", "width"):
            check_size(field, getattr(self, field))
        check_size("depth", self.depth, most=MAX_DEPTH)
        least = 2 ** (DOUBLINGS - 1)
        require(self.width % least == 0, f"width must be a multiple of {least}, got {self.width}.")
