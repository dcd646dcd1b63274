"""Sources whose records have the regions that `region_labelling` found and wrote to a file."""

import hashlib
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from diptych.core.data.records import BadExample, Record, Region, Source
from diptych.core.data.sources.source_view import SourceView
from diptych.core.files.beginnings import BEGINNING_BYTES, mistaken
from diptych.core.files.regular import open_regular

_CHUNK = 1 << 24  # bytes read at once


class LabelledSource(SourceView):
    """A source whose records have the regions that `label_regions` found and wrote to a file.

    Raises:
        ValueError: the file is unfinished, damaged, or about another source.
    """

    def __init__(self, source: Source, path: str | Path):
        super().__init__(source)
        self.path = Path(path)
        lines = Lines.of(self.path)
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
            found = parsed(file.read(end - begin))
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


@dataclass(frozen=True)
class Lines:
    """The settings in a file of regions, and where its whole lines begin; the last offset is where they end."""

    header: dict[str, Any]
    offsets: np.ndarray

    @classmethod
    def of(cls, path: Path) -> "Lines":
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
        return cls(parsed(first) or {"format": "none of ours"}, np.concatenate(offsets))


def parsed(line: bytes) -> dict[str, Any]:
    """The JSON object in a line, an empty one where there is none."""
    try:
        found = json.loads(line)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
