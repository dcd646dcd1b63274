"""Rows of tables as records: which columns hold images, captions and keys."""

from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

from diptych.core.data.records import BadExample
from diptych.core.data.sources.captions import LANGUAGE_FIELDS, TEXT_FIELDS
from diptych.core.data.sources.files import MAX_IMAGE_FILE_BYTES
from diptych.core.data.sources.reading import Reading

IMAGE_COLUMNS = ("image", "jpg", "jpeg", "png", "webp", "image_bytes", "img")
KEY_COLUMNS = ("key", "__key__", "id")


def pyarrow_module() -> Any:
    """pyarrow, or an ImportError that says how to get it."""
    try:
        import pyarrow.ipc
        import pyarrow.parquet
    except ImportError:
        raise ImportError("reading Parquet and Arrow files needs pyarrow: pip install 'diptych[parquet]'") from None
    return pyarrow


def caption_columns(columns: Sequence[str], where: str, reading: Reading) -> tuple[str, list[str]]:
    """The image column and all columns that a record needs besides it; raises ValueError where one kind is missing."""
    images, captions = reading.images_in(IMAGE_COLUMNS), reading.captions_in(TEXT_FIELDS)
    image = next((name for name in images if name in columns), None)
    texts = [name for name in captions if name in columns]
    if image is None or not texts:
        raise ValueError(
            f"{where} has the columns {', '.join(columns)}; needed are an image column ({', '.join(images)}) "
            f"and a caption column ({', '.join(captions)}): name yours by --image-field and --caption-field"
        )
    return image, texts + [name for name in (*KEY_COLUMNS, *LANGUAGE_FIELDS) if name in columns]


def key_of_row(row: Mapping[str, Any], image_path: str | None) -> str | None:
    """A key column's value, else the image's own path without suffix, else None."""
    key = next((str(row[name]) for name in KEY_COLUMNS if row.get(name) is not None), None)
    if key is None and image_path and PurePosixPath(image_path).name:
        key = str(PurePosixPath(image_path).with_suffix(""))
    return key


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
