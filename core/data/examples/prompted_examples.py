"""Training examples of a model that is asked: pictures, a prompt and its answer, of which the answer alone counts."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from diptych.core.data.bad_example import BadExample
from diptych.core.data.batch import ArrayField
from diptych.core.data.examples.preprocess import IMAGE, SEVERAL_IMAGES
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
        pictures: of an example. Of several, all are needed; where there is one, it is one of the record's.
    """

    pixels: FixedSize
    tokenizer_path: str
    context_length: int
    prompt: str = f"caption {LANGUAGE}"
    pictures: int = 1

    @property
    def declared(self) -> Mapping[str, ArrayField]:
        """The fields of a batch."""
        return {
            "image": IMAGE if self.pictures == 1 else SEVERAL_IMAGES,
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
        image = self.image(record, source, record.images.index(reference), left_out)
        if left_out is not None:
            left_out += record.caption_parts.left_out
        fields = {name: x[0] for name, x in texts.items()}
        return {
            "image": image,
            **fields,
            "token_weights": fields["suffix_mask"].astype(np.float32),
        }, answer.language

    def prompt_of(self, record: Record, language: str) -> str:
        """What is asked about a record, where the answer is in a language."""
        known = "en" if language == UNKNOWN_LANGUAGE else language
        return record.prompt or self.prompt.replace(LANGUAGE, known)

    def image(
        self, record: Record, source: Source, first: int = 0, left_out: list[LeftOut] | None = None
    ) -> np.ndarray:
        """A record's picture, uint8 [height, width, 3], that at `first` if it can be used; of several all of them,
        [pictures, height, width, 3].

        Raises:
            BadExample: for a picture that cannot be used, and image_count for a record with another number of them.
        """
        if self.pictures == 1:
            return self.picture(usable(pixels_of, source, record, first, left_out=left_out))
        if len(record.images) != self.pictures:
            raise BadExample("image_count", f"{len(record.images)} pictures, and examples have {self.pictures}")
        return np.stack([self.picture(pixels_of(source, reference)) for reference in record.images])

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
        used += f" {self.pictures}" if self.pictures > 1 else ""
        return hashlib.sha256(used.encode()).hexdigest()


@lru_cache(maxsize=8)
def _processor(pixels: FixedSize, path: str) -> PaliGemmaProcessor:
    file = vocabulary_file(Path(path)) if Path(path).is_dir() else Path(path)
    return PaliGemmaProcessor(pixels=pixels, tokenizer=open_tokenizer(file, lower_case=False))
