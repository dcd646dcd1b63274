"""The four ways in which a task's texts become sequences of tokens (Radford et al. 2018, section 3.3, figure 1).

    classification    start text extract
    entailment        start premise delimiter hypothesis extract
    similarity        both orders of: start text delimiter other extract
    multiple choice   for each answer: start context question delimiter answer extract

The three special tokens are the last rows of the token table, in this order: start, delimiter, extract. The model's
state at the extract token is what the task is read from.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from diptych.core.data.text_tasks.task import LayoutName

SPECIAL_TOKENS = ("_start_", "_delimiter_", "_classify_")
"""Their names in the released code, which appends them to the vocabulary."""

Ids = Sequence[int]


@dataclass(frozen=True)
class SpecialIds:
    """The ids of the special tokens."""

    start: int
    delimiter: int
    extract: int

    @classmethod
    def behind(cls, vocab_size: int) -> "SpecialIds":
        """Those appended to a vocabulary of so many rows: 40,478 to 40,480 behind GPT-1's."""
        return cls(vocab_size, vocab_size + 1, vocab_size + 2)


class Sequences(NamedTuple):
    """What an example becomes.

    Attributes:
        ids: of each sequence, special tokens included.
        cut: how many tokens were left out, all texts together.
    """

    ids: list[list[int]]
    cut: int


def shortest_length(layout: LayoutName) -> int:
    """The fewest places in which a layout keeps a token of each text."""
    return 3 if layout == "classification" else 6


def sequences(
    layout: LayoutName, texts: Sequence[Ids], answers: Sequence[Ids], special: SpecialIds, *, length: int
) -> Sequences:
    """The sequences of an example, each of at most `length` tokens; what is too long loses its end.

    Of two texts each is cut to length // 2 - 2 tokens, as in the released code, so that neither takes the other's
    room. A text alone has length - 2. A context with a question, which the released code has not, is cut to what the
    question, and the longest answer, leave: the question of RACE stands behind its article.

    Args:
        texts: ids of one text or two, as the layout has them; see `TextExample`.
        answers: ids of each answer, of multiple choice.
        length: of the longest sequence; at least `shortest_length`.

    Raises:
        ValueError: for a length in which the layout has no room.
    """
    if length < shortest_length(layout):
        raise ValueError(
            f"The layout {layout} needs {shortest_length(layout)} places or more, its special tokens and one token of "
            f"each text, got a length of {length}. Raise --context-length."
        )
    half = length // 2 - 2
    before = sum(map(len, [*texts, *answers]))
    if layout == "classification":
        (text,) = [list(text)[: length - 2] for text in texts]
        return Sequences([[special.start, *text, special.extract]], before - len(text))
    if layout == "multiple_choice":
        answers = [list(answer)[:half] for answer in answers]
        context = _context(texts, answers, length)
        kept = len(context) + sum(map(len, answers))
        return Sequences([_joined(context, answer, special) for answer in answers], before - kept)
    first, second = (list(text)[:half] for text in texts)
    orders = [(first, second)] if layout == "entailment" else [(first, second), (second, first)]
    return Sequences([_joined(*order, special) for order in orders], before - len(first) - len(second))


def _context(texts: Sequence[Ids], answers: Sequence[Ids], length: int) -> list[int]:
    """The context, and the question behind it where there is one."""
    if len(texts) == 1:
        return list(texts[0])[: length // 2 - 2]
    room = length - 3 - max(map(len, answers))
    question = list(texts[1])[: room // 2]
    return [*list(texts[0])[: room - len(question)], *question]


def _joined(before: Ids, after: Ids, special: SpecialIds) -> list[int]:
    return [special.start, *before, special.delimiter, *after, special.extract]
