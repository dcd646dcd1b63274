"""Objectives whose batches are chosen, inside the compiled step, from larger ones.

Reference: SigLIP 2, section 2.5; see `curation`.
"""

import keras
from keras import ops

from diptych.core.training.curation import Scored, select_by_learnability
from diptych.core.training.objectives import IMAGE_FIELDS, Captions, Objective, image_inputs, normalization_of
from diptych.core.training.whole_batch import whole_batch

REFERENCE_IMAGE = "reference_image"
"""The field of a batch with the reference's own pictures."""


class CuratedObjective(Objective):
    """Chooses `size` examples of each super-batch by learnability, and minimises another objective's terms on them.

    Of a super-batch that is shared among processes each embeds its own rows; all choose among the rows of all, and a
    picture moves to another process only where one has more of the chosen than its part.

    Learner and reference embed the super-batch a piece after the other, without gradients; the reference reads
    "reference_image", pictures of its own size, where a batch has them. An image with several captions is judged by its
    first.

    Args:
        objective: what is minimised on the chosen examples.
        reference: two towers with scale and bias that take the same inputs, such as a `SigLIP`; never trained.
        size: examples to choose.
        piece: examples that are embedded at a time, on all processes together; by default `size`.
    """

    def __init__(self, objective: Objective, reference: keras.Model, *, size: int, piece: int | None = None):
        super().__init__(objective.terms, objective.weights)
        self.reference, self.size, self.piece = reference, size, piece or size
        self.fixed = (*self.fixed, *reference.variables)

    def prepare(self, model, batch):
        examples = {name: x for name, x in batch.items() if name not in ("selection_noise", REFERENCE_IMAGE)}
        own = {"image": batch[REFERENCE_IMAGE]} if REFERENCE_IMAGE in batch else {}
        whole = whole_batch()
        chosen = select_by_learnability(
            self._scored(model, examples),
            self._scored(self.reference, examples | own),
            size=self.size,
            noise=ops.transpose(whole.gathered(batch["selection_noise"])),
        )
        return whole.taken(examples, whole.first(chosen))

    def _scored(self, model, batch) -> Scored:
        seen = {name: batch[name] for name in (*IMAGE_FIELDS, "text") if name in batch}
        count, piece = batch["text"].shape[0], max(1, self.piece // whole_batch().parts)
        pieces = count // piece
        parts = []
        if pieces:
            # A piece takes one of every `pieces` examples: devices that share a batch by rows then share each piece.
            cut = {name: ops.reshape(x[: pieces * piece], (-1, pieces, *x.shape[1:])) for name, x in seen.items()}
            cut = {name: ops.swapaxes(x, 0, 1) for name, x in cut.items()}
            embedded = ops.map(lambda piece: _embedded(model, piece), cut)
            parts.append([ops.reshape(ops.swapaxes(x, 0, 1), (-1, x.shape[-1])) for x in embedded])
        if rest := count % piece:
            parts.append(_embedded(model, {name: x[-rest:] for name, x in seen.items()}))
        images, texts = (ops.concatenate(some) for some in zip(*parts, strict=True))
        images, texts = (whole_batch().gathered(x) for x in (images, texts))
        return Scored(images, texts, model.logit_scale, model.logit_bias)


def _embedded(model, batch):
    """The embeddings of images and of their first captions, `[n, dim]` each."""
    captions = Captions(batch["text"])
    ids = captions.token_ids if captions.captions == 1 else batch["text"][:, 0]
    outputs = model(image_inputs(batch, normalization_of(model)) | {"token_ids": ids})
    return outputs["image_embedding"], outputs["text_embedding"]
