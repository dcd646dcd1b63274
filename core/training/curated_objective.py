"""An objective whose batches are chosen, inside the compiled step, from larger ones (SigLIP 2, section 2.5; see `curation`)."""

import keras
from keras import ops

from diptych.core.data.batch import batch_axis
from diptych.core.training.curation import Scored, select_by_learnability
from diptych.core.training.objectives import Captions, Objective, image_inputs
from diptych.core.training.stages import Curation


class CuratedObjective(Objective):
    """Chooses `size` examples of each super-batch by learnability, and gives them to another objective.

    Learner and reference embed the super-batch in pieces of `size`, without gradients. An image with several captions is judged by
    its first.

    Args:
        objective: what is minimised on the chosen examples.
        reference: two towers with scale and bias that take the same inputs, such as a `SigLIP`; never trained.
        size: examples to choose.
        curation: how.
    """

    def __init__(self, objective: Objective, reference: keras.Model, *, size: int, curation: Curation):
        self.objective, self.reference, self.size, self.curation = objective, reference, size, curation
        self.variables = objective.variables
        self.fixed = (*objective.fixed, *reference.variables)

    def prepare(self, model, batch):
        examples = {name: x for name, x in batch.items() if name != "selection_noise"}
        chosen = select_by_learnability(
            self._scored(model, examples),
            self._scored(self.reference, examples),
            size=self.size,
            noise=batch["selection_noise"],
            method=self.curation.method,
        )
        return {name: ops.take(x, chosen, axis=batch_axis(name)) for name, x in examples.items()}

    def embed(self, model, batch):
        return self.objective.embed(model, batch)

    def loss_of(self, model, parts):
        return self.objective.loss_of(model, parts)

    def updates(self, model, parts):
        return self.objective.updates(model, parts)

    def _scored(self, model, batch) -> Scored:
        images, texts = [], []
        for start in range(0, batch["text"].shape[0], self.size):
            piece = {name: x[start : start + self.size] for name, x in batch.items()}
            captions = Captions(piece["text"])
            ids = captions.token_ids if captions.captions == 1 else piece["text"][:, 0]
            outputs = model(image_inputs(piece) | {"token_ids": ids})
            images.append(outputs["image_embedding"])
            texts.append(outputs["text_embedding"])
        return Scored(ops.concatenate(images), ops.concatenate(texts), model.logit_scale, model.logit_bias)
