"""SigLIP 2's objective: pairs contrasted, captions and boxes written, views and hidden patches matched with a teacher's.

    L = w_c L_contrastive + w_t L_captioning + w_d L_distillation + w_m L_masked

The clean picture alone feeds the first two; the last two see augmented views (Tschannen et al. 2025, sections 2.1 to 2.3).
"""

from collections.abc import Callable
from dataclasses import dataclass

import keras
from keras import ops

from diptych.core.losses.captioning import (
    TaskWeighting,
    captioning_loss,
    chunked_cross_entropy,
    combine_tasks,
    cross_entropy,
    task_means,
)
from diptych.core.losses.contrastive import sigmoid_loss
from diptych.core.losses.distillation import chunked_distillation, mean_logits, updated_centre
from diptych.core.losses.masked_prediction import chunked_masked_prediction, gather_patches, patch_mask
from diptych.core.training.objectives import Captions, ContrastiveObjective, Objective, image_inputs, to_model_range
from diptych.core.training.stages import LossWeights
from diptych.core.training.teacher import EmaTeacher

MOST_LOGITS = 2**25
"""Of the decoder, that exist at a time: 128 MiB."""
TASKS = ("caption", "referring", "grounded")


@dataclass(frozen=True, kw_only=True)
class Matching:
    """How a student is matched with its teacher: DINO's temperatures, and the momentum of the centre of the teacher's logits."""

    student_temperature: float = 0.1
    teacher_temperature: float = 0.04
    centre_momentum: float = 0.9

    def __post_init__(self):
        if min(self.student_temperature, self.teacher_temperature) <= 0 or not 0 < self.centre_momentum < 1:
            raise ValueError(
                "Temperatures must be above 0 and the centre's momentum between 0 and 1, got "
                f"{self.student_temperature}, {self.teacher_temperature} and {self.centre_momentum}."
            )

    @property
    def temperatures(self) -> dict[str, float]:
        return {"student_temperature": self.student_temperature, "teacher_temperature": self.teacher_temperature}


class JointObjective(Objective):
    """The weighted sum of the losses whose weight is not 0; nothing is computed for the others.

    It drives a `diptych.models.siglip.student.Student` with the parts that the losses need, on batches with their fields
    (`diptych.core.data.batch`). Each loss is kept apart by example until the end, so that a batch can be embedded in pieces.

    Args:
        weights: of the losses.
        loss: the contrastive loss, as for `ContrastiveObjective`.
        task_weighting: how the decoder's tasks become one loss.
        teacher: needed where the self-supervised losses count.
        matching: see there.
        outputs: K, the number of prototypes of the heads, where there is a teacher.

    Raises:
        ValueError: for self-supervised losses without a teacher.
    """

    def __init__(
        self,
        weights: LossWeights,
        *,
        loss: Callable = sigmoid_loss,
        task_weighting: TaskWeighting = "mean",
        teacher: EmaTeacher | None = None,
        matching: Matching | None = None,
        outputs: int = 0,
    ):
        if weights.self_supervised and (teacher is None or outputs < 1):
            raise ValueError(
                "Self-distillation and masked prediction need a teacher and its number of outputs, got "
                f"{teacher and 'a teacher'} and {outputs}. Give an EmaTeacher, or set the weights of these losses to 0."
            )
        self.weights, self.task_weighting = weights, task_weighting
        self.teacher, self.matching = teacher, matching or Matching()
        self._contrastive = ContrastiveObjective(loss)
        used = [name for name in ("distillation", "masked_prediction") if getattr(weights, name)]
        self.centres = {
            name: keras.Variable(ops.zeros((outputs,)), dtype="float32", trainable=False, name=f"{name}_centre")
            for name in used
        }
        self.variables = tuple(self.centres.values())

    def named_variables(self) -> dict[str, keras.Variable]:
        """The centres, by the names that checkpoints have for them."""
        return {f"{name}_centre": variable for name, variable in self.centres.items()}

    def embed(self, model, batch):
        """Image and text embeddings, then for each loss that counts its value by example, and what the centres need by piece."""
        captions = Captions(batch["text"])
        features = model.image_features(image_inputs(batch))
        image, text = model.towers.pair_logits(
            features["pooled"], model.towers.text_encoder(captions.token_ids)["pooled"]
        )
        parts = [image, captions.by_image(text)]
        if self.weights.captioning:
            parts += self._written(model, features, batch)
        if self.centres:
            parts += self._matched(model, batch)
        return tuple(parts)

    def loss_of(self, model, parts):
        """The weighted sum, and each loss by itself."""
        parts = list(parts)
        contrastive, logs = self._contrastive.loss_of(model, parts[:2])
        losses, place = {"contrastive": contrastive}, 2
        if self.weights.captioning:
            by_task, weights = parts[place : place + 2]
            losses["captioning"] = ops.mean(combine_tasks(by_task, weighting=self.task_weighting))
            means = task_means(by_task, ops.expand_dims(weights, -1))
            logs = logs | {f"{task}_loss": means[index] for index, task in enumerate(TASKS)}
            place += 2
        for number, name in enumerate(self.centres):
            losses[name] = ops.mean(parts[place + 2 * number])
        total = sum(getattr(self.weights, name) * value for name, value in losses.items())
        return total, logs | {f"{name}_loss": value for name, value in losses.items()}

    def updates(self, model, parts):
        """The centres after this batch."""
        means = parts[len(parts) - 2 * len(self.centres) :][1::2]
        return [
            updated_centre(centre, ops.mean(mean, axis=0), momentum=self.matching.centre_momentum)
            for centre, mean in zip(self.variables, means, strict=True)
        ]

    def _written(self, model, features, batch):
        """The decoder's loss `[n, tasks]`, and float32 `[n, tasks]`, 1 for tasks that an example has."""
        labels, weights = batch["target_tokens"], batch["target_weights"]
        images, tasks, length = labels.shape
        parallel = ops.expand_dims(ops.cast(batch["parallel"], "bool"), -1)
        parallel = ops.concatenate([parallel, ops.zeros((images, tasks - 1), dtype="bool")], axis=-1)
        captioner = model.captioner
        hidden = captioner(labels, features["tokens"], parallel=parallel, encoder_mask=features["mask"])
        tokens, kernel = images * tasks * length, captioner.logits_kernel
        arguments = (
            ops.reshape(hidden, (tokens, hidden.shape[-1])),
            kernel,
            captioner.logits_bias,
            ops.reshape(labels, (tokens,)),
        )
        at_once = max(1, MOST_LOGITS // kernel.shape[1])
        if tokens <= at_once:  # few enough to be kept instead of computed twice
            losses = cross_entropy(*arguments)
        else:
            losses = chunked_cross_entropy(*arguments, tokens_per_chunk=at_once)
        losses = captioning_loss(ops.reshape(losses, (images, tasks, length)), weights)
        return losses, ops.cast(ops.any(ops.cast(weights, "bool"), axis=-1), "float32")

    def _matched(self, model, batch):
        """For each of the losses that count its value `[n]`, and the teacher's mean logits `[1, K]`."""
        assert self.teacher is not None
        taught, tower = self.teacher.parts, model.towers.image_encoder
        view = to_model_range(batch["global_view"])
        seen = {name: ops.stop_gradient(x) for name, x in taught["image"].encode(view).items()}
        parts = []
        if "distillation" in self.centres:
            local = batch["local_views"]
            images, views = local.shape[:2]
            pooled = tower.encode(to_model_range(ops.reshape(local, (images * views, *local.shape[2:]))))["pooled"]
            features = ops.reshape(model.global_head.features(pooled), (images, views, -1))
            parts += self._compared(
                chunked_distillation, "distillation", features, seen["pooled"], model.global_head, taught["global_head"]
            )
        if "masked_prediction" in self.centres:
            places, length = batch["masked_patches"], seen["tokens"].shape[1]
            hidden = tower.encode(view, mask_token=model.mask_token.token, masked=patch_mask(places, length))
            features = model.patch_head.features(gather_patches(hidden["tokens"], places))
            parts += self._compared(
                chunked_masked_prediction,
                "masked_prediction",
                features,
                gather_patches(seen["tokens"], places),
                model.patch_head,
                taught["patch_head"],
            )
        return parts

    def _compared(self, loss, name, features, seen, head, teachers_head):
        known, prototypes = teachers_head.features(seen), teachers_head.prototypes()
        losses = loss(
            features,
            known,
            head.prototypes(),
            prototypes,
            self.centres[name].value,
            **self.matching.temperatures,
        )
        return losses, ops.expand_dims(mean_logits(known, prototypes), 0)
