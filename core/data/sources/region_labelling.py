"""Labelling of regions that nobody marked: a detector looks for captions' phrases, and a file keeps what it finds.

SigLIP 2 (Tschannen et al. 2025, arXiv 2502.14786, section 2.2) looks for the n-grams of the alt-text and for a fixed
set of object categories with an open-vocabulary detector, as OWLv2 does (Minderer et al. 2023, arXiv 2306.09683). The
length of n-grams (10) and the words that alone make none are our choice; the score of 0.3 from which a box counts is
LocCa's (arXiv 2403.19596).
"""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from diptych.core.data.captions import clean_caption
from diptych.core.data.ledger import RecordParts, Skipped, examined, ledger_of, name_of, place_of
from diptych.core.data.records import BadExample, Box, LeftOut, Record, Source
from diptych.core.data.sources.cache import pixels_of
from diptych.core.data.sources.phrases import LONGEST_NGRAM, ngrams
from diptych.core.data.sources.region_labels import LabelledSource, Lines, parsed
from diptych.core.data.sources.region_parts import Part, check_settings, json_line, parts_beside, put_together
from diptych.core.files.regular import open_regular

THRESHOLD = 0.3
MOST_REGIONS = 32

_FORMAT = 1


@dataclass(frozen=True)
class Detection:
    """A box (ymin, xmin, ymax, xmax) in [0, 1] in which a detector sees a phrase, and how sure it is, in [0, 1]."""

    box: Box
    phrase: str
    score: float


class Detector(Protocol):
    """Whoever finds phrases in pictures."""

    def detect(self, pictures: Sequence[np.ndarray], phrases: Sequence[Sequence[str]]) -> Sequence[Sequence[Detection]]:
        """What is seen in each picture, uint8 [h, w, 3], of the phrases that are looked for in it."""
        ...

    def fingerprint(self) -> str:
        """A hash of everything that decides what it finds."""
        ...


@dataclass(frozen=True, kw_only=True)
class Search:
    """What is looked for, and which finds count.

    Args:
        threshold: the least score that counts.   most: regions of a record, the surest ones.
        longest: words of an n-gram; 0 looks for categories alone.
        categories: phrases to look for in every picture, in English, such as CATEGORIES.
    """

    threshold: float = THRESHOLD
    most: int = MOST_REGIONS
    longest: int = LONGEST_NGRAM
    categories: tuple[str, ...] = ()

    def header(self, source: Source, detector: Detector) -> dict[str, Any]:
        """All that decides the lines of a file."""
        return {
            "format": _FORMAT,
            "source": source.fingerprint(),
            "detector": detector.fingerprint(),
            "threshold": self.threshold,
            "most": self.most,
            "longest": self.longest,
            "categories": list(self.categories),
        }


USUAL = Search()


def label_regions(
    source: Source,
    detector: Detector,
    path: str | Path,
    search: Search = USUAL,
    *,
    batch_size: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> LabelledSource:
    """Look for the phrases of each record's captions in its first picture, once, and keep what was found in a file.

    The file has a line of settings and then a line of JSON for each record, in order, written at once; what was
    interrupted goes on after the last whole line. Where parts of it lie beside it (`label_part`), they are put together
    and deleted. The source's ledger has all that was of no use, whoever met it.

    Args:
        path: of the file, made or continued.
        batch_size: pictures that are given to the detector together.
        progress: called with the number of records done, and of all: first where work begins, then after each batch.

    Raises:
        ValueError: the file or a part was begun with other settings, another detector or another source; or a part is
            missing or unfinished.
    """
    path = Path(path)
    header = search.header(source, detector)
    if parts := parts_beside(path):
        put_together(path, parts, header, len(source))
    _label(source, detector, path, header, range(len(source)), search, batch_size, progress)
    return LabelledSource(source, path)


def label_part(
    source: Source,
    detector: Detector,
    path: str | Path,
    part: Part,
    search: Search = USUAL,
    *,
    batch_size: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """As `label_regions`, but only the records of one part, into a file of its own beside `path`, which is returned.

    Processes that label parts need not know of each other; `label_regions` puts together what they have left.

    Raises:
        ValueError: as `label_regions`; or all records lie in `path` already.
    """
    path, records = Path(path), part.records(len(source))
    if path.exists():
        raise ValueError(f"{path} was made or begun by one process for all records: go on with one, or name another.")
    header = search.header(source, detector) | part.header(len(source))
    _label(source, detector, part.path(path), header, records, search, batch_size, progress)
    return part.path(path)


def _label(
    source: Source,
    detector: Detector,
    path: Path,
    header: dict[str, Any],
    records: range,
    search: Search,
    batch_size: int,
    progress: Callable[[int, int], None] | None,
) -> None:
    """Append the lines of those records that the file does not have yet."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        done = _resume(descriptor, path, header)
        for line in _lines_of_no_use(path, records[:done]):  # that an earlier process met
            _enter(source, line)
        left = records[done:]
        if progress is not None and left:
            progress(done, len(records))
        for first in range(0, len(left), batch_size):
            batch = left[first : first + batch_size]
            for line in _found(source, batch, detector, search):
                _append(descriptor, line)
                _enter(source, line)
            if progress is not None:
                progress(done + first + len(batch), len(records))
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class _Wanted(NamedTuple):
    """The phrases of a record, each with its language; its picture, where there are any; and bad captions."""

    phrases: dict[str, str]
    pixels: np.ndarray | None
    left_out: tuple[LeftOut, ...]


def _found(source: Source, batch: range, detector: Detector, search: Search) -> Iterator[dict[str, Any]]:
    """The lines of some records."""

    def wanted(record: Record) -> _Wanted:
        if not record.images:
            raise BadExample("image_missing", record.key)
        phrases = dict.fromkeys(search.categories, "en")
        captions = record.require_captions() if search.longest and record.captions else ()
        for caption in captions:
            for phrase in ngrams(clean_caption(caption.text), longest=search.longest):
                phrases.setdefault(phrase, caption.language)
        pixels = pixels_of(source, record.images[0]) if phrases else None
        return _Wanted(phrases, pixels, record.caption_parts.left_out if captions else ())

    met = [examined(source, index, wanted) for index in batch]
    shown = {place: one for place, one in enumerate(met) if isinstance(one, _Wanted) and one.pixels is not None}
    pictures = [one.pixels for one in shown.values() if one.pixels is not None]
    phrases = [list(one.phrases) for one in shown.values()]
    found = dict(zip(shown, detector.detect(pictures, phrases) if shown else (), strict=True))
    for place, (index, one) in enumerate(zip(batch, met, strict=True)):
        if isinstance(one, Skipped):
            yield {"index": index, "bad": one.reason, "detail": one.detail}
            continue
        sure = [detection for detection in found.get(place, ()) if detection.score >= search.threshold]
        rows = [
            [[round(float(side), 5) for side in kept.box], kept.phrase, one.phrases[kept.phrase], float(kept.score)]
            for kept in sorted(sure, key=lambda detection: -detection.score)[: search.most]
        ]
        yield {"index": index} | ({"left_out": one.left_out} if one.left_out else {}) | {"regions": rows}


def _enter(source: Source, line: Mapping[str, Any]) -> None:
    """Count what a record's line says is of no use."""
    index = line["index"]
    place, name = place_of(source, index), name_of(source, index) or f"record {index}"
    if "bad" in line:
        ledger_of(source).skip(Skipped(name, line["bad"], line.get("detail", ""), place))
    parts = tuple(LeftOut(*part) for part in line.get("left_out", ()))
    ledger_of(source).leave_out_parts(RecordParts(place, name, parts))


def _resume(descriptor: int, path: Path, header: dict[str, Any]) -> int:
    """Bring the file to its last whole line, or begin it; returns how many records are done."""
    lines = Lines.of(path)
    check_settings(path, lines, header)
    os.ftruncate(descriptor, int(lines.offsets[-1]))
    os.lseek(descriptor, 0, os.SEEK_END)
    if not lines.header:
        _append(descriptor, header)
        return 0
    return len(lines.offsets) - 1


def _lines_of_no_use(path: Path, records: range) -> Iterator[dict[str, Any]]:
    """Of the lines of the first records those that say more than regions."""
    with open_regular(path) as file:
        file.readline()
        for index, line in zip(records, islice(file, len(records)), strict=True):
            if not line.startswith(b'{"index":%d,"regions":' % index) and (found := parsed(line)):
                yield {**found, "index": index}


def _append(descriptor: int, line: Mapping[str, Any]) -> None:
    data = json_line(line)
    while data:
        data = data[os.write(descriptor, data) :]
