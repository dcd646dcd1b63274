"""Rows of tables as records: which columns hold images, captions and keys."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

from diptych.core.data.records import BadExample
from diptych.core.data.sources.captions import LANGUAGE_FIELDS, TEXT_FIELDS
from diptych.core.data.sources.files import MAX_IMAGE_FILE_BYTES
from diptych.core.data.sources.labels import LABEL_FIELDS
from diptych.core.data.sources.reading import Reading

IMAGE_COLUMNS = ("image", "jpg", "jpeg", "png", "webp", "image_bytes", "img")
KEY_COLUMNS = ("key", "__key__", "id")
_IMAGE_PATH, _PLACE = "image path", "place"


def pyarrow_module() -> Any:
    """pyarrow, or an ImportError that says how to get it."""
    try:
        import pyarrow.compute
        import pyarrow.ipc
        import pyarrow.parquet
    except ImportError:
        raise ImportError("reading Parquet and Arrow files needs pyarrow: pip install 'diptych[parquet]'") from None
    return pyarrow


def label_columns(columns: Sequence[str], reading: Reading) -> list[str]:
    """The columns that hold labels."""
    return [name for name in reading.labels_in(LABEL_FIELDS) if name in columns]


def caption_columns(columns: Sequence[str], where: str, reading: Reading) -> tuple[str, list[str]]:
    """The image column and all columns that a record needs besides it and its labels; raises ValueError where there is
    no image, or neither caption nor label.
    """
    images, captions = reading.images_in(IMAGE_COLUMNS), reading.captions_in(TEXT_FIELDS)
    image = next((name for name in images if name in columns), None)
    texts = [name for name in captions if name in columns]
    if image is None or not (texts or label_columns(columns, reading)):
        raise ValueError(
            f"{where} has the columns {', '.join(columns)}; needed are an image column ({', '.join(images)}) and a "
            f"caption column ({', '.join(captions)}) or a column of labels "
            f"({', '.join(reading.labels_in(LABEL_FIELDS))}): name yours by --image-field, --caption-field and "
            "--label-field"
        )
    return image, texts + [name for name in (*KEY_COLUMNS, *LANGUAGE_FIELDS) if name in columns]


def label_names(metadata: Mapping[bytes, bytes] | None, columns: Sequence[str]) -> tuple[str, ...]:
    """What the numbers of the first of these columns stand for, where the data set is Hugging Face's and says so."""
    try:
        features = json.loads((metadata or {}).get(b"huggingface", b"{}"))["info"]["features"]
        feature = features[columns[0]]
        names = (feature.get("feature") or feature)["names"]  # a list of labels has them one deeper
    except (ValueError, LookupError, TypeError, AttributeError):
        return ()
    return tuple(map(str, names)) if isinstance(names, list) else ()


def key_of_row(row: Mapping[str, Any], image_path: str | None) -> str | None:
    """A key column's value, else the image's own path without suffix, else None."""
    key = next((str(row[name]) for name in KEY_COLUMNS if row.get(name) is not None), None)
    if key is None and image_path and PurePosixPath(image_path).name:
        key = str(PurePosixPath(image_path).with_suffix(""))
    return key


def distinct_keys(columns: Mapping[str, Any], image_paths: Any, begin: int) -> Iterator[tuple[str, int]]:
    """(key, place) of rows that have a key of their own: of equal rows the first, and one more where there are several.

    Args:
        columns: Arrow arrays [rows] of the key columns.
        image_paths: an Arrow array [rows] of the images' paths, or None.
        begin: place of the first row.
    """
    names = [*columns, *([] if image_paths is None else [_IMAGE_PATH])]
    if not names:
        return
    arrays = [*columns.values(), *([] if image_paths is None else [image_paths])]
    places = range(begin, begin + len(arrays[0]))
    rows = pyarrow_module().table([*map(_comparable, arrays), pyarrow_module().array(places)], [*names, _PLACE])
    grouped = rows.group_by(names, use_threads=False).aggregate([(_PLACE, "min"), (_PLACE, "max")])
    for row in grouped.to_pylist():
        key = key_of_row(row, row.get(_IMAGE_PATH))
        if key is not None:
            for place in {row[f"{_PLACE}_min"], row[f"{_PLACE}_max"]}:
                yield key, place


def _comparable(array: Any) -> Any:
    """The array itself, or as texts where Arrow cannot tell equal values of its type."""
    types = pyarrow_module().types
    if not types.is_nested(array.type) and not isinstance(array.type, pyarrow_module().BaseExtensionType):
        return array
    return pyarrow_module().array([None if one is None else str(one) for one in array.to_pylist()], "string")


def image_bytes(cell: Any) -> bytes:
    """The encoded image in a cell: bytes, or {"bytes": ..., "path": ...} as Hugging Face data sets store them."""
    if isinstance(cell, Mapping):
        if cell.get("bytes") is None and cell.get("path"):
            raise BadExample("image_not_embedded", f"the table only has the path {str(cell['path'])[:200]!r}")
        cell = cell.get("bytes")
    if cell is None:
        raise BadExample("image_missing", "an empty cell")
    if not isinstance(cell, bytes):
        raise BadExample("image_not_bytes", f"the image column holds {type(cell).__name__}")
    if len(cell) > MAX_IMAGE_FILE_BYTES:
        raise BadExample("image_file_too_large", f"{len(cell)} bytes, at most {MAX_IMAGE_FILE_BYTES}")
    return cell
