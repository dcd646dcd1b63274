"""The start of a model that answers a task: a GPT's checkpoint with special tokens, or fresh weights of a size."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from diptych.core.data.text_tasks.layouts import SPECIAL_TOKENS
from diptych.core.training import checkpoint as saved
from diptych.core.training.recipe import Recipe
from diptych.core.training.term_options import Language
from diptych.engine.training import language_task
from diptych.engine.training.checks import refuse_options
from diptych.engine.training.language_task import TextStart
from diptych.models import GPTConfig, GPTDoubleHeadsConfig
from diptych.models.gpt.decoder import STDDEV
from diptych.models.parts.initializers import Normal

TOKEN_TABLE = "decoder/token_embedding/embedding"
OF_WRITING = ((Language, "language", ("eval_data", "prompts", "sample_tokens")),)
"""Options of how a language model is judged, which a task's answers are not."""


@dataclass(frozen=True, kw_only=True)
class AnsweringStart(TextStart):
    """What such a model begins from.

    Attributes:
        config: of a `GPT`, as it lies there, without special tokens; or of a `GPTDoubleHeads` that has them.
        seed: of the rows of special tokens.
        transfer_layers: how many blocks begin as the checkpoint's; None for all.
    """

    seed: int = 0
    transfer_layers: int | None = None

    @property
    def decoder(self) -> GPTConfig:
        """Of the decoder, its special tokens included."""
        own: Any = self.config
        if isinstance(own, GPTDoubleHeadsConfig):
            return own.decoder
        return replace(own, vocab_size=own.vocab_size + len(SPECIAL_TOKENS))

    def weights(self) -> saved.Checkpoint:
        """The checkpoint's, with rows for the special tokens; without the blocks, and the head, that begin anew."""
        found = super().weights()
        return replace(found, groups=dict(found.groups) | {"weights": dict(self._carried(found.groups["weights"]))})

    def _carried(self, weights: Any) -> Iterator[tuple[str, np.ndarray]]:
        kept = self.decoder.depth if self.transfer_layers is None else self.transfer_layers
        left = tuple(f"decoder/block_{number:02d}/" for number in range(kept, self.decoder.depth))
        for path, value in weights.items():
            if path.startswith(("classifier/", *left)):
                continue
            if path == TOKEN_TABLE and (missing := self.decoder.vocab_size - len(value)):
                drawn = Normal(stddev=STDDEV, seed=f"{self.seed}/special_tokens").draw((missing, value.shape[1]))
                value = np.concatenate([value, drawn.astype(value.dtype)])
            yield path, value


def start_of(recipe: Recipe) -> AnsweringStart:
    """What a recipe begins from.

    Raises:
        FileNotFoundError, ValueError, HubError: as `language_task.start_of`, and for more layers than a checkpoint has.
    """
    refuse_options(recipe, OF_WRITING, "is for language models, and a task is judged by its answers")
    found = language_task.start_of(recipe, (GPTConfig, GPTDoubleHeadsConfig))
    layers = recipe.answering.transfer_layers
    start = AnsweringStart(
        size=found.size, config=found.config, origin=found.origin, seed=recipe.run.seed, transfer_layers=layers
    )
    if layers is not None and start.origin is None:
        raise ValueError("--transfer-layers counts blocks of a checkpoint, and there is none: give --pretrained.")
    if layers is not None and not 0 <= layers <= start.decoder.depth:
        raise ValueError(f"--transfer-layers is 0 to the {start.decoder.depth} blocks of {start.name}, got {layers}.")
    return start
