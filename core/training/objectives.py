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

    Where a batch brings several captions of each image, the loss is the mean over them: caption k of an image is contrasted
    with caption k of the others, never with another caption of its own image.

    Args:
        loss: called as `loss(image_embeddings, text_embeddings, logit_scale=, logit_bias=)`, without the bias for a model that
            has none; the place where a faster implementation enters.
    """

    loss: Callable = sigmoid_loss

    def embed(self, model, batch: dict):
        """Embeds {"image": uint8 [n, h, w, 3], "text": int32 [n, length] or [n, captions, length]}.

        Returns:
            (image [n, dim], text [n, captions, dim]), L2-normalised.
        """
        text = batch["text"]
        images, captions = text.shape[0], 1 if len(text.shape) == 2 else text.shape[1]
        token_ids = ops.reshape(text, (images * captions, text.shape[-1]))
        outputs = model({"images": to_model_range(batch["image"]), "token_ids": token_ids}, training=True)
        image_embeddings, text_embeddings = outputs["image_embedding"], outputs["text_embedding"]
        return image_embeddings, ops.reshape(text_embeddings, (images, captions, text_embeddings.shape[-1]))

    def loss_of(self, model, embeddings):
        """(image, text) embeddings of all pairs -> (float32 scalar loss, scalars worth logging)."""
        image, text = embeddings
        scalars = {"logit_scale": model.logit_scale}
        if model.logit_bias is not None:
            scalars["logit_bias"] = model.logit_bias
        losses = [self.loss(image, text[:, caption], **scalars) for caption in range(text.shape[1])]
        return sum(losses) / len(losses), scalars


def softmax_loss(image_embeddings, text_embeddings, *, logit_scale, logit_bias=None):
    """`softmax_contrastive_loss` with the sigmoid loss's arguments; the bias, which changes no softmax, is not used."""
    return softmax_contrastive_loss(image_embeddings, text_embeddings, logit_scale=logit_scale)
