"""Classification term: of which class a picture is, or which labels it has."""

from keras import ops

from diptych.core.data.examples.class_targets import ClassTargets
from diptych.core.data.sources.labels import ClassNames
from diptych.core.losses.classification import sigmoid_cross_entropy, softmax_cross_entropy
from diptych.core.training.objectives import Loss, image_inputs, normalization_of
from diptych.core.training.whole_batch import whole_batch
from diptych.engine.training.terms.stage_term import StageTerm
from diptych.models import ClassifierConfig


class Classification(StageTerm):
    """The cross-entropy of a classifier's logits.

    With mixup (Zhang et al. 2018) each picture is mixed with the one before it in its piece of the batch, all by the
    first one's share λ, as in big_vision: the loss is λ times that of its own class, and 1 - λ times that of the other.
    Over several processes a piece has rows of all of them.

    Args:
        several_labels: whether each class has a sigmoid of its own.
        label_smoothing: see `softmax_cross_entropy`.
    """

    independent = True
    pooled_alone = True

    def __init__(self, *, several_labels: bool = False, label_smoothing: float = 0.0):
        self.several_labels, self.label_smoothing = several_labels, label_smoothing

    @classmethod
    def examples(cls, recipe, planned, preprocess):
        config, options = classifier_config(planned), recipe.classification
        names = ClassNames(config.classes)
        targets = ClassTargets(classes=names, several=config.several_labels, mixup=options.mixup)
        if options.mixup and planned.naflex:
            raise ValueError(
                "--mixup mixes squares, and a NaFlex model's pictures have aspects of their own: leave it out."
            )
        return {"makers": {**preprocess.makers, "classification": targets}}

    @classmethod
    def build(cls, recipe, planned, teacher, placement):
        several = classifier_config(planned).several_labels
        return cls(several_labels=several, label_smoothing=recipe.classification.label_smoothing)

    def embed(self, seen):
        """-> the losses `[n]`, and whether the class of the largest logit is right, float32 `[n]`."""
        batch = seen.batch
        labels = batch["labels"] if self.several_labels else batch["label"]
        if "image_features" in batch:
            logits = seen.model.head(batch["image_features"])
            return {"losses": self._losses(logits, labels), "right": self._right(logits, labels)}
        inputs = image_inputs(batch, normalization_of(seen.model))
        if "mixup" not in batch:
            logits = seen.model(inputs, training=True)
            return {"losses": self._losses(logits, labels), "right": self._right(logits, labels)}
        share, images = whole_batch().first(batch["mixup"][:1])[0], inputs["images"]
        mixed = share * images + (1.0 - share) * whole_batch().rolled(images)
        logits = seen.model({"images": mixed}, training=True)
        own, other = self._losses(logits, labels), self._losses(logits, whole_batch().rolled(labels))
        return {"losses": share * own + (1.0 - share) * other, "right": self._right(logits, labels)}

    def loss(self, model, embedded):
        return Loss(ops.mean(embedded["losses"]), {"training_accuracy": ops.mean(embedded["right"])})

    @classmethod
    def flops(cls, recipe, planned, towers):
        return towers.pairs

    def _losses(self, logits, labels):
        loss = sigmoid_cross_entropy if self.several_labels else softmax_cross_entropy
        return loss(logits, labels, smoothing=self.label_smoothing)

    def _right(self, logits, labels):
        if self.several_labels:
            same = ops.equal(logits > 0, labels > 0.5)
            return ops.mean(ops.cast(same, "float32"), axis=-1)
        return ops.cast(ops.equal(ops.cast(ops.argmax(logits, axis=-1), labels.dtype), labels), "float32")


def classifier_config(planned) -> ClassifierConfig:
    """The classifier of a stage; raises TypeError for one that trains two towers."""
    if not isinstance(planned.config, ClassifierConfig):
        raise TypeError(
            f"Stage {planned.stage.name} trains two towers, and the loss classification needs a classifier."
        )
    return planned.config
