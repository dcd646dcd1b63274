"""The configuration of BiT's ResNet image towers."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

from diptych.models.parts.config_checks import MAX_DEPTH, check_size, require

EXPANSION = 4
"""Channels of a unit's output over those inside it."""

STAGE_DEPTHS = {
    26: (2, 2, 2, 2),
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
    200: (3, 24, 36, 3),
}
"""Units of each stage by the network's number of layers (big_vision `models/bit.py`; He et al. 2015, table 1)."""


@dataclass(frozen=True, kw_only=True)
class BiTConfig:
    """A ResNet with group normalisation and standardised kernels, no state and no batch statistics (Kolesnikov et al.
    2020, "Big Transfer"); the defaults are those of R50x1 in big_vision's `models/bit.py`.

    There are two of them, which share names and sizes and compute otherwise:

    |  | post-activation | `pre_activation` |
    |---|---|---|
    | source | big_vision `models/bit.py`, trained from scratch | the paper, its released checkpoints, `bit_paper.py` |
    | a unit | conv, norm, relu, three times; relu of the sum | norm, relu, conv, three times; the sum |
    | projected shortcut | of the input, with a norm | of the first relu, without a norm |
    | stem | conv, norm, relu, maximum | conv, maximum; a norm and a relu at the end |
    | padding | "same" (`parts.convolutions.Padding`), maxima with -inf | symmetric, maxima with zeros |
    | standardised kernel | / (deviation + 1e-5) | / √(variance + `variance_epsilon`) |
    | epsilon of norms | 1e-6 | 1e-5 |
    | at first | the last norm of each unit has scale 0 | all scales are 1 |

    big_vision's `bit_paper.py` pads the stem's maxima with -inf, and so differs from the released checkpoints' own code
    (google-research/big_transfer) at the border; zeros are laid here, as there and in timm.
    """

    describes: ClassVar[str] = "BiTResNet"
    pooling: ClassVar[str] = "gap"
    stage_depths: tuple[int, ...] = STAGE_DEPTHS[50]
    """Units of each stage; each stage but the first halves the size and doubles the channels."""
    width: int = 64
    """Channels of the stem and inside the first stage's units: 64 times the width factor, such as 192 for R50x3."""
    num_groups: int = 32
    """Of channels, that each norm has; it divides the width."""
    image_size: int = 224
    embed_dim: int | None = None
    """Width of a linear projection behind the pooling; None for no projection."""
    pre_activation: bool = False
    variance_epsilon: float = 1e-10
    """With `pre_activation`: 1e-10 in the released code, 1e-8 in timm."""

    def __post_init__(self):
        object.__setattr__(self, "stage_depths", tuple(self.stage_depths))  # a list, where it comes from JSON
        require(bool(self.stage_depths), "stage_depths must be one number or more, got none.")
        for depth in self.stage_depths:
            check_size("each of stage_depths", depth, most=MAX_DEPTH)
        for field in ("width", "num_groups", "image_size"):
            check_size(field, getattr(self, field))
        if self.embed_dim is not None:
            check_size("embed_dim", self.embed_dim, also=", or None for no projection")
        require(
            self.width % self.num_groups == 0,
            f"num_groups must divide the width, got {self.num_groups} groups of {self.width} channels.",
        )
        require(self.variance_epsilon > 0, f"variance_epsilon must be positive, got {self.variance_epsilon!r}.")

    @property
    def channels(self) -> int:
        """Of the last stage: the width of "tokens"."""
        return EXPANSION * self.width * 2 ** (len(self.stage_depths) - 1)

    @property
    def depth(self) -> int:
        """Units of all stages."""
        return sum(self.stage_depths)

    @property
    def patch_size(self) -> int:
        """Pixels to a position of the last stage."""
        return 2 ** (len(self.stage_depths) + 1)

    @property
    def num_patches(self) -> int:
        """Positions of the last stage, of which the pooling is the mean."""
        return (-(-self.image_size // self.patch_size)) ** 2

    @property
    def output_width(self) -> int:
        return self.embed_dim or self.channels

    @property
    def norm_epsilon(self) -> float:
        return 1e-5 if self.pre_activation else 1e-6

    def units(self) -> Iterator["UnitSize"]:
        """Every unit in order, whatever is computed in it."""
        inputs = self.width
        for stage, depth in enumerate(self.stage_depths):
            width = self.width * 2**stage
            for unit in range(depth):
                stride = 2 if stage and not unit else 1
                yield UnitSize(stage + 1, unit, inputs, width, stride)
                inputs = EXPANSION * width


class UnitSize(NamedTuple):
    """A unit: its stage from 1, its place there from 0, the channels that it takes, those inside it, its stride."""

    stage: int
    place: int
    inputs: int
    width: int
    stride: int

    @property
    def outputs(self) -> int:
        return EXPANSION * self.width

    @property
    def projects(self) -> bool:
        """Whether its shortcut has a convolution: wherever size or channels change."""
        return self.stride > 1 or self.inputs != self.outputs

    @property
    def path(self) -> str:
        """Of its weights, below the tower's."""
        return f"stage_{self.stage}/block_{self.place:02d}"
