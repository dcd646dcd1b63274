"""Language term: how surprising each token of a text is after those before it (Radford et al. 2018, equation 1)."""

from keras import ops

from diptych import backends
from diptych.core.losses.captioning import captioning_loss, tokens_at_once
from diptych.core.losses.language import next_token_losses
from diptych.core.losses.products import Product, capped_product, float32_product
from diptych.core.training.objectives import Loss
from diptych.engine.training.terms.stage_term import StageTerm
from diptych.models.checkpoints import towers_of

_FLOAT32_BYTES = 4


class Language(StageTerm):
    """The cross-entropy of the next token: the mean over a text's tokens by their weights, then over all texts.

    A batch has "token_ids" and "token_weights", and what else the model takes, such as "dropout_seeds"
    (`core.data.examples.text_fields`). A text of which no token counts has a loss of 0.

    Args:
        product: how logits are computed.
        label_smoothing: of `core.losses.captioning.cross_entropy`.
    """

    independent = True

    def __init__(self, product: Product = float32_product, *, label_smoothing: float = 0.0):
        self.product, self.label_smoothing = product, label_smoothing

    @classmethod
    def build(cls, recipe, planned, teacher, placement):
        return cls(backends.product(recipe.model.precision))

    def embed(self, seen):
        """-> the loss of each text, float32 `[n]` or `[n, texts]`."""
        losses, weights = self.token_losses(seen)
        return {"losses": ops.reshape(captioning_loss(losses, weights), seen.batch["token_ids"].shape[:-1])}

    def token_losses(self, seen):
        """The losses of all tokens but the first, and their weights, float32 `[texts, length - 1]` each."""
        features, kernel, cap = seen.predicting
        ids, weights = seen.batch["token_ids"], seen.batch["token_weights"]
        product = self.product if cap is None else capped_product(self.product, cap)
        length = ids.shape[-1]
        losses = next_token_losses(
            features,
            kernel,
            ops.reshape(ids, (-1, length)),
            tokens_per_chunk=None,
            product=product,
            label_smoothing=self.label_smoothing,
        )
        return losses, ops.reshape(weights, (-1, length))[:, 1:]

    def loss(self, model, embedded):
        return Loss(ops.mean(embedded["losses"]))

    @classmethod
    def flops(cls, recipe, planned, towers):
        return towers.pairs

    @classmethod
    def activation_bytes(cls, recipe, planned, rows):
        """Of the logits that exist at a time, with their gradient."""
        decoder = towers_of(planned.config)["decoder"]
        tokens = min(rows * decoder.context_length, tokens_at_once(decoder.vocab_size))
        return 2 * tokens * decoder.vocab_size * _FLOAT32_BYTES
