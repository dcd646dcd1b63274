"""Stages with all that follows from them and from those before, worked out before anything is built."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from diptych.core.data.examples.naflex import NaFlexLengths
from diptych.core.training.stages import Stage
from diptych.models import NaFlexVisionConfig, VisionConfig
from diptych.models.captioner.config import CaptionerConfig
from diptych.models.siglip.config import AnyVisionConfig, PairConfig
from diptych.models.siglip.parts import DecoderPart, Part


@dataclass(frozen=True, kw_only=True)
class PlannedStage:
    """One stage of a run.

    Attributes:
        stage: as the recipe has it.
        config: of its model: two towers, a classifier or a language model.
        parts: what the model has beside the towers, by name.
        reference: of the model by which batches are chosen; None where none is, or it is not known yet.
        naflex: its sequence lengths, None for square pictures.
        first, last: range of batch numbers, [first, last), in the numbering of the stage's data order.
        first_update: optimizer steps already taken when the stage starts (0 with a fresh optimizer).
        updates: optimizer steps in this stage.
        batch_size: examples that a batch trains on.
        loaded: examples that are read for a batch; more than `batch_size` where batches are chosen.
        trained: scalars that move; None for all of them.
        locked: the towers, of "image", "text" and "decoder", of which nothing moves.
        embeds_images: whether pictures are embedded once, before the first step, so that no step sees them.
        examples_before: examples that its weights have seen when it starts.
    """

    stage: Stage
    config: Any
    parts: Mapping[str, Part]
    reference: PairConfig | None
    naflex: NaFlexLengths | None
    first: int
    last: int
    first_update: int
    updates: int
    batch_size: int
    loaded: int
    trained: int | None = None
    locked: frozenset[str] = frozenset()
    embeds_images: bool = False
    examples_before: int

    @property
    def batches(self) -> int:
        return self.last - self.first

    @property
    def examples(self) -> int:
        return self.batches * self.batch_size

    @property
    def vision(self) -> AnyVisionConfig | None:
        """Of its image tower; None for a model of text alone."""
        return getattr(self.config, "vision", None)

    @property
    def lengths(self) -> tuple[int, ...]:
        """The numbers of patches that its pictures have, each as often as the others; none without pictures."""
        if self.vision is None:
            return ()
        return self.stage.sequence_lengths or (self.vision.num_patches,)

    @property
    def judged_length(self) -> int | None:
        """At most how many patches NaFlex is judged at, which are as many as the saved model's processor makes of a
        picture; None for square pictures.
        """
        return self.vision.max_num_patches if isinstance(self.vision, NaFlexVisionConfig) else None

    @property
    def square(self) -> VisionConfig:
        """SigLIP's image tower of a stage with square pictures; raises TypeError for another."""
        if not isinstance(self.vision, VisionConfig):
            raise TypeError(
                f"Stage {self.stage.name} has a {(self.vision or self.config).describes}, and SigLIP's tower for "
                "square pictures was expected."
            )
        return self.vision

    @property
    def decoder(self) -> CaptionerConfig:
        """Of a stage that has a decoder; raises TypeError for another."""
        part = self.parts.get("captioner")
        if not isinstance(part, DecoderPart):
            raise TypeError(f"Stage {self.stage.name} has no decoder.")
        return part.config
