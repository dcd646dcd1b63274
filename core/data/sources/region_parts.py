"""Parts of a file of regions, one of each process that labels, and how they become one file."""

import json
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diptych.core.data.sources.region_labels import Lines
from diptych.core.files.atomic import replacing
from diptych.core.files.json_objects import json_bytes
from diptych.core.files.regular import open_regular


@dataclass(frozen=True, order=True)
class Part:
    """Number `number`, from 0, of `of` runs of a source's records, each labelled by a process of its own."""

    number: int
    of: int

    def records(self, size: int) -> range:
        """Those of a source of that size."""
        return range(size * self.number // self.of, size * (self.number + 1) // self.of)

    def path(self, whole: Path) -> Path:
        """The file of this part, beside that of all."""
        return whole.with_name(f"{whole.name}.part-{self.number}-of-{self.of}")

    def header(self, size: int) -> dict[str, Any]:
        """What the settings in its file say beyond those of all parts."""
        records = self.records(size)
        return {"part": [records.start, records.stop]}


def parts_beside(path: Path) -> list[Part]:
    """The parts of a file that lie beside it, in order."""
    form = re.compile(re.escape(path.name) + r"\.part-(\d+)-of-(\d+)")
    found = [form.fullmatch(other.name) for other in path.parent.iterdir()] if path.parent.is_dir() else []
    return sorted(Part(int(match[1]), int(match[2])) for match in found if match)


def check_settings(path: Path, lines: Lines, header: Mapping[str, Any]) -> None:
    """Raises ValueError where a file that was begun has another header."""
    changed = [name for name in header if lines.header.get(name) != header[name]]
    if lines.header and changed:
        was, now = ({name: found.get(name) for name in changed} for found in (lines.header, header))
        raise ValueError(
            f"{path} was begun with other settings: {was!r:.300} instead of {now!r:.300}. Give the same, or another "
            "file."
        )


def put_together(path: Path, parts: Sequence[Part], header: dict[str, Any], size: int) -> None:
    """Makes the file of all records from its parts, which are deleted when it stands."""
    count = parts[0].of
    missing = sorted(set(range(count)) - {part.number for part in parts})
    if len({part.of for part in parts}) > 1 or missing:
        listed = ", ".join(part.path(path).name for part in parts)
        raise ValueError(
            f"Beside {path} lie {listed}; expected each of {count} parts once. Label those that are missing, with "
            "--process-id and --num-processes, or delete what does not belong together."
        )
    if path.exists():
        _check_whole(path, header, size, f"delete it, or the {count} parts beside it.")
    else:
        bodies = []
        for part in parts:
            own = part.path(path)
            how = f"go on with it first, with --process-id {part.number} --num-processes {count}."
            begin = _check_whole(own, header | part.header(size), len(part.records(size)), how)
            bodies.append((own, begin))
        with replacing(path) as whole:
            whole.write(json_line(header))
            for own, begin in bodies:
                with open_regular(own) as file:
                    file.seek(begin)
                    shutil.copyfileobj(file, whole)
    for part in parts:
        part.path(path).unlink()


def json_line(value: Mapping[str, Any]) -> bytes:
    """One line of such a file."""
    return json_bytes(json.dumps(value, ensure_ascii=False, separators=(",", ":"))) + b"\n"


def _check_whole(path: Path, header: Mapping[str, Any], records: int, how: str) -> int:
    """Where the lines of a file begin, which must have all its records."""
    lines = Lines.of(path)
    check_settings(path, lines, header)
    if (done := len(lines.offsets) - 1) != records:
        raise ValueError(f"{path} has {done} of {records} records: {how}")
    return int(lines.offsets[0])
