"""Matching of a student with its teacher over prototypes: what self-distillation and masked prediction share."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import ClassVar

import keras
from keras import ops

from diptych import backends
from diptych.core.data.examples.views import Finish, Views
from diptych.core.losses.distillation import mean_logits, rows_at_once, updated_centre
from diptych.core.losses.products import Product, float32_product
from diptych.core.training.objectives import Loss, Seen, Tensors, to_model_range
from diptych.core.training.recipe import Recipe
from diptych.core.training.teacher import EmaTeacher
from diptych.engine.training.planned_stage import PlannedStage
from diptych.engine.training.terms.stage_term import StageTerm
from diptych.models.siglip.parts import HeadPart

_FLOAT32_BYTES = 4


@dataclass(frozen=True, kw_only=True)
class Temperatures:
    """DINO's temperatures, and the momentum of the centre of the teacher's logits."""

    student_temperature: float = 0.1
    teacher_temperature: float = 0.04
    centre_momentum: float = 0.9

    def __post_init__(self):
        if min(self.student_temperature, self.teacher_temperature) <= 0 or not 0 < self.centre_momentum < 1:
            raise ValueError(
                "Temperatures must be above 0 and the centre's momentum between 0 and 1, got "
                f"{self.student_temperature}, {self.teacher_temperature} and {self.centre_momentum}."
            )


class Matching(StageTerm):
    """The cross-entropy between a teacher's centred prediction and the student's, over a head's prototypes.

    Args:
        teacher: with copies of the image tower and of the head.
        outputs: K, the number of prototypes of the head.
        temperatures: see there.
        product: how logits are computed.

    Raises:
        ValueError: where there is no teacher.
    """

    independent = True
    sees_views = True
    name: ClassVar[str]
    head: ClassVar[str]
    """Name of the part that gives the student's features."""

    def __init__(
        self,
        teacher: EmaTeacher | None,
        outputs: int,
        temperatures: Temperatures | None = None,
        product: Product = float32_product,
    ):
        if teacher is None or outputs < 1:
            raise ValueError(
                "Self-distillation and masked prediction need a teacher and its number of outputs, got "
                f"{teacher and 'a teacher'} and {outputs}. Give an EmaTeacher, or leave these losses out."
            )
        self.teacher, self.temperatures, self.product = teacher, temperatures or Temperatures(), product
        self.centre = keras.Variable(
            ops.zeros((outputs,)), dtype="float32", trainable=False, name=f"{self.name}_centre"
        )
        self.variables = {f"{self.name}_centre": self.centre}

    @classmethod
    def build(cls, recipe, planned, teacher, placement):
        options = recipe.distillation
        temperatures = Temperatures(
            student_temperature=options.student_temperature,
            teacher_temperature=options.teacher_temperature,
            centre_momentum=options.centre_momentum,
        )
        return cls(teacher, options.head_outputs, temperatures, backends.product(recipe.model.precision))

    @classmethod
    def examples(cls, recipe, planned, preprocess):
        options, vision = recipe.distillation, planned.square
        views = Views(
            global_size=vision.image_size,
            local_size=local_size(recipe, planned),
            patch_size=vision.patch_size,
            local_count=options.local_views,
            mask_ratio=options.mask_ratio,
            masking=options.masking,
        )
        if not options.colour:
            views = replace(views, colour=None, global_finishes=(Finish(),), local_finish=Finish())
        return {"views": views}

    @classmethod
    def held_shapes(cls, recipe):
        return ((recipe.distillation.head_outputs,),)

    @classmethod
    def logits_bytes(cls, recipe: Recipe, rows: int, views: int) -> float:
        """Memory of the logits of a chunk, of student and teacher, with their gradient."""
        outputs = recipe.distillation.head_outputs
        return 2.0 * min(rows, rows_at_once(views, outputs)) * (views + 1) * outputs * _FLOAT32_BYTES

    def global_view(self, seen: Seen):
        """The global views, in the model's range."""
        return seen.once("global view", lambda: to_model_range(seen.batch["global_view"]))

    def taught_features(self, seen: Seen) -> Tensors:
        """What the teacher's image tower sees in the global view, without gradients; both terms read it."""

        def see():
            features = self.teacher.parts["image"].encode(self.global_view(seen))
            return {name: ops.stop_gradient(x) for name, x in features.items()}

        return seen.once("taught features", see)

    def compared(self, compare: Callable, model, features, taught) -> Tensors:
        """-> losses `[n]`, and the teacher's mean logits `[1, K]`.

        Args:
            compare: a chunked loss of `core.losses`.
            features: of the student's head.
            taught: what the teacher's head reads.
        """
        head = self.teacher.parts[self.head]
        known, prototypes = head.features(taught), head.prototypes()
        losses = compare(
            features,
            known,
            model.parts[self.head].prototypes(),
            prototypes,
            self.centre.value,
            student_temperature=self.temperatures.student_temperature,
            teacher_temperature=self.temperatures.teacher_temperature,
            product=self.product,
        )
        return {"losses": losses, "mean_logits": ops.expand_dims(mean_logits(known, prototypes), 0)}

    def loss(self, model, embedded: Tensors) -> Loss:
        mean = ops.mean(embedded["mean_logits"], axis=0)
        centre = updated_centre(self.centre, mean, momentum=self.temperatures.centre_momentum)
        return Loss(ops.mean(embedded["losses"]), updates={f"{self.name}_centre": centre})


def head_part(recipe: Recipe, reads) -> HeadPart:
    """The head that the recipe describes, on the image tower's "pooled" vector or its "tokens"."""
    options = recipe.distillation
    return HeadPart(
        reads=reads, hidden=options.head_hidden, bottleneck=options.head_bottleneck, outputs=options.head_outputs
    )


def local_size(recipe: Recipe, planned: PlannedStage) -> int:
    """Side of a stage's local views in pixels: the stage's own, the run's, or 96 for 256 (DINO's is 96 for 224).

    Raises:
        ValueError: for one that holds no patch.
    """
    vision = planned.square
    given = planned.stage.local_size or recipe.distillation.local_size
    if given is None:
        return max(1, round(vision.image_size * 3 / 8 / vision.patch_size)) * vision.patch_size
    if given < vision.patch_size:
        raise ValueError(
            f"Stage {planned.stage.name}: a local view must hold a patch of {vision.patch_size} px at least, got "
            f"{given} px. Raise --local-size, or give this Stage a local_size of its own."
        )
    return given
