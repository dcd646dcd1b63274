"""Training examples of a model that is asked: a picture, a prompt and its answer, of which the answer alone counts."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import ClassVar

import numpy as np

from diptych.core.data.batch import ArrayField
from diptych.core.data.examples.preprocess import IMAGE
from diptych.core.data.examples.text_fields import SUFFIX_MASK, TOKEN_IDS, TOKEN_MASK, TOKEN_WEIGHTS
from diptych.core.data.pixels import FixedSize, Normalization
from diptych.core.data.processor.prompted import PaliGemmaProcessor
from diptych.core.data.record_parts import usable
from diptych.core.data.records import UNKNOWN_LANGUAGE, LeftOut, Record, Source
from diptych.core.data.sampling import Order, Place, draw
from diptych.core.data.sources.cache import pixels_of
from diptych.core.data.tokenizers.open import open_tokenizer
from diptych.core.data.tokenizers.vocabularies import vocabulary_file

LANGUAGE = "{language}"
"""In a prompt, the language of the answer."""


@dataclass(frozen=True, kw_only=True)
class PromptedExamples:
    """How records become examples (`core.data.examples.preprocessing.Preprocessing`).

    An answer is one of the record's captions, drawn anew each time. One that does not fit behind its prompt is left out
    with its record, and counted: without its end it would teach a model not to stop.

    Attributes:
        pixels: how a picture becomes the square that the model takes.
        tokenizer_path: Gemma's vocabulary, of a file or a checkpoint's folder; "" for a plan, which makes no example.
        context_length: tokens of prompt and answer, with the marks around them.
        prompt: for records without one; "{language}" in it becomes the language of the answer.
    """

    pixels: FixedSize
    tokenizer_path: str
    context_length: int
    prompt: str = f"caption {LANGUAGE}"
    declared: ClassVar[Mapping[str, ArrayField]] = {
        "image": IMAGE,
        "token_ids": TOKEN_IDS,
        "token_mask": TOKEN_MASK,
        "suffix_mask": SUFFIX_MASK,
        "token_weights": TOKEN_WEIGHTS,
    }

    @property
    def normalization(self) -> Normalization:
        """What the model makes of the pixels, which leave here as bytes."""
        return self.pixels.normalization

    @property
    def processor(self) -> PaliGemmaProcessor:
        """What prepares pictures and prompts for the model, opened once a process."""
        return _processor(self.pixels, self.tokenizer_path)

    def __call__(
        self, record: Record, source: Source, place: Place, left_out: list[LeftOut] | None = None
    ) -> tuple[dict[str, np.ndarray], str]:
        """The fields of one example as `declared` has them, without the batch axis, and the answer's language."""
        reference, answer = draw(record, place.rng())
        texts = self.processor.texts(
            self.prompt_of(record, answer.language), answer.text.strip(), length=self.context_length
        )
        pixels = usable(pixels_of, source, record, record.images.index(reference), left_out=left_out)
        if left_out is not None:
            left_out += record.caption_parts.left_out
        fields = {name: x[0] for name, x in texts.items()}
        return {
            "image": self.picture(pixels),
            **fields,
            "token_weights": fields["suffix_mask"].astype(np.float32),
        }, answer.language

    def prompt_of(self, record: Record, language: str) -> str:
        """What is asked about a record, where the answer is in a language."""
        known = "en" if language == UNKNOWN_LANGUAGE else language
        return record.prompt or self.prompt.replace(LANGUAGE, known)

    def picture(self, pixels: np.ndarray) -> np.ndarray:
        """uint8 [height, width, 3], whatever way of resizing; what lies between two levels is cut to the lower, as
        big_vision trains.
        """
        return self.pixels.picture(pixels).astype(np.uint8)

    def check_batch_size(self, batch_size: int) -> None:
        """Batches of any size will do."""

    def pieces(self, order: Order, batch: int) -> int:
        """One."""
        return 1

    def fingerprint(self) -> str:
        """A hash of everything that decides what an example looks like."""
        used = f"prompted {self.processor.fingerprint()} {self.context_length} {self.prompt}"
        return hashlib.sha256(used.encode()).hexdigest()


@lru_cache(maxsize=8)
def _processor(pixels: FixedSize, path: str) -> PaliGemmaProcessor:
    file = vocabulary_file(Path(path)) if Path(path).is_dir() else Path(path)
    return PaliGemmaProcessor(pixels=pixels, tokenizer=open_tokenizer(file, lower_case=False))
