"""What a run in stages is made of: the options of `recipe`, those of the decoder and the teacher, and the stages."""

from dataclasses import dataclass
from typing import Annotated, Literal

import tyro

from diptych.core.training.recipe import Data, Model, Optimization, Run, check_options
from diptych.core.training.stages import Stage, check_stages


@dataclass(frozen=True, kw_only=True)
class Captioning:
    """The decoder that writes captions and boxes (LocCa; docs/siglip2.md has the register of choices)."""

    decoder_depth: int | None = None
    """Layers of the decoder; by default half of the text tower's, rounded down."""
    target_length: int | None = None
    """Tokens of a sequence to be written, its prompt included; by default the text tower's context length."""
    parallel_probability: float = 0.5
    """How often a caption is predicted in parallel, from mask tokens, instead of token by token."""
    task_weighting: Literal["mean", "sum"] = "mean"
    """How caption, referring expression and grounded caption become one loss."""
    box_bins: int = 500
    """Boxes are written as integers from 0 to this, exclusive."""
    box_order: Literal["yxyx", "xyxy"] = "yxyx"
    """Order of a box's corners in writing."""
    require_boxes: bool = True
    """Refuse data in which no picture has boxes; --no-require-boxes trains on captions alone then."""
    tie_embeddings: bool = False
    """Let the decoder's token table be its output layer, too; for small runs."""


@dataclass(frozen=True, kw_only=True)
class Distillation:
    """Self-distillation and masked prediction: the teacher, the heads, the views."""

    teacher_momentum: float | None = None
    """Constant momentum of the teacher; by default 0.966 ^ (batch_size / 16,384)."""
    head_hidden: int = 2048
    head_bottleneck: int = 256
    head_outputs: int = 65_536
    """Prototypes of each head."""
    student_temperature: float = 0.1
    teacher_temperature: float = 0.04
    centre_momentum: float = 0.9
    local_views: int = 8
    local_size: int | None = None
    """Side of local views in pixels; by default 3/8 of the picture's, in whole patches: 96 of 256."""
    mask_ratio: float = 0.5
    masking: Literal["random", "block"] = "random"
    colour: bool = True
    """Whether views change their colours, are blurred and solarized, as DINO's; False leaves cropping and mirroring, as TIPS."""


@dataclass(frozen=True, kw_only=True)
class StagedRecipe:
    """One run in stages, complete. Stages say what share of `optimization.examples` they take, so that the flag scales all of them."""

    data: Data
    model: Model
    optimization: Optimization
    captioning: Captioning
    distillation: Distillation
    run: Run
    language_temperature: float = 1.0
    """Records of a language come in proportion to their number to the power of 1 / this, within --english-share where it is given: 1
    takes them as they are, large values all languages alike. Not for the embedded data, whose records have every language."""
    only: tuple[str, ...] = ()
    """Stages to carry out, with what they go on from; by default all."""
    reference: str | None = None
    """Checkpoint of the model that judges what is learnable in curated stages, in place of the one that they name."""
    devices: int = 1
    """Devices that weights and batch are spread over, for the memory that a dry run tells."""
    stages: Annotated[tuple[Stage, ...], tyro.conf.Suppress]

    def __post_init__(self):
        check_stages(self.stages)
        check_options(self.data, self.model, self.optimization, self.run)
        if not 0 <= self.captioning.parallel_probability <= 1:
            raise ValueError(
                f"--parallel-probability lies between 0 and 1, got {self.captioning.parallel_probability}."
            )
