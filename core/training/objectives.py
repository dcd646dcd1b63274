"""What a step minimises: an objective embeds a batch with the model and turns the embeddings into a loss.

The two halves are apart so that a step can embed a large batch in pieces and still contrast every pair of it.
"""

from collections.abc import Callable
from dataclasses import dataclass

from keras import ops

from diptych.core.data.batch import batch_axis
from diptych.core.losses.contrastive import sigmoid_loss, softmax_contrastive_loss


def to_model_range(images):
    """uint8 pixels 0..255 -> float32 in [-1, 1]; batches travel as bytes and are converted on the device."""
    return ops.cast(images, "float32") / 127.5 - 1.0


class Objective:
    """What steps rely on (`diptych.backends.train_step`).

    Attributes:
        variables: untrained Keras variables that a step changes, such as the centre of a teacher's outputs.
        fixed: weights that are read besides the model's and never change, such as those of a reference model.
    """

    variables: tuple = ()
    fixed: tuple = ()

    def example_axis(self, field: str) -> int:
        """Which axis of a batch's field counts the examples."""
        return batch_axis(field)

    def prepare(self, model, batch: dict) -> dict:
        """The batch to train on, without gradients: by default the one given."""
        return batch

    def embed(self, model, batch: dict) -> tuple:
        """Tensors that describe a piece of a batch; those of several pieces are joined along the first axis."""
        raise NotImplementedError

    def loss_of(self, model, parts: tuple):
        """What all pieces gave -> (float32 scalar loss, scalars worth logging)."""
        raise NotImplementedError

    def updates(self, model, parts: tuple) -> list:
        """New values of `variables`, in their order; they are taken up after the optimizer's step."""
        return []


@dataclass(frozen=True)
class ContrastiveObjective(Objective):
    """Pairs of images and texts, pulled together and pushed apart by `loss`.

    Where a batch brings several captions of each image, the loss is the mean over them: caption k of an image is contrasted
    with caption k of the others, never with another caption of its own image.

    Args:
        loss: called as `loss(image_embeddings, text_embeddings, logit_scale=, logit_bias=)`, without the bias for a model that
            has none; the place where a faster implementation enters.
    """

    loss: Callable = sigmoid_loss

    def embed(self, model, batch: dict):
        """Embeds {"image": uint8 [n, h, w, 3], "text": int32 [n, length] or [n, captions, length]}; NaFlex: "patches", "spatial_shapes".

        Returns:
            (image [n, dim], text [n, captions, dim]), L2-normalised.
        """
        captions = Captions(batch["text"])
        outputs = model(image_inputs(batch) | {"token_ids": captions.token_ids}, training=True)
        return outputs["image_embedding"], captions.by_image(outputs["text_embedding"])

    def loss_of(self, model, parts):
        """(image, text) embeddings of all pairs -> (float32 scalar loss, scalars worth logging)."""
        image, text = parts
        scalars = {"logit_scale": model.logit_scale}
        if model.logit_bias is not None:
            scalars["logit_bias"] = model.logit_bias
        losses = [self.loss(image, text[:, caption], **scalars) for caption in range(text.shape[1])]
        return sum(losses) / len(losses), scalars


class Captions:
    """Token ids int32 `[n, length]` or `[n, captions, length]` as one list of texts, and what was computed of them by image again."""

    def __init__(self, text):
        self.images, self.captions = text.shape[0], 1 if len(text.shape) == 2 else text.shape[1]
        self.token_ids = ops.reshape(text, (self.images * self.captions, text.shape[-1]))

    def by_image(self, embeddings):
        """`[n · captions, dim]` -> `[n, captions, dim]`."""
        return ops.reshape(embeddings, (self.images, self.captions, embeddings.shape[-1]))


def image_inputs(batch: dict) -> dict:
    """The image tower's inputs, by name, from a batch's bytes."""
    if "patches" in batch:
        return {"patches": to_model_range(batch["patches"]), "spatial_shapes": batch["spatial_shapes"]}
    return {"images": to_model_range(batch["image"])}


def softmax_loss(image_embeddings, text_embeddings, *, logit_scale, logit_bias=None):
    """`softmax_contrastive_loss` with the sigmoid loss's arguments; the bias, which changes no softmax, is not used."""
    return softmax_contrastive_loss(image_embeddings, text_embeddings, logit_scale=logit_scale)
