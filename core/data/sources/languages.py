"""The languages of captions: which records of a source have some in which."""

from collections import OrderedDict
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np

from diptych.core.data.ledger import RecordParts, Skipped, examined, ledger_of, left_out_of
from diptych.core.data.records import Record, Source

_SOURCES_REMEMBERED = 4


class Languages(NamedTuple):
    """What reading the captions of some records has found.

    places: int64 [records], ascending; those of no use are not among them.
    codes: uint32 [records], the number in `sets` of each one's languages.
    sets: languages that come together, in the order in which a record has them; none for a record without captions.
    skipped, left_out: records of no use, and parts of others; for the ledger.
    """

    places: np.ndarray
    codes: np.ndarray
    sets: list[tuple[str, ...]]
    skipped: list[Skipped]
    left_out: list[RecordParts]


def read_languages(source: Source, indices: Iterable[int]) -> Languages:
    """Read the captions of records; nothing is entered into the ledger."""
    places: list[int] = []
    codes: list[int] = []
    sets: dict[tuple[str, ...], int] = {}
    skipped: list[Skipped] = []
    left_out: list[RecordParts] = []
    for index in indices:
        record = examined(source, index, _captioned)
        if isinstance(record, Skipped):
            skipped.append(record)
            continue
        if record.caption_parts.left_out:
            left_out.append(left_out_of(source, index, record, record.caption_parts.left_out))
        places.append(index)
        codes.append(sets.setdefault(tuple(record.captions_by_language), len(sets)))
    return Languages(np.array(places, np.int64), np.array(codes, np.uint32), list(sets), skipped, left_out)


def languages_in(source: Source) -> Iterator[Languages]:
    """All records of a source, part by part: as it knows them itself (`caption_languages`), else all read now."""
    known = getattr(source, "caption_languages", None)
    if known is None:
        yield read_languages(source, range(len(source)))
    else:
        yield from known()


def records_by_language(source: Source) -> dict[str, np.ndarray]:
    """language -> indices of the records with a caption in it, uint32 or int64, ascending; languages in alphabetical
    order.

    Unreadable records are counted and skipped. The answers for the last few sources are kept in memory, by fingerprint.

    Raises:
        ValueError: no record has a caption.
        TooManySkipped: more records cannot be read than the ledger allows.
    """
    fingerprint = source.fingerprint()
    if fingerprint not in _REMEMBERED:
        dtype = np.uint32 if len(source) < 2**32 else np.int64
        found: dict[str, list[np.ndarray]] = {}
        ledger = ledger_of(source)
        for part in languages_in(source):
            ledger.enter(part.skipped, part.left_out)
            for code in dict.fromkeys(language for languages in part.sets for language in languages):
                having = [number for number, languages in enumerate(part.sets) if code in languages]
                found.setdefault(code, []).append(part.places[np.isin(part.codes, having)].astype(dtype))
        ledger.check()
        if not found:
            raise ValueError(f"None of the {len(source)} records of the source has a caption: there is nothing to mix.")
        _REMEMBERED[fingerprint] = {code: np.concatenate(found.pop(code)) for code in sorted(found)}
        while len(_REMEMBERED) > _SOURCES_REMEMBERED:
            _REMEMBERED.popitem(last=False)
    return _REMEMBERED[fingerprint]


def _captioned(record: Record) -> Record:
    if record.captions:
        record.require_captions()
    return record


_REMEMBERED: OrderedDict[str, dict[str, np.ndarray]] = OrderedDict()
