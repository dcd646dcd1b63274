"""Pair merges, by which characters become pieces, and the files that list them (Sennrich et al. 2016, section 3.2)."""

from collections.abc import Mapping
from pathlib import Path

from diptych.core.files.fields import MAX_TOKENIZER_BYTES, Fields, read_limited

END_OF_WORD = "</w>"
"""Behind the last character of a word."""


def merged_pieces(pieces: list[str], ranks: Mapping[tuple[str, str], int]) -> list[str]:
    """The pieces of a word after all merges: of the pairs that stand side by side, that of the lowest rank is merged
    wherever it stands, from left to right, and so on until no pair has a rank.
    """
    while len(pieces) > 1:
        pairs = set(zip(pieces[:-1], pieces[1:], strict=True))
        first = min(pairs, key=lambda pair: ranks.get(pair, len(ranks)))
        if first not in ranks:
            break
        pieces = merged_pair(pieces, first)
    return pieces


def merged_pair(pieces: list[str], pair: tuple[str, str]) -> list[str]:
    """The pieces with a pair in one wherever it stands."""
    merged, place = [], 0
    while place < len(pieces):
        both = tuple(pieces[place : place + 2]) == pair
        merged.append("".join(pair) if both else pieces[place])
        place += 2 if both else 1
    return merged


def read_ids(fields: Fields) -> dict[str, int]:
    """The ids of tokens in a JSON object; raises ValueError for what is none, and for one of two tokens."""
    for token, token_id in fields.values.items():
        if not isinstance(token_id, int) or isinstance(token_id, bool) or not 0 <= token_id < 1 << 31:
            raise fields.wrong(token, "an id from 0 on")
    if len(set(fields.values.values())) < len(fields.values):
        raise ValueError(f"{fields.where}: several tokens have the same id; is the file whole?")
    return fields.values


def read_pairs(given: list, where: str) -> list[tuple[str, str]]:
    """Merges as lines "a b", or as lists ["a", "b"]; a first line with the version, and empty ones, are passed over."""
    pairs = []
    for number, one in enumerate(given, 1):
        if isinstance(one, str) and (not one.strip() or (number == 1 and one.startswith("#version"))):
            continue
        pair = one.split() if isinstance(one, str) else one
        if not isinstance(pair, list) or len(pair) != 2 or not all(isinstance(part, str) for part in pair):
            raise ValueError(f"{where}: merge {number} is {one!r}, expected two tokens.")
        pairs.append((pair[0], pair[1]))
    return pairs


def read_text(data: bytes, path: Path) -> str:
    """The text of a list of merges; raises ValueError for bytes that are no UTF-8."""
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text ({error}), expected a list of merges.") from None


def read_merges(path: Path) -> list[tuple[str, str]]:
    """The merges that a text file lists, a line each, the first to be merged first; errors as for its parts."""
    return read_pairs(
        read_text(read_limited(path, MAX_TOKENIZER_BYTES, "a list of merges"), path).split("\n"), str(path)
    )
