"""Base class of the terms that a stage can weigh: the mathematics of a `Term`, and what a run must know to use it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from diptych.core.data.examples.preprocessing import Preprocessing
from diptych.core.placement import Placement
from diptych.core.training.objectives import Term
from diptych.core.training.recipe import Recipe
from diptych.core.training.teacher import EmaTeacher
from diptych.engine.training.planned_stage import PlannedStage
from diptych.models.siglip.parts import Part


@dataclass(frozen=True, kw_only=True)
class TowerFlops:
    """Floating-point operations for one example of a stage: of the image tower's forward pass, and of training the
    model, both towers on pairs.

    lengths: the numbers of patches that the stage's pictures have, each as often as the others; none without pictures.
    """

    image: float
    pairs: float
    lengths: tuple[int, ...]


class StageTerm(Term):
    """A term, with what it needs of the model, of the data and of the machine.

    Attributes:
        taught: the parts, beside the image tower, of which the term reads a teacher's copies; None for a term without a
            teacher.
        sees_views: whether it sends augmented views of the pictures through the image tower.
        pooled_alone: whether all that it reads of a picture is the image tower's "pooled", so that it may have been
            computed before training.
    """

    taught: tuple[str, ...] | None = None
    sees_views: bool = False
    pooled_alone: bool = False

    @classmethod
    def parts(cls, recipe: Recipe, towers: Any) -> dict[str, Part]:
        """What the model has for this term beside its towers, by name."""
        return {}

    @classmethod
    def examples(cls, recipe: Recipe, planned: PlannedStage, preprocess: Preprocessing) -> dict[str, Any]:
        """Changes of `preprocess`, by which a batch gets the fields that the term reads."""
        return {}

    @classmethod
    def build(cls, recipe: Recipe, planned: PlannedStage, teacher: EmaTeacher | None, placement: Placement) -> Self:
        """The term of a stage."""
        return cls()

    @classmethod
    def flops(cls, recipe: Recipe, planned: PlannedStage, towers: TowerFlops) -> float:
        """Floating-point operations of training one example; a backward pass counts as two forward passes."""
        return 0.0

    @classmethod
    def held_shapes(cls, recipe: Recipe) -> tuple[tuple[int, ...], ...]:
        """Of its `variables`, which are float32."""
        return ()

    @classmethod
    def activation_bytes(cls, recipe: Recipe, planned: PlannedStage, rows: int) -> float:
        """Memory that `rows` examples take until the backward pass, beside what both towers and views take."""
        return 0.0

    @classmethod
    def passing_bytes(cls, recipe: Recipe, planned: PlannedStage, rows: int) -> float:
        """Memory that they take while the loss is computed, and its gradient, such as a chunk's logits."""
        return 0.0


Terms = Mapping[str, type[StageTerm]]
