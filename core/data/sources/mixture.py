"""Languages in wanted shares: a source seen as a long list, say with English in nine places of ten.

The shares are fixed ones, as the 90% English and 10% other languages of SigLIP 2 (Tschannen et al. 2025, section 2.1),
or come from the numbers of records: p(language) ~ n(language)^(1/T), which is even for large T.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from diptych.core.data.records import Record, Source
from diptych.core.data.sampling import OTHER_LANGUAGES
from diptych.core.data.sources.keys import name_bytes
from diptych.core.data.sources.languages import records_by_language
from diptych.core.data.sources.source_view import SourceView

GOLDEN = (5**0.5 - 1) / 2
_SORTED_AT_ONCE = 1 << 20


@dataclass(frozen=True)
class LanguageShare:
    """One language of a mixture: its records, its share of all (record, language) pairs, its places, and its share of
    those.
    """

    language: str
    records: int
    share_before: float
    places: int
    share_after: float


class LanguageMixture(SourceView):
    """A source of `length` places, each one record in one of its languages: only the captions of that language are left
    in it.

    The places of a language are spread evenly, and its records come in turn, each as often as any other of that
    language (give or take one). A record of several languages serves each of them, so it may come several times.
    Regions stay as they are. Records that cannot be read or have no caption are left out: `unreadable` is their number.
    A place is a pure function of its index, the same on any machine; the order in which training meets places is
    `sampling.Order`'s.

    Args:
        source: its captions are read once from end to end, unless it knows their languages (`caption_languages`); what
            is found is remembered by its fingerprint while the process lives.
        shares: relative weights of languages, "*" being that of all others together, as {"en": 0.9, "*": 0.1}; a
            language that neither is named nor falls under "*" does not come. None is {"*": 1}.
        temperature: T of p ~ n^(1/T) among the languages of "*"; 1 keeps their proportions, infinity makes them equal.
        length: places; by default as many as the source has records. Where a language has fewer places than records,
            some of its records (chosen by seed) have none: `shares()` shows it, and more places cure it.
        seed: of the order of each language's records and of which language begins.

    Raises:
        ValueError: shares that are not positive, a named language without records, fewer places than languages.
    """

    def __init__(
        self,
        source: Source,
        *,
        shares: Mapping[str, float] | None = None,
        temperature: float = 1.0,
        length: int | None = None,
        seed: int = 0,
    ):
        super().__init__(source)
        records = records_by_language(source)
        wanted = _wanted_shares({code: len(found) for code, found in records.items()}, shares, temperature)
        length = len(source) if length is None else length
        self.languages = tuple(wanted)
        captioned = np.zeros(len(source), bool)
        for places_of_language in records.values():
            captioned[places_of_language] = True
        self.unreadable = len(source) - int(captioned.sum())
        places = _largest_remainders(np.array(list(wanted.values())), length, self.languages)
        self._all_pairs = sum(map(len, records.values()))
        self._records = [_rng(seed, code).permutation(records[code]) for code in self.languages]
        self._language_at, self._turn_at = _spread(places, _rng(seed, "").random())
        self._places = places
        self._choice = f"{sorted((shares or {OTHER_LANGUAGES: 1.0}).items())} {temperature} {length} {seed}"

    def __len__(self) -> int:
        return len(self._language_at)

    def record(self, index: int) -> Record:
        """The record at a place, with the captions of that place's language alone."""
        record, language = self.place(index)
        found = self.source.record(record)
        return replace(found, captions=found.captions_by_language[language])

    def place(self, index: int) -> tuple[int, str]:
        """(index of the record in the source, language) of a place in [0, length)."""
        language = self._language_at[index]
        records = self._records[language]
        return int(records[int(self._turn_at[index]) % len(records)]), self.languages[language]

    def origin(self, index: int) -> int:
        """The record's place in the source."""
        return self.place(index)[0]

    def fingerprint(self) -> str:
        """Of the source, the shares, the length and the seed, and the records that they come to."""
        digest = hashlib.sha256(f"mixture {self.source.fingerprint()} {self._choice} ".encode())
        for records in self._records:
            for begin in range(0, len(records), _SORTED_AT_ONCE):
                digest.update(records[begin : begin + _SORTED_AT_ONCE].astype("<i8").tobytes())
        return digest.hexdigest()

    def shares(self) -> list[LanguageShare]:
        """What the mixture makes of each language, the most frequent first."""
        found = [
            LanguageShare(code, len(records), len(records) / self._all_pairs, int(places), places / len(self))
            for code, records, places in zip(self.languages, self._records, self._places, strict=True)
        ]
        return sorted(found, key=lambda share: (-share.places, share.language))


def _wanted_shares(counts: dict[str, int], shares: Mapping[str, float] | None, temperature: float) -> dict[str, float]:
    """language -> share, adding up to 1, of the languages that are to come."""
    named = dict(shares) if shares is not None else {OTHER_LANGUAGES: 1.0}
    if not named or min(named.values()) <= 0 or not temperature > 0:
        raise ValueError(
            f"Shares and temperature must be positive, got {named} and {temperature}. Leave a language out instead."
        )
    rest = named.pop(OTHER_LANGUAGES, 0.0)
    missing = sorted(set(named) - set(counts))
    others = [code for code in counts if code not in named] if rest else []
    if missing or (rest and not others):
        raise ValueError(
            f"The source has no records in {', '.join(missing) or 'other languages'}: it has {', '.join(counts)}. "
            "Leave those shares out."
        )
    weights = np.array([counts[code] for code in others]) ** (1 / temperature)
    wanted = named | dict(zip(others, rest * weights / weights.sum() if rest else [], strict=True))
    total = sum(wanted.values())
    return {code: float(wanted[code] / total) for code in sorted(wanted)}


def _largest_remainders(shares: np.ndarray, length: int, languages: tuple[str, ...]) -> np.ndarray:
    """Whole numbers of places that add up to `length`, each less than 1 from its share of it, int64."""
    exact = shares * length
    places = np.floor(exact).astype(np.int64)
    places[np.argsort(places - exact, kind="stable")[: length - places.sum()]] += 1
    if (places == 0).any():
        without = [code for code, count in zip(languages, places, strict=True) if not count]
        raise ValueError(
            f"{length} places are too few: no place is left for {', '.join(without)}. Raise length to "
            f"{int(np.ceil(1 / shares.min()))}, or give larger shares."
        )
    return places


def _spread(places: np.ndarray, start: float) -> tuple[np.ndarray, np.ndarray]:
    """For each of Σ places the language and how many of that language come before it: int16, and uint32 or int64.

    Place k of a language belongs at (k + offset) / places of the way; sorting what belongs earlier first moves nothing
    far. The offsets follow the golden ratio, so that languages with equally many places do not all come in one heap.
    The way is sorted in pieces, so that little but the answer is in memory.
    """
    offsets = (start + GOLDEN * np.arange(len(places))) % 1.0
    length = int(places.sum())
    languages, turns = np.empty(length, np.int16), np.empty(length, np.uint32 if length < 2**32 else np.int64)
    edges = np.linspace(0.0, 1.0, -(-length // _SORTED_AT_ONCE) + 1)[1:-1]
    begins, done = np.zeros(len(places), np.int64), 0
    for edge in [*edges, np.inf]:
        ends = [_places_before(edge, int(count), offset) for count, offset in zip(places, offsets, strict=True)]
        of_language = [np.arange(begin, end) for begin, end in zip(begins, ends, strict=True)]
        turn = np.concatenate(of_language)
        language = np.repeat(np.arange(len(places), dtype=np.int16), [len(some) for some in of_language])
        order = np.argsort((turn + offsets[language]) / places[language], kind="stable")
        languages[done : done + len(order)], turns[done : done + len(order)] = language[order], turn[order]
        begins, done = np.array(ends), done + len(order)
    return languages, turns


def _places_before(edge: float, count: int, offset: float) -> int:
    """How many of a language's places belong before an edge: the smallest k with (k + offset) / count >= edge."""
    if edge == np.inf:
        return count
    first = max(0, int(edge * count - offset) - 2)
    near = np.arange(first, min(count, first + 5))
    return first + int(((near + offset) / count < edge).sum())


def _rng(seed: int, name: str) -> np.random.Generator:
    """Random numbers that depend on the seed and a language, and not on which other languages there are."""
    key = hashlib.sha256(name_bytes(f"{seed} {name}")).digest()[:16]
    return np.random.Generator(np.random.Philox(key=int.from_bytes(key, "little")))
