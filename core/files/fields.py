"""Small files that strangers wrote: read up to a size, as JSON objects whose fields are asked for with their types."""

import json
from pathlib import Path
from typing import Any, TypeVar

from diptych.core.files.beginnings import mistaken
from diptych.core.files.errors import WeightFileError
from diptych.core.files.json_objects import parse_object
from diptych.core.files.regular import open_regular

MAX_CONFIG_BYTES = 1 << 20
MAX_TOKENIZER_BYTES = 64 << 20

Triple = tuple[float, float, float]

Kind = TypeVar("Kind")

_LARGEST = 1e38  # of numbers that mean something in these files; infinities and not-a-number are none
_NAMES = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "a text",
    dict: "an object",
    list: "a list",
}


def read_limited(path: Path, max_bytes: int, expected: str) -> bytes:
    """The bytes of a file; raises WeightFileError, a ValueError, when it is larger than `max_bytes`, before reading
    more, and when it is well known to be something else than `expected` (see `beginnings.mistaken`).
    """
    with open_regular(path) as file:
        data = file.read(max_bytes + 1)
    if len(data) > max_bytes:
        raise WeightFileError(
            f"{path} has {path.stat().st_size:,} bytes, expected at most {max_bytes:,}. Is it the right file?"
        )
    if what := mistaken(data, expected):
        raise WeightFileError(f"{path} {what}")
    return data


def read_fields(path: Path, max_bytes: int = MAX_CONFIG_BYTES) -> "Fields":
    """The JSON object in a file; raises WeightFileError, a ValueError, for anything else."""
    return Fields(str(path), parse_object(read_limited(path, max_bytes, "JSON"), str(path)))


class Fields:
    """A JSON object and where it is from; a field that is absent or null counts as not given."""

    def __init__(self, where: str, values: dict[str, Any]):
        self.where = where
        self.values = values

    def __contains__(self, name: str) -> bool:
        return self.values.get(name) is not None

    def optional(self, name: str, kind: type[Kind]) -> Kind | None:
        """A field of a kind, None where it is not given; raises WeightFileError for a value of another kind."""
        value = self.values.get(name)
        if value is None:
            return None
        if kind is float:
            if not _is_number(value):
                raise self.wrong(name, _NAMES[kind])
            value = float(value)
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            raise self.wrong(name, _NAMES[kind])
        return value

    def get(self, name: str, kind: type[Kind], default: Kind) -> Kind:
        """A field of a kind, or `default`."""
        value = self.optional(name, kind)
        return default if value is None else value

    def require(self, name: str, kind: type[Kind]) -> Kind:
        """A field that must be there."""
        value = self.optional(name, kind)
        if value is None:
            raise WeightFileError(f"{self.where} has no field {name!r}, expected {_NAMES[kind]}.")
        return value

    def object(self, name: str) -> "Fields":
        """An object inside this one, an empty one where it is not given."""
        return Fields(f"{self.where}, {name}", self.get(name, dict, {}))

    def three(self, name: str, default: Triple) -> Triple:
        """Numbers for red, green and blue; one number stands for all of them."""
        value = self.values.get(name)
        if value is None:
            return default
        given = value if isinstance(value, list) else [value] * 3
        if len(given) != 3 or not all(map(_is_number, given)):
            raise self.wrong(name, "three numbers")
        return float(given[0]), float(given[1]), float(given[2])

    def count(self, name: str, default: int, *, most: int) -> int:
        """A whole number from 1 to `most`."""
        value = self.get(name, int, default)
        if not 1 <= value <= most:
            raise self.wrong(name, f"a whole number from 1 to {most}")
        return value

    def wrong(self, name: str, expected: str) -> WeightFileError:
        """The error for a field whose value cannot be used."""
        return WeightFileError(
            f"{self.where}: {name} is {_shown(self.values.get(name))}, expected {expected}. Correct the file or "
            "download it again."
        )


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < _LARGEST


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 80 else f"{text[:77]}..."
