"""GPT-1 (Radford et al. 2018, "Improving Language Understanding by Generative Pre-Training"; OpenAI's `train.py`).

Notable features: a decoder of text with a norm behind each addition (post-LN) and none behind the last block; learned
positions; the token table is the logits' kernel, without a bias; everything drawn from N(0, 0.02²). OpenAI's code and
the ports differ in what the embedding's dropout is of and in what the softmax is over: `GPTConfig.dropout_on` and
`GPTConfig.predicts` are the switches, and say which is taken and why. A third difference changes nothing: scores of
later tokens become -1e9 there, -1e4 in transformers, and both are zero after the softmax, as here, where they are left
out. OpenAI's code has no mask for padding; as texts are padded behind their end, what is before it never sees it.
"""

from collections.abc import Mapping
from typing import Any

import keras
from keras import ops

from diptych.core.losses.language import next_token_losses
from diptych.core.losses.products import Product, float32_product
from diptych.models.decoding import in_precision
from diptych.models.gpt.config import GPTConfig
from diptych.models.gpt.decoder import GPTDecoder
from diptych.models.language_model import LanguageModel, Predicting


@keras.saving.register_keras_serializable("diptych")
class GPT(LanguageModel):
    """Token ids int32 `[batch, length]` -> {"tokens": features `[batch, length, width]`}; no logits, see `logits`.

    >>> model = GPT.from_preset("openai-gpt/")  # or "hf://owner/name"; or a size, load_weights=False
    >>> features = model(token_ids)["tokens"]
    >>> losses = model.token_losses(token_ids)
    >>> model.generate([[481, 4735, 544]], steps=17)

    Args:
        config: a `GPTConfig` (or the dictionary of its fields).
        seed: of the initial weights; the same on every backend.
        dtype: Keras dtype policy; with "mixed_bfloat16" weights, lookups and logits stay float32.
        rematerialize: trade one more forward pass for the memory of the blocks' activations.

    Dropout takes place where seeds are given, in `token_losses` and `decoder`; a plain call leaves nothing out.

    Reads folders of transformers (model_type "openai-gpt", with the names of any version and whatever head) and of
    diptych, and those with OpenAI's params_0.npy to params_9.npy and params_shapes.json; writes all three
    ("transformers", "diptych", "openai"). Sizes are "gpt1", "gpt1_small" and "gpt1_tiny".
    """

    config_class, decoder_class, default_name = GPTConfig, GPTDecoder, "gpt"

    @property
    def logits_kernel(self):
        """A float32 tensor `[width, predicted_rows]`."""
        return self.decoder.logits_kernel

    def logits(self, tokens):
        """Features `[..., width]` -> float32 logits `[..., predicted_rows]` of the token behind each, all at once: for
        a token or two of each text. Logits of tokens come first.
        """
        return ops.matmul(ops.cast(tokens, "float32"), self.logits_kernel)

    def hidden_states(self, token_ids) -> list:
        """Embeddings and what each block makes of them, depth + 1 times `[batch, length, width]`."""
        return in_precision(self.decoder.hidden_states, self.decoder)(ops.convert_to_tensor(token_ids, "int32"))

    def token_losses(
        self, token_ids, *, dropout_seeds=None, tokens_per_chunk: int = 1024, product: Product = float32_product
    ):
        """`next_token_losses` of texts, float32 `[batch, length - 1]`.

        Args:
            token_ids: int32 `[batch, length]`.
            dropout_seeds: int32 `[batch]`, of each example and step; None for nothing left out.
            tokens_per_chunk, product: of `next_token_losses`.
        """
        token_ids = ops.convert_to_tensor(token_ids, "int32")
        features, kernel, _ = self.predicting({"token_ids": token_ids, "dropout_seeds": dropout_seeds})
        return next_token_losses(features, kernel, token_ids, tokens_per_chunk=tokens_per_chunk, product=product)

    def predicting(self, texts):
        return predicting_of(self.decoder, texts)

    def generate(self, prompt_ids, *, steps: int, eos_id: int | None = None, **choices):
        """The next tokens of each text, int32 `[batch, steps]`; arguments of `continue_prompts`.

        GPT-1's own vocabulary has no end-of-text token, so that texts go on unless one is named.
        """
        return super().generate(prompt_ids, steps=steps, eos_id=eos_id, **choices)


def predicting_of(decoder: GPTDecoder, texts: Mapping[str, Any]) -> Predicting:
    """What predicts the tokens of texts by a decoder; see `TextPredictor.predicting`."""
    seeds = texts.get("dropout_seeds")
    if seeds is not None:
        seeds = ops.convert_to_tensor(seeds, "int32")
    of_texts = in_precision(decoder.features_and_kernel, decoder)
    return Predicting(*of_texts(ops.convert_to_tensor(texts["token_ids"], "int32"), seeds))
