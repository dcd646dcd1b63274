"""Gemma 1 and 2 (Mesnard et al. 2024, Rivière et al. 2024) as language models.

Notable features: RMS norms whose weights are distances from one; fewer heads of keys and values than of queries; rotary
positions, halves paired; a gated MLP with the tanh form of GELU; no bias anywhere; the token table is the logits'
kernel. Gemma 2 has norms behind attention and MLP too, caps the scores of attention and the logits by tanh, and in each
second block sees no further than 4,096 tokens; each of these is a field of `GemmaConfig`.
"""

import keras
from keras import ops

from diptych.core.losses.language import next_token_losses
from diptych.core.losses.products import Product, capped_product, float32_product
from diptych.models.gemma.config import GemmaConfig
from diptych.models.gemma.decoder import GemmaDecoder
from diptych.models.language_model import LanguageModel, Predicting


@keras.saving.register_keras_serializable("diptych")
class Gemma(LanguageModel):
    """Token ids int32 `[batch, length]` -> {"tokens": features `[batch, length, width]`}; no logits, see `logits`.

    >>> model = Gemma.from_preset("hf://google/gemma-2-2b")  # or a folder; or a size, load_weights=False
    >>> features = model(token_ids)["tokens"]
    >>> losses = model.token_losses(token_ids)
    >>> model.generate([[2, 13072, 659]], steps=17)

    Texts begin with `<bos>`, 2, as in training. A plain call takes texts without padding, or padded behind their end,
    whose features nothing before them sees; padding in front is told apart by `features`.

    Args:
        config: a `GemmaConfig` (or the dictionary of its fields).
        seed: of the initial weights; the same on every backend.
        dtype: Keras dtype policy; with "mixed_bfloat16" weights and logits stay float32, with "bfloat16" the weights
            are what bfloat16 checkpoints hold, at half the memory.
        rematerialize: trade one more forward pass for the memory of the blocks' activations.

    Reads and writes folders of transformers (model_type gemma or gemma2) and of diptych. Sizes are those of
    `diptych.models.gemma.presets.PRESETS`.
    """

    config_class, decoder_class, default_name = GemmaConfig, GemmaDecoder, "gemma"

    def features(self, token_ids, token_mask=None):
        """`[batch, length, width]`, of which place j has seen the tokens 0 to j that count.

        Args:
            token_ids: int32 `[batch, length]`.
            token_mask: bool `[batch, length]`, False for padding, wherever it stands; None for no padding.
        """
        mask = None if token_mask is None else ops.convert_to_tensor(token_mask, "bool")
        return self.decoder(ops.convert_to_tensor(token_ids, "int32"), token_mask=mask)

    def logits(self, tokens):
        """Features `[..., width]` -> float32 logits `[..., predicted ids]` of the token behind each, capped if the
        configuration says so, all at once: for a token or two of each text.
        """
        return self.decoder.logits(tokens)

    def token_losses(
        self, token_ids, *, token_mask=None, tokens_per_chunk: int = 1024, product: Product = float32_product
    ):
        """`next_token_losses` of texts, float32 `[batch, length - 1]`; what is padded the caller leaves out.

        Args:
            token_ids, token_mask: of `features`.
            tokens_per_chunk, product: of `next_token_losses`.
        """
        token_ids = ops.convert_to_tensor(token_ids, "int32")
        return decoder_losses(self.decoder, self.features(token_ids, token_mask), token_ids, tokens_per_chunk, product)

    def predicting(self, texts):
        features = self.features(texts["token_ids"], texts.get("token_mask"))
        return Predicting(features, self.decoder.logits_kernel, self.decoder.config.logits_soft_cap)


def decoder_losses(decoder: GemmaDecoder, features, token_ids, tokens_per_chunk: int, product: Product):
    """`next_token_losses` of a decoder's features `[batch, length, width]`, float32 `[batch, length - 1]`."""
    cap = decoder.config.logits_soft_cap
    return next_token_losses(
        features,
        decoder.logits_kernel,
        token_ids,
        tokens_per_chunk=tokens_per_chunk,
        product=product if cap is None else capped_product(product, cap),
    )
