"""Windows: stretches of so many tokens, one behind the other, as records that a loader takes in any order."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar

import numpy as np

from diptych.core.data.batch import ArrayField
from diptych.core.data.examples.text_fields import DROPOUT_SEEDS, TOKEN_IDS, TOKEN_WEIGHTS
from diptych.core.data.ledger import Ledger
from diptych.core.data.records import UNKNOWN_LANGUAGE, LeftOut, Record, Source
from diptych.core.data.sampling import Order, Part, Place
from diptych.core.data.texts.token_store import TokenStore
from diptych.core.data.tokenizers.gpt_bpe import GptTokenizer
from diptych.core.data.tokenizers.gpt_words import Way


class Windows:
    """The windows of `length` tokens that fill a store, without a rest at its end; documents follow each other.

    Args:
        ledger: of the documents that the store was made from.

    Raises:
        ValueError: for a store of less than a window.
    """

    def __init__(self, store: TokenStore, length: int, ledger: Ledger | None = None):
        if len(store) < length:
            raise ValueError(
                f"The texts have {len(store):,} tokens, which is less than a window of {length:,}: give more text, or "
                "a smaller --context-length."
            )
        self.store, self.length = store, length
        self.ledger = ledger or Ledger("", len(self))

    def __len__(self) -> int:
        return len(self.store) // self.length

    @property
    def rest(self) -> int:
        """Tokens at the end that fill no window."""
        return len(self.store) % self.length

    def record_name(self, index: int) -> str:
        """What a window is called."""
        return f"tokens {index * self.length:,} to {(index + 1) * self.length - 1:,}"

    def record(self, index: int) -> Record:
        """A window, whose one reference is its number."""
        return Record(key=self.record_name(index), images=(index,), captions=())

    def read(self, reference: Any) -> bytes:
        """The tokens of a window, int32 [length], as bytes."""
        return self.store.ids(reference * self.length, (reference + 1) * self.length).tobytes()

    def fingerprint(self) -> str:
        """A hash of tokens and length."""
        return hashlib.sha256(f"{self.store.fingerprint()} {self.length}".encode()).hexdigest()


@dataclass(frozen=True, kw_only=True)
class WindowExamples:
    """How windows become examples (`core.data.examples.preprocessing.Preprocessing`): each token but the first counts.

    Attributes:
        context_length: tokens of a window.
        tokenizer_path: a folder that `GptTokenizer.open` reads; "" for a plan, which makes no example.
        way: see there.
        dropout: whether something is left out in training, for which each example has a seed.
    """

    context_length: int
    tokenizer_path: str
    way: Way | None = None
    dropout: bool = True
    normalization: ClassVar[None] = None

    @property
    def declared(self) -> Mapping[str, ArrayField]:
        """The fields of a batch."""
        fields = {"token_ids": TOKEN_IDS, "token_weights": TOKEN_WEIGHTS}
        return {**fields, "dropout_seeds": DROPOUT_SEEDS} if self.dropout else fields

    def __call__(
        self, record: Record, source: Source, place: Place, left_out: list[LeftOut] | None = None
    ) -> tuple[dict[str, np.ndarray], str]:
        """The fields of a window, and that its language is not known."""
        ids = np.frombuffer(source.read(record.images[0]), np.int32)
        fields = {"token_ids": ids, "token_weights": np.ones(len(ids), np.float32)}
        if self.dropout:
            seed = place.rng(Part.DROPOUT).integers(-(2**31), 2**31, dtype=np.int32)
            fields["dropout_seeds"] = np.asarray(seed, np.int32)
        return fields, UNKNOWN_LANGUAGE

    def check_batch_size(self, batch_size: int) -> None:
        """Batches of any size will do."""

    def pieces(self, order: Order, batch: int) -> int:
        """One."""
        return 1

    def fingerprint(self) -> str:
        """A hash of everything that decides what an example looks like."""
        used = f"{self.context_length} {self.words.fingerprint()} {self.dropout}"
        return hashlib.sha256(used.encode()).hexdigest()

    @property
    def words(self) -> GptTokenizer:
        """The tokenizer, opened once a process."""
        return _opened(self.tokenizer_path, self.way)


@lru_cache(maxsize=8)
def _opened(path: str, way: Way | None) -> GptTokenizer:
    return GptTokenizer.open(path, way=way)
