"""Sequences of tokens, made once of all examples of a source, and the fields that a batch has of them."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np

from diptych.core.data.batch import ANY, ArrayField
from diptych.core.data.examples.text_fields import DROPOUT_SEEDS, TOKEN_IDS, TOKEN_WEIGHTS
from diptych.core.data.ledger import Ledger, leave_out, place_of, visit
from diptych.core.data.records import BadExample, LeftOut
from diptych.core.data.sampling import Order, Part, Place
from diptych.core.data.sources.keys import HASH_BITS, key_hash
from diptych.core.data.text_tasks.layouts import SpecialIds, sequences
from diptych.core.data.text_tasks.source import TextSource
from diptych.core.data.text_tasks.task import TextExample, TextTask

# fmt: off
EXTRACT = ArrayField(
    np.int32, (("batch", "texts"),), (0, ANY), "the place of each sequence's extract token, its last",
)
TARGET = ArrayField(
    np.float32, (("batch", "answers"),), (0, 1), "what the answers' probabilities should be; they add up to 1",
)
# fmt: on


class Tokenizes(Protocol):
    """A tokenizer of texts of any length, such as `GptTokenizer`."""

    vocab_size: int

    def ids(self, text: str) -> list[int]: ...
    def fingerprint(self) -> str: ...


class TokenSequences(NamedTuple):
    """An example as a model reads it: its sequences, and its target float32 [answers]."""

    key: str
    sequences: tuple[np.ndarray, ...]
    target: np.ndarray


class TokenizedTexts:
    """The examples of a source that can be used, as sequences of tokens.

    All texts are tokenized when this is made, because the longest sequence says how long all of a batch are. Examples
    that the task cannot use are counted in the source's ledger, and so are those whose texts were cut, as parts.

    Args:
        source: of the examples.
        tokenizer: of the model's vocabulary.
        length: of the longest sequence that the model can read; see `layouts.sequences`.
        progress: is told how many of how many examples are done.

    Attributes:
        examples: [examples], in the order of the source.
        longest: tokens of the longest sequence.

    Raises:
        TooManySkipped: see `core.data.ledger`.
        ValueError: where no example is left.
    """

    def __init__(
        self,
        source: TextSource,
        tokenizer: Tokenizes,
        *,
        length: int,
        progress: Callable[[int, int], None] = lambda done, of: None,
    ):
        self.source, self.task = source, source.task
        self._tokenized_as = f"{tokenizer.fingerprint()} {length}"
        special = SpecialIds.behind(tokenizer.vocab_size)
        self._places: list[int] = []
        self.examples: list[TokenSequences] = []

        def tokenized(example: TextExample) -> tuple[TextExample, TokenSequences, int]:
            return example, *token_sequences(source.task, example, tokenizer, special, length=length)

        for index, (example, made, cut) in visit(source, tokenized):  # type: ignore[arg-type]
            if cut:
                leave_out(source, index, example, [LeftOut("its texts", "text_cut", f"{cut} tokens")])  # type: ignore[arg-type]
            self.examples.append(made)
            self._places.append(index)
            progress(index + 1, len(source))
        if not self.examples:
            raise ValueError(f"No example of {source.name} can be used for the task {source.task.name}.")
        self.longest = max(len(ids) for example in self.examples for ids in example.sequences)

    def __len__(self) -> int:
        return len(self.examples)

    def record(self, index: int) -> TokenSequences:
        """The example at a place."""
        return self.examples[index]

    def record_name(self, index: int) -> str:
        """What the source calls it."""
        return self.source.record_name(self._places[index])

    def record_place(self, index: int) -> int:
        """Where it lies in the source that keeps the ledger."""
        return place_of(self.source, self._places[index])

    @property
    def ledger(self) -> Ledger:
        """The source's own."""
        return self.source.ledger

    def text_example(self, index: int) -> TextExample:
        """The example's texts."""
        return self.source.record(self._places[index])

    def fingerprint(self) -> str:
        """Of the source, and of how it is tokenized."""
        return hashlib.sha256(f"{self.source.fingerprint()} {self._tokenized_as}".encode()).hexdigest()

    def split(self, fraction: float) -> tuple["TokenizedTexts", "TokenizedTexts"]:
        """(the others, those whose key hashes below `fraction`): an example stays where it is when others come."""
        shares = [key_hash(example.key) / 2**HASH_BITS for example in self.examples]
        held_out = [place for place, share in enumerate(shares) if share < fraction]
        return self.part([place for place, share in enumerate(shares) if share >= fraction]), self.part(held_out)

    def part(self, places: Sequence[int]) -> "TokenizedTexts":
        """The examples at some places alone."""
        part = object.__new__(TokenizedTexts)
        part.__dict__ |= self.__dict__
        part.examples = [self.examples[place] for place in places]
        part._places = [self._places[place] for place in places]
        part._tokenized_as += hashlib.sha256(np.asarray(places, "<i8").tobytes()).hexdigest()
        return part


def token_sequences(
    task: TextTask, example: TextExample, tokenizer: Tokenizes, special: SpecialIds, *, length: int
) -> tuple[TokenSequences, int]:
    """An example as a model reads it, and how many tokens were cut; raises `BadExample` (text_empty, for texts that
    leave no token, and those of `TextTask.target`).
    """
    texts, answers = [[tokenizer.ids(text) for text in some] for some in (example.texts, example.answers)]
    if not all([*texts, *answers]):
        raise BadExample("text_empty", "nothing of a text is left when it is cut into tokens")
    ids, cut = sequences(task.layout, texts, answers, special, length=length)
    arrays = tuple(np.array(one, np.int32) for one in ids)
    return TokenSequences(example.key, arrays, task.target(example.label)), cut


@dataclass(frozen=True, kw_only=True)
class SequenceFields:
    """How an example becomes the rows of a batch.

    Attributes:
        length: of all sequences, those that are shorter being padded behind their end.
        vocabulary: of the tokens, for whoever saves the model; worker processes are not given it.
    """

    length: int
    vocabulary: Any = None

    normalization = None

    @property
    def declared(self) -> Mapping[str, ArrayField]:
        """The fields of a batch."""
        return {
            "token_ids": TOKEN_IDS,
            "token_weights": TOKEN_WEIGHTS,
            "extract": EXTRACT,
            "target": TARGET,
            "dropout_seeds": DROPOUT_SEEDS,
        }

    def __call__(
        self, record: Any, source: Any, place: Place, left_out: list[LeftOut] | None = None
    ) -> tuple[dict[str, np.ndarray], str]:
        """The fields of one example, each without its batch axis, and no language."""
        fields = {name: array[0] for name, array in sequence_fields([record], self.length).items()}
        seeds = place.rng(Part.OWN).integers(-(2**31), 2**31, len(record.sequences), dtype=np.int64)
        return fields | {"dropout_seeds": seeds.astype(np.int32)}, ""

    def check_batch_size(self, batch_size: int) -> None:
        """Batches of any size will do."""

    def pieces(self, order: Order, batch: int) -> int:
        """A batch is one step."""
        return 1

    def fingerprint(self) -> str:
        """Of everything that decides what an example looks like, beside its tokens."""
        return f"sequences of {self.length}"

    def __getstate__(self) -> dict:
        return self.__dict__ | {"vocabulary": None}


def sequence_fields(examples: Sequence[TokenSequences], length: int) -> dict[str, np.ndarray]:
    """The fields of some examples but for what training draws at random.

    Each token behind the first counts in the language model's loss, the delimiter and the extract token too, as in the
    released code.
    """
    token_ids = np.zeros((len(examples), len(examples[0].sequences), length), np.int32)
    extract = np.zeros(token_ids.shape[:2], np.int32)
    for row, example in enumerate(examples):
        for number, ids in enumerate(example.sequences):
            token_ids[row, number, : len(ids)] = ids
            extract[row, number] = len(ids) - 1
    weights = (np.arange(length) <= extract[:, :, None]).astype(np.float32)
    target = np.stack([one.target for one in examples])
    return {"token_ids": token_ids, "token_weights": weights, "extract": extract, "target": target}
