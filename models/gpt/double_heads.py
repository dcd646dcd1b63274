"""GPT-1 with a second head that answers a task (Radford et al. 2018, section 3.2; OpenAI's `train.py`).

Notable features: a linear head, without activation or norm, on the state at the extract token, the last of a sequence;
the sequences of an example share the dropout mask of what the head reads. Of several sequences the states are added
(similarity), or each is a choice and the softmax is over the choices.
"""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import keras
from keras import ops

from diptych.models.gpt.decoder import STDDEV, GPTDecoder
from diptych.models.gpt.double_heads_config import GPTDoubleHeadsConfig
from diptych.models.gpt.model import predicting_of
from diptych.models.language_model import TextPredictor
from diptych.models.parts.dropout import drop
from diptych.models.parts.initializers import Normal
from diptych.models.tower import policy_of


@keras.saving.register_keras_serializable("diptych")
class TaskHead(keras.layers.Layer):
    """Features `[batch, sequences, length, width]` and extract int32 `[batch, sequences]` -> float32 logits
    `[batch, answers]`.

    Args:
        config: a `GPTDoubleHeadsConfig` (or the dictionary of its fields).
        seed: begins the name of the kernel's random stream.
    """

    def __init__(self, config: GPTDoubleHeadsConfig | Mapping, *, seed: str = "0/classifier", **kwargs):
        super().__init__(dtype="float32", **{name: value for name, value in kwargs.items() if name != "dtype"})
        self.config = config if isinstance(config, GPTDoubleHeadsConfig) else GPTDoubleHeadsConfig(**config)
        self.seed = seed

    def build(self, features_shape, extract_shape=None):
        outputs = self.config.head_outputs
        self.kernel = self.add_weight(
            name="kernel",
            shape=(self.config.decoder.width, outputs),
            initializer=Normal(stddev=STDDEV, seed=f"{self.seed}/kernel"),
        )
        self.bias = self.add_weight(name="bias", shape=(outputs,), initializer="zeros")

    def call(self, features, extract, dropout_seeds=None):
        places = ops.cast(extract, "int32")[:, :, None, None]
        states = ops.take_along_axis(features, places, axis=2)[:, :, 0]
        states = ops.cast(states, "float32")
        if not self.config.task.choices:
            states = ops.sum(states, axis=1, keepdims=True)
        if dropout_seeds is not None:
            kept = ops.ones((states.shape[0], 1, states.shape[-1]), "float32")
            states = states * drop(kept, dropout_seeds, rate=self.config.head_dropout, place=self.name)
        logits = ops.matmul(states, ops.cast(self.kernel, "float32")) + self.bias
        return logits[:, :, 0] if self.config.task.choices else logits[:, 0]

    def compute_output_shape(self, features_shape, extract_shape=None, *_):
        return features_shape[0], self.config.task.outputs

    def get_config(self):
        return {**super().get_config(), "config": asdict(self.config), "seed": self.seed}


@keras.saving.register_keras_serializable("diptych")
class GPTDoubleHeads(TextPredictor):
    """{"token_ids": int32 `[batch, sequences, length]`, "extract": int32 `[batch, sequences]`} -> float32 logits
    `[batch, answers]`.

    >>> model = GPTDoubleHeads.from_preset("runs/gpt1_finetune/model")
    >>> logits = model({"token_ids": token_ids, "extract": extract})

    `diptych.core.data.text_tasks.sequences` makes both of texts; "extract" is the place of each sequence's last token.

    Args:
        config: a `GPTDoubleHeadsConfig` (or the dictionary of its fields).
        seed: of the initial weights; the same on every backend.
        dtype: Keras dtype policy; with "mixed_bfloat16" weights, lookups and logits stay float32.
        rematerialize: trade one more forward pass for the memory of the blocks' activations.

    Reads and writes diptych's own folders. `GPT.from_preset` reads the language model that it began from.
    """

    config_class = GPTDoubleHeadsConfig

    def __init__(
        self,
        config: GPTDoubleHeadsConfig | Mapping,
        *,
        seed: int = 0,
        dtype: str | None = None,
        rematerialize: bool = False,
        name: str = "gpt_double_heads",
    ):
        config = config if isinstance(config, GPTDoubleHeadsConfig) else GPTDoubleHeadsConfig(**config)
        ids = keras.Input((None, None), dtype="int32", name="token_ids")
        extract = keras.Input((None,), dtype="int32", name="extract")
        policy = policy_of(dtype)
        # The name that the decoder's random streams have in a GPT: one seed gives both the same weights.
        stream = f"{seed}/gpt/decoder"
        decoder = GPTDecoder(config.decoder, rematerialize=rematerialize, seed=stream, dtype=policy, name="decoder")
        head = TaskHead(config, seed=f"{seed}/{name}/classifier", name="classifier")
        super().__init__(inputs={"token_ids": ids, "extract": extract}, outputs=head(decoder(ids), extract), name=name)
        self.config, self.decoder, self.head = config, decoder, head
        self.remember(config=asdict(config), seed=seed, dtype=policy.name, rematerialize=rematerialize)

    def predicting(self, texts: Mapping[str, Any]):
        """See `TextPredictor.predicting`; texts are sequences, one list of those of all examples."""
        return predicting_of(self.decoder, texts)

    def save_to_preset(self, folder, *, format: str = "diptych", dtype: str | None = None) -> None:
        """Writes configuration and weights; see `TextPredictor.save_to_preset`. The only layout is diptych's own."""
        super().save_to_preset(folder, format=format, dtype=dtype)
