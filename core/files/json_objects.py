"""JSON files: read with limits, because strangers wrote them, and written whole."""

import json
import math
from collections.abc import Mapping
from pathlib import Path

from diptych.core.files.atomic import replacing
from diptych.core.files.beginnings import mistaken
from diptych.core.files.errors import WeightFileError
from diptych.core.files.regular import open_regular

MAX_BYTES = 8_000_000


def read_json(path: Path) -> dict:
    """The object in a JSON file.

    Raises:
        WeightFileError: for a file that is no JSON object, names something twice, or has more than `MAX_BYTES`.
        OSError: for a file that cannot be read.
    """
    with open_regular(path) as file:
        raw = file.read(MAX_BYTES + 1)
    if len(raw) > MAX_BYTES:
        raise WeightFileError(f"{path} has more than {MAX_BYTES:,} bytes, which no configuration needs.")
    return parse_object(raw, str(path))


def parse_object(raw: bytes, what: str) -> dict:
    """The object in some JSON; `what` names it in the error.

    Raises:
        WeightFileError: for anything else, an object that names something twice included.
    """
    try:
        found = json.loads(raw.decode("utf-8"), object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        reason = mistaken(raw, "JSON") or f"is not JSON ({error})."
        raise WeightFileError(f"{what} {reason}") from error
    if not isinstance(found, dict):
        raise WeightFileError(f"{what} is a JSON {type(found).__name__}, expected an object.")
    return found


def write_config(path: Path, fields: Mapping) -> None:
    """Replace a configuration's file in one rename: two spaces of indentation and sorted names, as the hub's own files
    have them.

    Raises:
        ValueError: for a number that is not finite, which JSON has not.
    """
    _write(path, json.dumps(fields, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False))


def write_json(path: Path, value: object) -> None:
    """Replace a file of results in one rename, flushed to disk, so that a reader sees the old contents or the new.

    Numbers that are not finite become null: results are not lost for one of them.
    """
    try:
        text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)
    except ValueError:
        text = json.dumps(_finite(value), indent=2, ensure_ascii=False, allow_nan=False)
    _write(path, text)


def json_bytes(text: str) -> bytes:
    """JSON text as UTF-8. Names of files may hold bytes that are none, which Python has as surrogates: these are
    escaped, and read as the same names.
    """
    return text.encode("utf-8", "backslashreplace")


def _write(path: Path, text: str) -> None:
    with replacing(path) as file:
        file.write(json_bytes(text) + b"\n")


def _finite(value: object) -> object:
    if isinstance(value, Mapping):
        return {name: _finite(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    names = dict(pairs)
    if len(names) != len(pairs):
        raise ValueError("a name occurs twice")
    return names
