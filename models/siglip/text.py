"""Text transformer of SigLIP: bidirectional, no masks, pooled at the last position (big_vision `text_transformer.py`).

The SigLIP 2 paper speaks of MAP pooling for both towers; its released checkpoints read the last position, which for
short texts is padding that attends to the words. `pooling="last"` is what those checkpoints need.
"""

from collections.abc import Mapping
from dataclasses import asdict

import keras

from diptych.models.parts.embeddings import embedded_tokens
from diptych.models.siglip.config import TextConfig
from diptych.models.siglip.trunk import through_trunk, trunk
from diptych.models.tower import Tower, policy_of


@keras.saving.register_keras_serializable("diptych")
class TextTransformer(Tower):
    """Token ids -> {"pooled": [batch, output_width], "tokens": [batch, context_length, width]}.

    Args:
        config: a `TextConfig` (or the dictionary of its fields).
        seed, dtype, rematerialize, name: as for `VisionTransformer`.

    Input: int32 [batch, context_length], always padded to the full length: there is no mask, and padding takes part.
    """

    def __init__(
        self,
        config: TextConfig | Mapping,
        *,
        seed: int = 0,
        dtype: str | None = None,
        rematerialize: bool = False,
        name: str = "text",
    ):
        config = config if isinstance(config, TextConfig) else TextConfig(**config)
        policy = policy_of(dtype)
        path = f"{seed}/{name}"
        ids = keras.Input((config.context_length,), dtype="int32", name="token_ids")

        with keras.name_scope(name):
            x = embedded_tokens(ids, vocab_size=config.vocab_size, width=config.width, path=path, dtype=policy)
            layers = trunk(config, path=path, dtype=policy, rematerialize=rematerialize)
            outputs = through_trunk(layers.__getitem__, config, x)

        super().__init__(inputs=ids, outputs=outputs, name=name)
        self.remember(config=asdict(config), seed=seed, dtype=policy.name, rematerialize=rematerialize)
