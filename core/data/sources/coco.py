"""Images with boxes and captions in the JSON layouts of COCO and RefCOCO.

    {"images": [{"id", "file_name", "height", "width"}, ...],
     "annotations": [{"image_id", "bbox": [x, y, width, height], "category_id"}, {"image_id", "caption"}, ...],
     "categories": [{"id", "name"}, ...],
     "refs": [{"ann_id" or "image_id" and "bbox", "sentences": ["the left dog", {"sent" or "raw": "..."}, ...]}, ...]}

Boxes are in pixels of the image. An annotation with a category is a region named by it, every sentence of a reference
one that tells it from the others; boxes around crowds (`iscrowd`) are left out.
Reference: Lin et al. 2014, arXiv 1405.0312 (cocodataset.org, "Data format"); Kazemzadeh et al. 2014 for references.
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from diptych.core.data.records import UNKNOWN_LANGUAGE, BadExample, Box, Caption, Record, Region
from diptych.core.data.regions import relative_box
from diptych.core.data.sources.files import MAX_IMAGE_FILE_BYTES, read_regular_file
from diptych.core.files.beginnings import mistaken

MAX_ANNOTATION_FILE_BYTES = 2_000_000_000
SCHEME = "coco:"  # "coco:annotations.json:images", for `open_source`

_SENTENCE_FIELDS = ("raw", "sent", "sentence", "text")
_ADVICE = 'expected COCO\'s layout, {"images": [...], "annotations": [...]}'


@dataclass(slots=True)
class _Entry:
    """What the files say about one image, or the reason why it is of no use."""

    key: str
    file_name: str
    height: float
    width: float
    captions: list[Caption] = field(default_factory=list)
    regions: list[Region] = field(default_factory=list)
    problem: BadExample | None = None


class CocoRegionSource:
    """One record an image; several files about the same images, such as COCO's instances and captions, add up.

    Args:
        annotations: one or several JSON files.
        images: the folder that their file names are relative to.
        language: of captions, category names and sentences.

    An image with a damaged annotation is a bad example as a whole, whose reason names the damage. Every process reads
    the files anew.

    Raises:
        FileNotFoundError: a file or the folder is not there.
        ValueError: a file is not in this layout.
    """

    def __init__(
        self, annotations: str | Path | Sequence[str | Path], images: str | Path, *, language: str = UNKNOWN_LANGUAGE
    ):
        given = [annotations] if isinstance(annotations, str | Path) else annotations
        self.annotations = [Path(path).absolute() for path in given]
        self.images = Path(images).absolute()
        self.language = language
        if not self.images.is_dir():
            raise FileNotFoundError(f"no folder {self.images}")
        self._digest = hashlib.sha256(language.encode())
        entries: dict[Any, _Entry] = {}
        for path in self.annotations:
            self._read_file(path, entries)
        self._entries = list(entries.values())
        if not self._entries:
            raise ValueError(f"no images in {', '.join(map(str, self.annotations))}; {_ADVICE}")

    @classmethod
    def from_spec(cls, spec: str) -> "CocoRegionSource":
        """Of "coco:instances.json,captions.json:images"."""
        names, _, folder = spec.removeprefix(SCHEME).rpartition(":")
        if not names or not folder:
            raise ValueError(f'{spec!r} is not of the form "{SCHEME}annotations.json:folder of images"')
        return cls(names.split(","), folder)

    def __len__(self) -> int:
        return len(self._entries)

    def record(self, index: int) -> Record:
        """The record's key is the image's file name without its suffix."""
        entry = self._entries[index]
        if entry.problem is not None:
            raise BadExample(entry.problem.reason, entry.problem.detail)
        return Record(entry.key, (entry.file_name,), tuple(entry.captions), tuple(entry.regions))

    def read(self, reference: str) -> bytes:
        """The bytes of an image, given its path in the folder."""
        return read_regular_file(self.images / reference, kind="image", max_bytes=MAX_IMAGE_FILE_BYTES)

    def fingerprint(self) -> str:
        """Hash of the annotation files' contents; images count by the names that these give them."""
        return self._digest.hexdigest()

    def __reduce__(self) -> tuple:
        return _restored, (self.annotations, self.images, self.language)

    def _read_file(self, path: Path, entries: dict[Any, _Entry]) -> None:
        try:
            data = read_regular_file(path, kind="annotations", max_bytes=MAX_ANNOTATION_FILE_BYTES)
        except BadExample as error:
            kind = FileNotFoundError if error.reason.endswith("missing") else ValueError
            raise kind(f"cannot read {path}: {error}") from None
        self._digest.update(hashlib.sha256(data).digest())
        try:
            content = json.loads(data)
        except (ValueError, RecursionError) as error:
            what = mistaken(data, "JSON") or f"is not JSON ({error})"
            raise ValueError(f"{path} {what}; {_ADVICE}") from None
        if not isinstance(content, dict) or not isinstance(content.get("images"), list):
            raise ValueError(f'{path} has no list "images"; {_ADVICE}')
        for image in content["images"]:
            _add_image(image, entries)
        names = {
            category["id"]: category["name"]
            for category in _objects(content, "categories", path)
            if _hashable(category.get("id")) and "name" in category
        }
        boxes: dict[Any, tuple[Any, Any]] = {}
        for annotation in _objects(content, "annotations", path):
            if _hashable(annotation.get("id")):
                boxes[annotation.get("id")] = annotation.get("image_id"), annotation.get("bbox")
            _change(entries, annotation.get("image_id"), self._annotate, annotation, names)
        for reference in _objects(content, "refs", path):
            image_id, bbox = reference.get("image_id"), reference.get("bbox")
            if bbox is None and _hashable(reference.get("ann_id")):
                image_id, bbox = boxes.get(reference.get("ann_id"), (image_id, None))
            _change(entries, image_id, self._refer, reference, bbox)

    def _annotate(self, entry: _Entry, annotation: dict[str, Any], names: dict[Any, Any]) -> None:
        if "caption" in annotation:
            entry.captions.append(Caption(_text(annotation["caption"], "caption_not_text"), self.language))
        if "bbox" not in annotation or annotation.get("iscrowd"):
            return
        category = annotation.get("category_id")
        if category is None:
            return  # only pointed at by a reference
        if not _hashable(category) or category not in names:
            raise BadExample("region_category", f"no category has the id {category!r:.40}")
        name = _text(names[category], "region_category")
        entry.regions.append(Region(_box(annotation["bbox"], entry), name, self.language))

    def _refer(self, entry: _Entry, reference: dict[str, Any], bbox: Any) -> None:
        sentences = reference.get("sentences")
        if not isinstance(sentences, list):
            raise BadExample("region_text", "a reference has no list of sentences")
        box = _box(bbox, entry)
        for sentence in sentences:
            if isinstance(sentence, dict):
                sentence = next((sentence[name] for name in _SENTENCE_FIELDS if name in sentence), None)
            entry.regions.append(Region(box, _text(sentence, "region_text"), self.language))


def _add_image(image: Any, entries: dict[Any, _Entry]) -> None:
    if not isinstance(image, dict) or not _hashable(image.get("id")) or image.get("id") is None:
        key = f"image without an id, number {len(entries)}"
        entries[(key,)] = _Entry(key, "", 0, 0, problem=BadExample("image_id", f"{image!r:.100}"))
        return
    if image["id"] in entries:
        return
    name: Any = image.get("file_name")
    height: Any = image.get("height")
    width: Any = image.get("width")
    path = PurePosixPath(name if isinstance(name, str) else "")
    entry = entries[image["id"]] = _Entry(str(image["id"]), str(path), 0, 0)
    if not path.name:
        entry.problem = BadExample("image_missing", f"image {image['id']!r:.40} has no file_name")
    elif path.is_absolute() or ".." in path.parts or "\0" in str(path):
        entry.problem = BadExample("image_outside_folder", str(path)[:200])
    elif not _is_number(height) or not _is_number(width) or min(height, width) <= 0:
        entry.problem = BadExample("image_size", f"{name[:100]} has the size {height!r:.40} x {width!r:.40}")
    else:
        entry.key, entry.height, entry.width = str(path.with_suffix("")), height, width


def _change(entries: dict[Any, _Entry], image_id: Any, change: Callable[..., None], *arguments: Any) -> None:
    """Add to the entry of an image, whose problem it becomes where that fails; what is about no image is of no use."""
    entry = entries.get(image_id) if _hashable(image_id) else None
    if entry is None or entry.problem is not None:
        return
    try:
        change(entry, *arguments)
    except BadExample as error:
        entry.problem = error


def _objects(content: dict[str, Any], name: str, path: Path) -> list[dict[str, Any]]:
    """The objects in a list of the file; an absent list is an empty one."""
    found = content.get(name, [])
    if not isinstance(found, list) or not all(isinstance(one, dict) for one in found):
        raise ValueError(f'"{name}" in {path} is not a list of objects; {_ADVICE}')
    return found


def _box(bbox: Any, entry: _Entry) -> Box:
    if not isinstance(bbox, list) or len(bbox) != 4 or not all(map(_is_number, bbox)):
        raise BadExample("region_box", f"a bbox is [x, y, width, height] in pixels, got {bbox!r:.100}")
    left, top, width, height = bbox
    return relative_box(top, left, top + height, left + width, entry.height, entry.width)


def _text(value: Any, reason: str) -> str:
    if not isinstance(value, str) or not value.strip():
        raise BadExample(reason, f"a text is needed, got {value!r:.100}")
    return value


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e9


def _hashable(value: Any) -> bool:
    return value is None or isinstance(value, int | str)


def _restored(annotations: list[Path], images: Path, language: str) -> CocoRegionSource:
    return CocoRegionSource(annotations, images, language=language)
