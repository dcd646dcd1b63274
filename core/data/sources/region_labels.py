"""Regions that nobody marked: a caption's phrases, a detector that looks for them, and the file of its finds.

SigLIP 2 (Tschannen et al. 2025, arXiv 2502.14786, section 2.2) looks for the n-grams of the alt-text and for a fixed
set of object categories with an open-vocabulary detector, as OWLv2 does (Minderer et al. 2023, arXiv 2306.09683). The
length of n-grams (10) and the words that alone make none are our choice; the score of 0.3 from which a box counts is
LocCa's (arXiv 2403.19596).
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from diptych.core.data.captions import clean_caption
from diptych.core.data.ledger import RecordParts, Skipped, examined, ledger_of, name_of, place_of
from diptych.core.data.records import BadExample, Box, LeftOut, Record, Region, Source
from diptych.core.data.sources.cache import pixels_of
from diptych.core.data.sources.phrases import LONGEST_NGRAM, ngrams
from diptych.core.data.sources.source_view import SourceView
from diptych.core.files.beginnings import BEGINNING_BYTES, mistaken
from diptych.core.files.json_objects import json_bytes
from diptych.core.files.regular import open_regular

THRESHOLD = 0.3
MOST_REGIONS = 32

_FORMAT = 1
_CHUNK = 1 << 24  # bytes read at once


@dataclass(frozen=True)
class Detection:
    """A box (ymin, xmin, ymax, xmax) in [0, 1] in which a detector sees a phrase, and how sure it is, in [0, 1]."""

    box: Box
    phrase: str
    score: float


class Detector(Protocol):
    """Whoever finds phrases in pictures."""

    def detect(self, pixels: np.ndarray, phrases: Sequence[str]) -> Sequence[Detection]:
        """What is seen of the phrases in uint8 [h, w, 3]."""
        ...

    def fingerprint(self) -> str:
        """A hash of everything that decides what it finds."""
        ...


class LabelledSource(SourceView):
    """A source whose records have the regions that `label_regions` found and wrote to a file.

    Raises:
        ValueError: the file is unfinished, damaged, or about another source.
    """

    def __init__(self, source: Source, path: str | Path):
        super().__init__(source)
        self.path = Path(path)
        lines = _Lines.of(self.path)
        self._offsets = lines.offsets
        self._header = lines.header
        if self._header.get("source") != source.fingerprint():
            raise ValueError(
                f"{path} holds regions of another source than this; label this one into a file of its own."
            )
        if len(self._offsets) - 1 != len(source):
            raise ValueError(
                f"{path} has regions of {len(self._offsets) - 1} records, expected {len(source)}: call label_regions "
                "again, which goes on where it stopped."
            )

    def __len__(self) -> int:
        return len(self.source)

    def record(self, index: int) -> Record:
        """As the source's own `record`, with regions; raises `BadExample` also where the picture was none when it was
        labelled.
        """
        record = self.source.record(index)
        begin, end = self._offsets[index : index + 2]
        with open_regular(self.path) as file:
            file.seek(begin)
            found = _parsed(file.read(end - begin))
        if found.get("index") != index:
            raise ValueError(f"line {index + 2} of {self.path} is damaged: delete the file and label the source again.")
        if "bad" in found:
            raise BadExample(found["bad"], f"{record.key}, when its regions were looked for")
        regions = tuple(Region(tuple(box), text, language, score) for box, text, language, score in found["regions"])
        return replace(record, regions=regions)

    def fingerprint(self) -> str:
        """Of the source and of how its regions were found."""
        return hashlib.sha256(json.dumps(self._header, sort_keys=True).encode()).hexdigest()

    def __reduce__(self) -> tuple:
        return type(self), (self.source, self.path)


def label_regions(
    source: Source,
    detector: Detector,
    path: str | Path,
    *,
    threshold: float = THRESHOLD,
    most: int = MOST_REGIONS,
    longest: int = LONGEST_NGRAM,
    categories: Sequence[str] = (),
    progress: Callable[[int, int], None] | None = None,
) -> LabelledSource:
    """Look for the phrases of each record's captions in its first picture, once, and keep what was found in a file.

    The file has a line of settings and then a line of JSON for each record, in order, written at once; what was
    interrupted goes on after the last whole line. The source's ledger has all that was of no use, whoever met it.

    Args:
        path: of the file, made or continued.
        threshold: the least score that counts.   most: regions of a record, the surest ones.
        longest: words of an n-gram; 0 looks for categories alone.
        categories: phrases to look for in every picture, in English, such as CATEGORIES.
        progress: called with the number of records done, and of all.

    Raises:
        ValueError: the file was begun with other settings, another detector or another source.
    """
    header = {
        "format": _FORMAT,
        "source": source.fingerprint(),
        "detector": detector.fingerprint(),
        "threshold": threshold,
        "most": most,
        "longest": longest,
        "categories": list(categories),
    }
    path = Path(path)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        done = _resume(descriptor, path, header)
        for line in _lines_of_no_use(path, done):  # that an earlier process met
            _enter(source, line)
        for index in range(done, len(source)):
            line = _found(source, index, detector, threshold, most, longest, categories)
            _append(descriptor, line)
            _enter(source, line)
            if progress is not None:
                progress(index + 1, len(source))
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    return LabelledSource(source, path)


def _found(
    source: Source, index: int, detector: Detector, threshold: float, most: int, longest: int, categories: Sequence[str]
) -> dict[str, Any]:
    """The line of one record."""

    def detected(record: Record) -> tuple[dict[str, str], Sequence[Detection], tuple[LeftOut, ...]]:
        if not record.images:
            raise BadExample("image_missing", record.key)
        phrases = dict.fromkeys(categories, "en")
        captions = record.require_captions() if longest and record.captions else ()
        for caption in captions:
            for phrase in ngrams(clean_caption(caption.text), longest=longest):
                phrases.setdefault(phrase, caption.language)
        pixels = pixels_of(source, record.images[0]) if phrases else None
        detections = [] if pixels is None else detector.detect(pixels, list(phrases))
        return phrases, detections, record.caption_parts.left_out if captions else ()

    found = examined(source, index, detected)
    if isinstance(found, Skipped):
        return {"index": index, "bad": found.reason, "detail": found.detail}
    phrases, detections, left_out = found
    kept = sorted((one for one in detections if one.score >= threshold), key=lambda one: -one.score)[:most]
    regions = [Region(one.box, one.phrase, phrases[one.phrase], one.score) for one in kept]
    rows = [[[round(float(side), 5) for side in one.box], one.text, one.language, float(one.score)] for one in regions]
    return {"index": index} | ({"left_out": left_out} if left_out else {}) | {"regions": rows}


def _enter(source: Source, line: Mapping[str, Any]) -> None:
    """Count what a record's line says is of no use."""
    index = line["index"]
    place, name = place_of(source, index), name_of(source, index) or f"record {index}"
    if "bad" in line:
        ledger_of(source).skip(Skipped(name, line["bad"], line.get("detail", ""), place))
    parts = tuple(LeftOut(*part) for part in line.get("left_out", ()))
    ledger_of(source).leave_out_parts(RecordParts(place, name, parts))


@dataclass(frozen=True)
class _Lines:
    """The settings in a file, and where its whole lines begin; the last offset is where they end."""

    header: dict[str, Any]
    offsets: np.ndarray

    @classmethod
    def of(cls, path: Path) -> "_Lines":
        with open_regular(path) as file:
            beginning = file.read(BEGINNING_BYTES)
            if beginning and (what := mistaken(beginning, "JSON")):
                raise ValueError(f"{path} {what}")
            file.seek(0)
            first = file.readline()
            if not first.endswith(b"\n"):
                return cls({}, np.zeros(1, np.int64))
            offsets = [np.array([len(first)])]
            begin = len(first)
            while data := file.read(_CHUNK):
                offsets.append(np.flatnonzero(np.frombuffer(data, np.uint8) == ord("\n")) + begin + 1)
                begin += len(data)
        return cls(_parsed(first) or {"format": "none of ours"}, np.concatenate(offsets))


def _parsed(line: bytes) -> dict[str, Any]:
    """The JSON object in a line, an empty one where there is none."""
    try:
        found = json.loads(line)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _resume(descriptor: int, path: Path, header: dict[str, Any]) -> int:
    """Bring the file to its last whole line, or begin it; returns how many records are done."""
    lines = _Lines.of(path)
    if lines.header:
        changed = [name for name in header if lines.header.get(name) != header[name]]
        if changed:
            was, now = ({name: found.get(name) for name in changed} for found in (lines.header, header))
            raise ValueError(
                f"{path} was begun with other settings: {was!r:.300} instead of {now!r:.300}. Give the same, or "
                "another file."
            )
    os.ftruncate(descriptor, int(lines.offsets[-1]))
    os.lseek(descriptor, 0, os.SEEK_END)
    if not lines.header:
        _append(descriptor, header)
        return 0
    return len(lines.offsets) - 1


def _lines_of_no_use(path: Path, count: int) -> Iterator[dict[str, Any]]:
    """Of the first `count` records' lines those that say more than regions."""
    with open_regular(path) as file:
        file.readline()
        for index, line in enumerate(islice(file, count)):
            if not line.startswith(b'{"index":%d,"regions":' % index) and (found := _parsed(line)):
                yield {**found, "index": index}


def _append(descriptor: int, line: dict[str, Any]) -> None:
    data = json_bytes(json.dumps(line, ensure_ascii=False, separators=(",", ":"))) + b"\n"
    while data:
        data = data[os.write(descriptor, data) :]
