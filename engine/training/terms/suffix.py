"""Suffix term: how surprising an answer's tokens are after pictures and prompt (Beyer et al. 2024, section 3.2)."""

from keras import ops

from diptych import backends
from diptych.core.losses.products import Product, float32_product
from diptych.core.training.objectives import Loss
from diptych.engine.training.terms.language import Language


class Suffix(Language):
    """The cross-entropy of an answer's tokens and its end; prompts and padding have the weight 0.

    A batch has what the model takes (`core.data.examples.prompted_examples`) and "token_weights".

    Args:
        product, label_smoothing: see `Language`.
        by_token: whether each token of a batch weighs the same, as transformers trains, so that a long answer counts
            more than a short one; otherwise each example does, whatever its length, as big_vision trains.
    """

    def __init__(self, product: Product = float32_product, *, label_smoothing: float = 0.0, by_token: bool = False):
        super().__init__(product, label_smoothing=label_smoothing)
        self.independent = not by_token

    @classmethod
    def build(cls, recipe, planned, teacher, placement):
        options = recipe.prompted
        return cls(
            backends.product(recipe.model.precision),
            label_smoothing=options.label_smoothing,
            by_token=options.mean_over == "tokens",
        )

    @classmethod
    def activation_bytes(cls, recipe, planned, rows):
        """None beside those of the model, whose count has the logits of a chunk."""
        return 0.0

    def embed(self, seen):
        """-> the loss of each example, float32 `[n]`; by token, the sum of its tokens' and their number, `[n]` each."""
        if self.independent:
            return super().embed(seen)
        losses, weights = self.token_losses(seen)
        weights = ops.cast(weights, "float32")
        return {"sums": ops.sum(losses * weights, axis=1), "counts": ops.sum(weights, axis=1)}

    def loss(self, model, embedded):
        if self.independent:
            return super().loss(model, embedded)
        return Loss(ops.sum(embedded["sums"]) / ops.maximum(ops.sum(embedded["counts"]), 1.0))
