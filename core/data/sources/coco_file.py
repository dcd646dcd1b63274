"""One JSON file in the layout of COCO or of RefCOCO's references: its lists, and what the ids in it mean."""

import hashlib
import json
from pathlib import Path
from typing import Any

from diptych.core.data.records import BadExample
from diptych.core.data.sources.files import read_regular_file
from diptych.core.data.sources.joins import Join
from diptych.core.files.beginnings import mistaken

MAX_ANNOTATION_FILE_BYTES = 2_000_000_000
ADVICE = 'expected COCO\'s layout, {"images": [...], "annotations": [...]}, or RefCOCO\'s references, [...]'

_LISTS = ("images", "annotations", "categories", "refs")


class CocoIds:
    """What the ids in a file mean: its images, the names of its categories, and its annotations with boxes, each as the
    images that its own image_id is of, that id, and the box.

    The images are entered by whoever makes entries of them.
    """

    def __init__(self, path: Path, content: dict[str, Any]):
        self.images: Join[Any] = Join("images", "annotation_image", path)
        self.categories: Join[Any] = Join("categories", "region_category", path)
        self.annotations: Join[tuple[Join[Any], Any, Any]] = Join("annotations", "reference_annotation", path)
        for category in objects(content, "categories", path):
            self.categories.put(category.get("id"), category.get("name"))
        for annotation in objects(content, "annotations", path):
            if "bbox" in annotation:
                self.annotations.put(
                    annotation.get("id"), (self.images, annotation.get("image_id"), annotation["bbox"])
                )

    @property
    def joins(self) -> tuple[Join[Any], ...]:
        """All of them, in the same order for any file."""
        return self.images, self.categories, self.annotations


def coco_content(path: Path) -> tuple[dict[str, Any], bytes]:
    """The lists of a file by their names, and the file's SHA-256; a list alone is one of references.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it cannot be read, is no JSON, or has none of the lists.
    """
    try:
        data = read_regular_file(path, kind="annotations", max_bytes=MAX_ANNOTATION_FILE_BYTES)
    except BadExample as error:
        kind = FileNotFoundError if error.reason.endswith("missing") else ValueError
        raise kind(f"cannot read {path}: {error}") from None
    try:
        content = json.loads(data)
    except (ValueError, RecursionError) as error:
        what = mistaken(data, "JSON") or f"is not JSON ({error})"
        raise ValueError(f"{path} {what}; {ADVICE}") from None
    if isinstance(content, list):
        content = {"refs": content}
    if not isinstance(content, dict) or not any(name in content for name in _LISTS):
        raise ValueError(f"{path} has none of the lists {', '.join(_LISTS)}; {ADVICE}")
    if not isinstance(content.get("images", []), list):
        raise ValueError(f'"images" in {path} is not a list; {ADVICE}')
    return content, hashlib.sha256(data).digest()


def objects(content: dict[str, Any], name: str, path: Path) -> list[dict[str, Any]]:
    """The objects in a list of a file; an absent list is an empty one. Raises ValueError where it holds others."""
    found = content.get(name, [])
    if not isinstance(found, list) or not all(isinstance(one, dict) for one in found):
        raise ValueError(f'"{name}" in {path} is not a list of objects; {ADVICE}')
    return found
