"""From a record to one training example: which image and caption, their pixels and their tokens."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from diptych.core.data.augmentation import Augmentation
from diptych.core.data.cache import CachedSource
from diptych.core.data.image import ResizeMethod, decode, resize
from diptych.core.data.records import Record, Source
from diptych.core.data.sampling import draw
from diptych.core.data.text import Tokenizer, clean_caption

_LONGEST_REMEMBERED = 256  # characters; longer captions are too many and too big to be worth the memory


@dataclass(frozen=True, kw_only=True)
class Preprocess:
    """How examples are made; it holds settings only, so it travels to worker processes.

    image_size: side of the square images.   context_length: tokens per caption, end-of-text included.
    tokenizer_path: a SentencePiece .model or a tokenizer.json.   augmentation: random changes, None for none.
    language_weights: see `sampling.draw`.   resize_method: see `image.resize`.
    captions: captions drawn for each image; more than one give tokens [captions, context_length].
    opening_examples: length of an opening in which each image comes with one caption in `opening_language` alone. Towers learn
    what pictures mean faster from one language, and the other languages then find their place.
    """

    image_size: int
    context_length: int
    tokenizer_path: str | Path
    augmentation: Augmentation | None = None
    language_weights: Mapping[str, float] | None = None
    resize_method: ResizeMethod = "bilinear_antialias"
    captions: int = 1
    opening_examples: int = 0
    opening_language: str = "en"

    def __post_init__(self):
        if self.captions < 1 or self.opening_examples < 0:
            raise ValueError(
                f"captions must be 1 or more and opening_examples 0 or more, got {self.captions}, {self.opening_examples}"
            )
        if self.image_size < 1 or self.context_length < 1:
            raise ValueError(
                f"image_size and context_length must be 1 or more, got {self.image_size}, {self.context_length}"
            )
        weights = (self.language_weights or {"": 1.0}).values()
        if min(weights) < 0 or not sum(weights):
            raise ValueError(f"language_weights must be 0 or more, and one above 0, got {self.language_weights}")

    def __call__(
        self, record: Record, source: Source, rng: np.random.Generator, position: int | None = None
    ) -> tuple[np.ndarray, np.ndarray, str]:
        """Image uint8 [image_size, image_size, 3], tokens int32 [context_length], and the (first) caption's language.

        `position` is the global index of the batch's first example, by which all of a batch is in the opening or none.
        """
        opening = position is not None and position < self.opening_examples
        weights = {self.opening_language: 1.0} if opening else self.language_weights
        reference, caption = draw(record, rng, weights)
        tokens = self.tokens(caption.text)
        if self.captions > 1:
            others = [] if opening else [draw(record, rng, weights)[1] for _ in range(1, self.captions)]
            tokens = np.stack([tokens, *(self.tokens(other.text) for other in others)])
        pixels = source.pixels(reference) if isinstance(source, CachedSource) else decode(source.read(reference))
        return self.image(pixels, rng), tokens, caption.language

    def image(self, pixels: np.ndarray, rng: np.random.Generator | None = None) -> np.ndarray:
        """A decoded picture as models take it, uint8 [image_size, image_size, 3]; augmented only if `rng` is given."""
        if self.augmentation is None or rng is None:
            return resize(pixels, self.image_size, method=self.resize_method)
        return self.augmentation(pixels, rng, self.image_size)

    def tokens(self, text: str) -> np.ndarray:
        """Token ids of a caption, int32 [context_length]; do not write into it."""
        if isinstance(text, str) and len(text) <= _LONGEST_REMEMBERED:
            return _remembered_tokens(str(self.tokenizer_path), self.context_length, text)
        return self.tokenizer.encode(clean_caption(text), self.context_length)

    @property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer of `tokenizer_path`, opened once a process."""
        return _open_tokenizer(str(self.tokenizer_path))

    def fingerprint(self) -> str:
        """A hash of everything that decides what an example looks like."""
        weights = sorted(self.language_weights.items()) if self.language_weights else None
        opening = (self.opening_examples, self.opening_language)
        settings = (
            self.image_size,
            self.context_length,
            self.resize_method,
            self.augmentation,
            weights,
            self.captions,
            opening,
        )
        return hashlib.sha256(f"{settings} {self.tokenizer.fingerprint()}".encode()).hexdigest()


@lru_cache(maxsize=8)
def _open_tokenizer(path: str) -> Tokenizer:
    return Tokenizer.from_file(path)


@lru_cache(maxsize=131_072)
def _remembered_tokens(tokenizer_path: str, context_length: int, text: str) -> np.ndarray:
    tokens = _open_tokenizer(tokenizer_path).encode(clean_caption(text), context_length)
    tokens.flags.writeable = False
    return tokens
