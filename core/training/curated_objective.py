"""Objectives whose batches are chosen, inside the compiled step, from larger ones (SigLIP 2, section 2.5; see
`curation`).
"""

import keras
from keras import ops

from diptych.core.training.curation import Scored, select_by_learnability
from diptych.core.training.objectives import Captions, Objective, image_inputs


class CuratedObjective(Objective):
    """Chooses `size` examples of each super-batch by learnability, and minimises another objective's terms on them.

    Learner and reference embed the super-batch in pieces of `size`, without gradients. An image with several captions
    is judged by its first.

    Args:
        objective: what is minimised on the chosen examples.
        reference: two towers with scale and bias that take the same inputs, such as a `SigLIP`; never trained.
        size: examples to choose.
    """

    def __init__(self, objective: Objective, reference: keras.Model, *, size: int):
        super().__init__(objective.terms, objective.weights)
        self.reference, self.size = reference, size
        self.fixed = (*self.fixed, *reference.variables)

    def prepare(self, model, batch):
        examples = {name: x for name, x in batch.items() if name != "selection_noise"}
        chosen = select_by_learnability(
            self._scored(model, examples),
            self._scored(self.reference, examples),
            size=self.size,
            noise=ops.transpose(batch["selection_noise"]),
        )
        return {name: ops.take(x, chosen, axis=0) for name, x in examples.items()}

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
