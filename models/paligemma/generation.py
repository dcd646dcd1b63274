"""Answers about pictures, batch after batch."""

import keras

from diptych.models.generation import BatchGenerator


@keras.saving.register_keras_serializable("diptych")
class AnswerGenerator(BatchGenerator):
    """`PaliGemma.generate` for one batch after another.

    >>> generator = AnswerGenerator(model, steps=32)
    >>> generator.predict_on_batch({"images": images, "token_ids": prompts, "token_mask": mask})

    A batch has the model's pictures, token_ids, token_mask and, for draws, noise.
    """

    def written(self, batch):
        pictures = {name: x for name, x in batch.items() if name not in ("token_ids", "token_mask", "noise")}
        noise = {"noise": batch["noise"]} if "noise" in batch else {}
        return self.model.generate(pictures, batch["token_ids"], batch["token_mask"], **noise, **self.choices)
