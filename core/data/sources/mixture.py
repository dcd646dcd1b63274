"""Languages in wanted shares: a source seen as a long list, say with English in nine places of ten.

The shares are fixed ones, as the 90% English and 10% other languages of SigLIP 2 (Tschannen et al. 2025, section 2.1),
or come from the numbers of records: p(language) ~ n(language)^(1/T), which is even for large T.
"""

import hashlib
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from diptych.core.data.ledger import leave_out, visit
from diptych.core.data.records import Record, Source
from diptych.core.data.sampling import OTHER_LANGUAGES
from diptych.core.data.sources.keys import name_bytes
from diptych.core.data.sources.source_view import SourceView

GOLDEN = (5**0.5 - 1) / 2
_SOURCES_REMEMBERED = 4


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
        source: is read once from end to end; what is found is remembered by its fingerprint while the process lives.
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
        self.unreadable = len(source) - len(np.unique(np.concatenate(list(records.values()))))
        places = _largest_remainders(np.array(list(wanted.values())), length, self.languages)
        self._all_pairs = sum(map(len, records.values()))
        self._records = [records[code][_rng(seed, code).permutation(len(records[code]))] for code in self.languages]
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
        return int(records[self._turn_at[index] % len(records)]), self.languages[language]

    def origin(self, index: int) -> int:
        """The record's place in the source."""
        return self.place(index)[0]

    def fingerprint(self) -> str:
        """Of the source, the shares, the length and the seed, and the records that they come to."""
        digest = hashlib.sha256(f"mixture {self.source.fingerprint()} {self._choice} ".encode())
        for records in self._records:
            digest.update(records.astype("<i8").tobytes())
        return digest.hexdigest()

    def shares(self) -> list[LanguageShare]:
        """What the mixture makes of each language, the most frequent first."""
        found = [
            LanguageShare(code, len(records), len(records) / self._all_pairs, int(places), places / len(self))
            for code, records, places in zip(self.languages, self._records, self._places, strict=True)
        ]
        return sorted(found, key=lambda share: (-share.places, share.language))


def records_by_language(source: Source) -> dict[str, np.ndarray]:
    """language -> indices of the records with a caption in it, int64, ascending; languages in alphabetical order.

    Unreadable records are counted and skipped. The answers for the last few sources are kept in memory, by fingerprint.

    Raises:
        ValueError: no record has a caption.
    """
    fingerprint = source.fingerprint()
    if fingerprint not in _REMEMBERED:
        found: dict[str, list[int]] = {}
        for index, record in visit(source, _captioned):
            leave_out(source, index, record, record.caption_parts.left_out)
            for language in record.captions_by_language:
                found.setdefault(language, []).append(index)
        if not found:
            raise ValueError(f"None of the {len(source)} records of the source has a caption: there is nothing to mix.")
        _REMEMBERED[fingerprint] = {code: np.array(found[code], np.int64) for code in sorted(found)}
        while len(_REMEMBERED) > _SOURCES_REMEMBERED:
            _REMEMBERED.popitem(last=False)
    return _REMEMBERED[fingerprint]


def _captioned(record: Record) -> Record:
    if record.captions:
        record.require_captions()
    return record


_REMEMBERED: OrderedDict[str, dict[str, np.ndarray]] = OrderedDict()


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
    """For each of Σ places the language and how many of that language come before it: int16 and int64.

    Place k of a language belongs at (k + offset) / places of the way; sorting what belongs earlier first moves nothing
    far. The offsets follow the golden ratio, so that languages with equally many places do not all come in one heap.
    """
    offsets = (start + GOLDEN * np.arange(len(places))) % 1.0
    turns = np.concatenate([np.arange(count) for count in places])
    languages = np.repeat(np.arange(len(places), dtype=np.int16), places)
    order = np.argsort((turns + offsets[languages]) / places[languages], kind="stable")
    return languages[order], turns[order]


def _rng(seed: int, name: str) -> np.random.Generator:
    """Random numbers that depend on the seed and a language, and not on which other languages there are."""
    key = hashlib.sha256(name_bytes(f"{seed} {name}")).digest()[:16]
    return np.random.Generator(np.random.Philox(key=int.from_bytes(key, "little")))
