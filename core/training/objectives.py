"""What a step minimises: an objective embeds a batch with the model and turns the embeddings into a loss.

The two halves are apart so that a step can embed a large batch in pieces and still contrast every pair of it.
"""

from collections.abc import Callable
from dataclasses import dataclass

from keras import ops

from diptych.core.losses.contrastive import sigmoid_loss, softmax_contrastive_loss


def to_model_range(images):
    """uint8 pixels 0..255 -> float32 in [-1, 1]; batches travel as bytes and are converted on the device."""
    return ops.cast(images, "float32") / 127.5 - 1.0


@dataclass(frozen=True)
class ContrastiveObjective:
    """Pairs of images and texts, pulled together and pushed apart by `loss`.

    Args:
        loss: called as `loss(image_embeddings, text_embeddings, logit_scale=, logit_bias=)`; the place where a faster
            implementation enters.
    """

    loss: Callable = sigmoid_loss

    def embed(self, model, batch: dict):
        """batch {"image": uint8 [n, h, w, 3], "text": int32 [n, length]} -> (image, text) embeddings, each [n, dim]."""
        outputs = model({"images": to_model_range(batch["image"]), "token_ids": batch["text"]}, training=True)
        return outputs["image_embedding"], outputs["text_embedding"]

    def loss_of(self, model, embeddings):
        """(image, text) embeddings of all pairs -> (float32 scalar loss, scalars worth logging)."""
        image, text = embeddings
        loss = self.loss(image, text, logit_scale=model.logit_scale, logit_bias=model.logit_bias)
        return loss, {"logit_scale": model.logit_scale, "logit_bias": model.logit_bias}


def softmax_loss(image_embeddings, text_embeddings, *, logit_scale, logit_bias=None):
    """`softmax_contrastive_loss` with the sigmoid loss's arguments; the bias, which changes no softmax, is not used."""
    return softmax_contrastive_loss(image_embeddings, text_embeddings, logit_scale=logit_scale)
