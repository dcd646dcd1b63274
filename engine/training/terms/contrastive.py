"""Contrastive term: pairs of images and texts, pulled together and pushed apart by a loss over all pairs of a batch."""

from collections.abc import Callable
from functools import partial

from diptych import backends
from diptych.core.losses.contrastive import sigmoid_loss, softmax_contrastive_loss
from diptych.core.training.objectives import Loss
from diptych.core.training.recipe import Recipe
from diptych.engine.training.terms.stage_term import StageTerm


class Contrastive(StageTerm):
    """Image i against text j, for all i and j of a batch.

    Where a batch brings several captions of each image, the loss is the mean over them: caption k of an image is
    contrasted with caption k of the others, never with another caption of its own image.

    Args:
        pair_loss: called as `loss(image_embeddings, text_embeddings, logit_scale=, logit_bias=)`, without the bias for
            a model that has none; the place where a faster implementation enters.
        distributed: see `Term`.
    """

    pooled_alone = True

    def __init__(self, pair_loss: Callable = sigmoid_loss, *, distributed: bool = False):
        self.pair_loss, self.distributed = pair_loss, distributed

    @classmethod
    def build(cls, recipe, planned, teacher, placement):
        """With the loss that the recipe names, by the implementation that it names, or that fits.

        Where a step knows a part of the batch it is the one that meets the texts of all parts.
        """
        options = {"implementation": implementation_name(recipe), "dtype": embeddings_dtype(recipe.model.precision)}
        parts = placement.processes * (1 if backends.name() == "jax" else placement.devices)
        alone = parts == 1
        if not alone and backends.name() != "jax":
            # Each part knows its own examples alone, and the step takes the mean of the parts' gradients.
            options["gradients"] = "mean"
        if recipe.optimization.loss == "softmax":
            loss = backends.softmax_contrastive_loss if alone else backends.distributed_softmax_contrastive_loss
            return cls(partial(softmax_loss, loss=partial(loss, **options)), distributed=not alone)
        loss = backends.sigmoid_loss if alone else backends.distributed_sigmoid_loss
        return cls(partial(loss, **options), distributed=not alone)

    def embed(self, seen):
        """-> image `[n, dim]`, text `[n, captions, dim]`, L2-normalised."""
        image, text = seen.model.pair_logits(seen.image["pooled"], seen.text["pooled"])
        return {"image": image, "text": seen.captions.by_image(text)}

    def loss(self, model, embedded):
        image, text = embedded["image"], embedded["text"]
        scalars = {"logit_scale": model.logit_scale}
        if model.logit_bias is not None:
            scalars["logit_bias"] = model.logit_bias
        losses = [self.pair_loss(image, text[:, caption], **scalars) for caption in range(text.shape[1])]
        return Loss(sum(losses) / len(losses), scalars)

    @classmethod
    def flops(cls, recipe, planned, towers):
        return towers.pairs


def softmax_loss(
    image_embeddings, text_embeddings, *, logit_scale, logit_bias=None, loss: Callable = softmax_contrastive_loss
):
    """The softmax loss with the sigmoid loss's arguments; the bias, which changes no softmax, is not used."""
    return loss(image_embeddings, text_embeddings, logit_scale=logit_scale)


def implementation_name(recipe: Recipe) -> str:
    """The implementation of the loss that a recipe's embeddings meet: the one that it names, or that fits."""
    loss = "softmax_contrastive_loss" if recipe.optimization.loss == "softmax" else "sigmoid_loss"
    return backends.choose_implementation(
        recipe.run.loss_implementation, loss=loss, dtype=embeddings_dtype(recipe.model.precision)
    )


def embeddings_dtype(precision: str) -> str:
    """What embeddings enter the loss in: bfloat16 where that is faster, which no CPU is."""
    return "bfloat16" if precision == "bfloat16" and backends.device_name() else "float32"
