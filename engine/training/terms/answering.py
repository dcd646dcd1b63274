"""Answering term: how far a task's answers are from what they should be (Radford et al. 2018, equation 4)."""

from keras import ops

from diptych.core.losses.classification import cross_entropy_of_shares
from diptych.core.training.objectives import Loss
from diptych.engine.training.terms.stage_term import StageTerm


class Answering(StageTerm):
    """The cross-entropy of the answers' probabilities, over classes, scores or choices: the mean over examples.

    A batch has the fields of `core.data.text_tasks.sequences`; the decoder's features are those that the term
    "language" reads, of one pass through the model.
    """

    independent = True

    def embed(self, seen):
        """-> the losses `[n]`, and whether the likeliest answer is that of the target, float32 `[n]`."""
        batch = seen.batch
        extract, target = batch["extract"], batch["target"]
        features = seen.predicting.features
        features = ops.reshape(features, (*extract.shape, *features.shape[1:]))
        seeds = batch.get("dropout_seeds")
        logits = seen.model.head(features, extract, None if seeds is None else seeds[:, 0])
        right = ops.equal(ops.argmax(logits, axis=-1), ops.argmax(target, axis=-1))
        return {"losses": cross_entropy_of_shares(logits, target), "right": ops.cast(right, "float32")}

    def loss(self, model, embedded):
        return Loss(ops.mean(embedded["losses"]), {"training_accuracy": ops.mean(embedded["right"])})
