"""The start of a model that answers a task: a GPT's checkpoint with special tokens, or fresh weights of a size."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from diptych.core.data.text_tasks.layouts import SPECIAL_TOKENS
from diptych.core.data.tokenizers.gpt_bpe import GptTokenizer
from diptych.core.training import checkpoint as saved
from diptych.core.training.recipe import Recipe
from diptych.core.weights.hub import preset_folder
from diptych.engine.training.start import Start
from diptych.models import GPTConfig, GPTDoubleHeadsConfig
from diptych.models.checkpoints import Checkpoint, read_checkpoint, stored_values
from diptych.models.gpt.decoder import STDDEV
from diptych.models.gpt.presets import PRESETS
from diptych.models.parts.initializers import Normal
from diptych.models.pretrained import build_model, trained_preset

TOKEN_TABLE = "decoder/token_embedding/embedding"


@dataclass(frozen=True, kw_only=True)
class AnsweringStart(Start):
    """What such a model begins from.

    Attributes:
        config: of a `GPT`, as it lies there, without special tokens; or of a `GPTDoubleHeads` that has them.
        preset: as it was given; None for fresh weights of `size`.
        found: what lies there.
        vocabulary_folder: of the model's vocabulary; None for a fresh model whose vocabulary is yet to be learned.
        seed: of the rows of special tokens.
        transfer_layers: how many blocks begin as the checkpoint's; None for all.
    """

    preset: str | None = None
    found: Checkpoint | None = None
    vocabulary_folder: Path | None = None
    seed: int = 0
    transfer_layers: int | None = None

    @property
    def pretrained(self) -> bool:
        return self.found is not None

    @property
    def folder(self) -> Path | None:
        return None

    @property
    def name(self) -> str:
        return self.preset or self.size

    @property
    def decoder(self) -> GPTConfig:
        """Of the decoder, its special tokens included."""
        own = self.config
        if isinstance(own, GPTDoubleHeadsConfig):
            return own.decoder
        return replace(own, vocab_size=own.vocab_size + len(SPECIAL_TOKENS))

    def weights(self) -> saved.Checkpoint:
        """The checkpoint's, with rows for the special tokens; without the blocks, and the head, that begin anew."""
        if self.found is None:
            return super().weights()
        return saved.Checkpoint(step=0, groups={"weights": dict(self._carried(self.found)), "optimizer": {}}, state={})

    def _carried(self, found: Checkpoint) -> Iterator[tuple[str, np.ndarray]]:
        missing = self.decoder.vocab_size - getattr(self.config, "decoder", self.config).vocab_size
        kept = self.decoder.depth if self.transfer_layers is None else self.transfer_layers
        left = tuple(f"decoder/block_{number:02d}/" for number in range(kept, self.decoder.depth))
        for path, value in stored_values(self.name, found, build_model):
            if path.startswith(("classifier/", *left)):
                continue
            if path == TOKEN_TABLE and missing:
                drawn = Normal(stddev=STDDEV, seed=f"{self.seed}/special_tokens").draw((missing, value.shape[1]))
                value = np.concatenate([value, drawn.astype(value.dtype)])
            yield path, value


def start_of(recipe: Recipe) -> AnsweringStart:
    """What a recipe begins from.

    Raises:
        FileNotFoundError, ValueError, HubError: for a checkpoint that is not there, is of another model, or has no
            vocabulary, or one that is not of its table's rows; and for a size that is none of a GPT.
    """
    model, options = recipe.model, recipe.answering
    if model.pretrained is None:
        if model.model not in PRESETS:
            raise ValueError(f"There is no GPT of the size {model.model!r}; there are {', '.join(PRESETS)}.")
        if options.transfer_layers is not None:
            raise ValueError("--transfer-layers counts blocks of a checkpoint, and there is none: give --pretrained.")
        config: Any = PRESETS[model.model]
        return AnsweringStart(
            size=model.model, config=config, vocabulary_folder=recipe.data.tokenizer, seed=recipe.run.seed
        )
    folder = preset_folder(trained_preset(model.pretrained))
    found = read_checkpoint(folder)
    own: Any = found.config
    if not isinstance(own, GPTConfig | GPTDoubleHeadsConfig):
        raise ValueError(f"--pretrained {model.pretrained} is a {own.describes}, expected a GPT.")
    start = AnsweringStart(
        size=model.model,
        config=own,  # type: ignore[arg-type]
        preset=model.pretrained,
        found=found,
        vocabulary_folder=recipe.data.tokenizer or (folder if folder.is_dir() else folder.parent),
        seed=recipe.run.seed,
        transfer_layers=options.transfer_layers,
    )
    _check(recipe, start)
    return start


def _check(recipe: Recipe, start: AnsweringStart) -> None:
    try:
        vocabulary = GptTokenizer.open(start.vocabulary_folder or "", way=recipe.answering.words)
    except FileNotFoundError as error:
        if recipe.data.tokenizer is not None:
            raise
        raise ValueError(
            f"--pretrained {start.name} brings no vocabulary ({error}). Give the one it was trained with by "
            "--tokenizer."
        ) from error
    rows = start.decoder.vocab_size - len(SPECIAL_TOKENS)
    if vocabulary.vocab_size != rows:
        raise ValueError(
            f"The vocabulary in {start.vocabulary_folder} has {vocabulary.vocab_size:,} entries, and the token table "
            f"of {start.name} {rows:,} rows: they do not belong together. Give the vocabulary that it was trained with "
            "by --tokenizer."
        )
    layers, depth = start.transfer_layers, start.decoder.depth
    if layers is not None and not 0 <= layers <= depth:
        raise ValueError(f"--transfer-layers is 0 to the {depth} blocks of {start.name}, got {layers}.")
