"""Images with boxes and captions in the JSON layouts of COCO and RefCOCO.

    {"images": [{"id", "file_name", "height", "width"}, ...],
     "annotations": [{"image_id", "bbox": [x, y, width, height], "category_id"}, {"image_id", "caption"}, ...],
     "categories": [{"id", "name"}, ...],
     "refs": [{"ann_id" or "image_id" and "bbox", "sentences": ["the left dog", {"sent" or "raw": "..."}, ...]}, ...]}

Boxes are in pixels of the image. An annotation with a category is a region named by it, every sentence of a reference
one that tells it from the others; boxes around crowds (`iscrowd`) are passed over. An image without height and width
(or with numbers that are none) is asked itself where it has boxes.
Reference: Lin et al. 2014, arXiv 1405.0312 (cocodataset.org, "Data format"); Kazemzadeh et al. 2014 for references.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from diptych.core.data.image import upright_size
from diptych.core.data.ledger import Ledger, Skipped, tried
from diptych.core.data.records import UNKNOWN_LANGUAGE, BadExample, Box, Caption, Record, Region
from diptych.core.data.regions import relative_box
from diptych.core.data.sources.coco_file import ADVICE, CocoIds, coco_content, objects
from diptych.core.data.sources.files import (
    MAX_IMAGE_FILE_BYTES,
    SAMPLED_IMAGES,
    evenly,
    read_regular_file,
    sampled_file,
    told_apart,
)
from diptych.core.data.sources.joins import Join, plain_id
from diptych.core.data.sources.keys import UniqueKeys, hashed

SCHEME = "coco:"  # "coco:annotations.json:images", for `open_source`

_SENTENCE_FIELDS = ("raw", "sent", "sentence", "text")


@dataclass(slots=True, eq=False)
class _Entry:
    """What the files say about one image, or the reason why it is of no use; its (height, width) where they are
    known.
    """

    key: str
    file_name: str = ""
    size: tuple[float, float] | BadExample | None = None
    captions: list[Caption] = field(default_factory=list)
    regions: list[Region] = field(default_factory=list)
    problem: BadExample | None = None

    @property
    def name(self) -> str:
        return self.file_name or self.key


class CocoRegionSource:
    """One record an image; several files about the same images, such as COCO's instances and captions, or RefCOCO's
    instances and references, add up.

    Ids count within their file: images of several files are one where they have one file name, so that files which
    number different pictures from 1 on go together. A file that lists no images, no categories or no boxes speaks of
    those of the others, by ids that one of them alone has.

    Args:
        annotations: one or several JSON files.
        images: the folder that their file names are relative to.
        language: of captions, category names and sentences.

    An annotation that is damaged, or about no image, is left out and counted in the ledger; the rest of its image
    stays. Every process reads the files anew.

    Raises:
        FileNotFoundError: a file or the folder is not there.
        ValueError: a file is not in this layout, or none of its annotations fits an image, a category or a reference.
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
        self.ledger = Ledger(", ".join(path.name for path in self.annotations))
        self._file_names = dict(zip(self.annotations, told_apart(self.annotations), strict=True))
        self._digest = hashlib.sha256(language.encode())
        self._entries: list[_Entry] = []
        self._read_files()
        if not self._entries:
            raise ValueError(f"no images in {', '.join(map(str, self.annotations))}; {ADVICE}")
        self.ledger.size = len(self)
        self._keys = UniqueKeys(lambda: hashed((entry.key, place) for place, entry in enumerate(self._entries)))
        self._names = UniqueKeys(lambda: hashed((entry.name, place) for place, entry in enumerate(self._entries)))

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
        key = self._keys.key(entry.key, index)
        return Record(key, (entry.file_name,), tuple(entry.captions), tuple(entry.regions))

    def record_name(self, index: int) -> str:
        """The image's file name, or what stands in the place of one; with its place where an earlier one has it."""
        return self._names.key(self._entries[index].name, index)

    def read(self, reference: str) -> bytes:
        """The bytes of an image, given its path in the folder."""
        return read_regular_file(self.images / reference, kind="image", max_bytes=MAX_IMAGE_FILE_BYTES)

    def fingerprint(self) -> str:
        """Hash of the annotation files' contents, which name the images, and of what some evenly chosen images hold."""
        digest = self._digest.copy()
        for name in evenly([entry.file_name for entry in self._entries if entry.problem is None], SAMPLED_IMAGES):
            digest.update(sampled_file(self.images / name))
        return digest.hexdigest()

    def __reduce__(self) -> tuple:
        return _restored, (self.annotations, self.images, self.language)

    def _read_files(self) -> None:
        by_name: dict[str, _Entry] = {}
        contents: list[tuple[Path, dict[str, Any]]] = []
        for path in self.annotations:
            content, digest = coco_content(path)
            contents.append((path, content))
            self._digest.update(digest)
        files = [CocoIds(path, content) for path, content in contents]
        for (path, content), ids in zip(contents, files, strict=True):
            self._read_images(path, content, ids.images, by_name)
        for joins in zip(*(ids.joins for ids in files), strict=True):
            listed = [join for join in joins if join.listed]
            for join in joins:
                if not join.listed:
                    join.borrow(listed)
        for (path, content), ids in zip(contents, files, strict=True):
            self._read_annotations(path, content, ids)

    def _read_images(self, path: Path, content: dict[str, Any], ids: Join[_Entry], by_name: dict[str, _Entry]) -> None:
        before, seen = dict(by_name), set[tuple[int | str | None, str]]()
        for number, image in enumerate(content.get("images", [])):
            given = plain_id(image.get("id")) if isinstance(image, dict) else None
            entry = _entry_of(image, given, f"{self._file_names[path]}: image {number}")
            if entry.problem is None:
                if (given, entry.file_name) in seen:
                    continue  # listed twice
                seen.add((given, entry.file_name))
            known = before.get(entry.file_name) if entry.problem is None else None
            if known is None:
                self._entries.append(entry)
                by_name.setdefault(entry.file_name, entry)
            elif known.size is None:
                known.size = entry.size
            ids.put(given, known or entry)

    def _read_annotations(self, path: Path, content: dict[str, Any], ids: CocoIds) -> None:
        for number, annotation in enumerate(objects(content, "annotations", path)):
            name = f"{self._file_names[path]}: annotation {annotation.get('id', number)!r:.40}"
            entry = self._kept(name, ids.images.find, annotation.get("image_id"))
            if entry is None or entry.problem is not None:
                continue
            if "caption" in annotation:
                self._kept(name, self._add_caption, entry, annotation)
            if annotation.get("iscrowd"):
                self.ledger.pass_over("boxes around crowds (iscrowd)", name)
            elif "bbox" in annotation and annotation.get("category_id") is not None:  # else a reference points at it
                self._kept(name, self._add_region, entry, annotation, ids.categories)
        for number, reference in enumerate(objects(content, "refs", path)):
            name = f"{self._file_names[path]}: reference {reference.get('ref_id', number)!r:.40}"
            self._kept(name, self._add_reference, reference, ids)
        for join in ids.joins:
            join.check()

    def _kept(self, name: str, add: Callable[..., Any], *arguments: Any) -> Any:
        """add(*arguments); None, and the part is left out and counted, where it is of no use."""
        done = tried(name, add, *arguments)
        if isinstance(done, Skipped):
            self.ledger.leave_out(done.reason, f"{name}: {done.detail}")
            return None
        return done

    def _add_caption(self, entry: _Entry, annotation: dict[str, Any]) -> None:
        entry.captions.append(Caption(_text(annotation["caption"], "caption_not_text"), self.language))

    def _add_region(self, entry: _Entry, annotation: dict[str, Any], names: Join[Any]) -> None:
        name = _text(names.find(annotation["category_id"]), "region_category")
        entry.regions.append(Region(self._box(annotation["bbox"], entry), name, self.language))

    def _add_reference(self, reference: dict[str, Any], ids: CocoIds) -> None:
        images, image_id, bbox = ids.images, reference.get("image_id"), reference.get("bbox")
        if bbox is None and reference.get("ann_id") is not None:
            images, image_id, bbox = ids.annotations.find(reference["ann_id"])
        entry = images.find(image_id)
        if entry.problem is not None:
            return
        sentences = reference.get("sentences")
        if not isinstance(sentences, list):
            raise BadExample("region_text", "a reference has no list of sentences")
        box = self._box(bbox, entry)
        for number, sentence in enumerate(sentences):
            if isinstance(sentence, dict):
                sentence = next((sentence[name] for name in _SENTENCE_FIELDS if name in sentence), None)
            text = self._kept(f"{entry.file_name}, sentence {number + 1}", _text, sentence, "region_text")
            if text is not None:
                entry.regions.append(Region(box, text, self.language))

    def _box(self, bbox: Any, entry: _Entry) -> Box:
        if not isinstance(bbox, list) or len(bbox) != 4 or not all(map(_is_number, bbox)):
            raise BadExample("region_box", f"a bbox is [x, y, width, height] in pixels, got {bbox!r:.100}")
        if entry.size is None:
            size = tried(entry.file_name, self._picture_size, entry.file_name)
            entry.size = BadExample("image_size", size.detail) if isinstance(size, Skipped) else size
        if isinstance(entry.size, BadExample):
            raise entry.size
        left, top, width, height = bbox
        return relative_box(top, left, top + height, left + width, *entry.size)

    def _picture_size(self, file_name: str) -> tuple[int, int]:
        return upright_size(self.read(file_name))


def _entry_of(image: Any, given: int | str | None, name: str) -> _Entry:
    """What a file says about an image, whose id is `given`; `name` is for one that has no file's."""
    if given is None:
        return _Entry(name, problem=BadExample("image_id", f"{image!r:.100}"))
    file_name: Any = image.get("file_name")
    height: Any = image.get("height")
    width: Any = image.get("width")
    path = PurePosixPath(file_name if isinstance(file_name, str) else "")
    if not path.name:
        return _Entry(name, problem=BadExample("image_missing", f"image {given!r:.40} has no file_name"))
    if path.is_absolute() or ".." in path.parts or "\0" in str(path):
        return _Entry(name, problem=BadExample("image_outside_folder", str(path)[:200]))
    known = _is_number(height) and _is_number(width) and min(height, width) > 0
    return _Entry(str(path.with_suffix("")), str(path), (height, width) if known else None)


def _text(value: Any, reason: str) -> str:
    if not isinstance(value, str) or not value.strip():
        raise BadExample(reason, f"a text is needed, got {value!r:.100}")
    return value


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e9


def _restored(annotations: list[Path], images: Path, language: str) -> CocoRegionSource:
    return CocoRegionSource(annotations, images, language=language)
