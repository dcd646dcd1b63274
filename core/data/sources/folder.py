"""A folder of images with captions in captions.jsonl or metadata.jsonl, or in a .txt or .json file beside each
image.
"""

import hashlib
import os
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from diptych.core.data.records import BadExample, Caption, Record
from diptych.core.data.sources.captions import (
    MAX_CAPTION_FILE_BYTES,
    captions_from_fields,
    captions_from_json,
    captions_from_text,
    object_from_json,
)
from diptych.core.data.sources.files import (
    IMAGE_SUFFIXES,
    MAX_IMAGE_FILE_BYTES,
    lines_with_offsets,
    read_regular_file,
)
from diptych.core.files.beginnings import BEGINNING_BYTES, mistaken
from diptych.core.files.regular import open_regular

LISTS = ("captions.jsonl", "metadata.jsonl")
IMAGE_FIELDS = ("file_name", "image", "file")
_LIST_MISTAKEN = "caption_list_not_json"


@dataclass(slots=True)
class _Entry:
    """What stands in the folder under one key: images and where their captions are, or the reason why it is of no
    use.
    """

    key: str
    images: list[str] = field(default_factory=list)
    captions: list[tuple[str, int, int]] = field(
        default_factory=list
    )  # file, offset, length; length -1: the whole file
    problem: BadExample | None = None


class FolderSource:
    """One record an image, or several images whose paths differ in the suffix only.

    A captions.jsonl or metadata.jsonl speaks for its directory and those below: only what its lines name counts there,
    as {"file_name" or "image": a path relative to the list, "caption" or "text": ..., ...} (see
    `captions.captions_from_fields`); several lines about one image add up. Elsewhere the captions of `a.jpg` are the
    lines of `a.txt`, or stand in `a.json`. Sub-directories are read too; hidden names are not.
    """

    def __init__(self, root: str | Path):
        self.root = Path(root).absolute()
        if not self.root.is_dir():
            raise FileNotFoundError(f"no folder {self.root}")
        self._entries = list(self._scan().values())
        problems = [entry.problem for entry in self._entries]
        if problems and all(problem and problem.reason == _LIST_MISTAKEN for problem in problems):
            raise ValueError(str(problems[0]))
        if not self._entries:
            raise ValueError(f"no images ({', '.join(IMAGE_SUFFIXES)}) and no {' or '.join(LISTS)} under {self.root}")

    def __len__(self) -> int:
        return len(self._entries)

    def record(self, index: int) -> Record:
        """The record's key is the image's path in the folder without its suffix."""
        entry = self._entries[index]
        if entry.problem is not None:
            raise BadExample(entry.problem.reason, entry.problem.detail)
        captions = [caption for place in entry.captions for caption in self._captions(*place)]
        return Record(entry.key, tuple(entry.images), tuple(captions))

    def read(self, reference: str) -> bytes:
        """The bytes of an image, given its path in the folder."""
        return read_regular_file(self.root / reference, kind="image", max_bytes=MAX_IMAGE_FILE_BYTES)

    def fingerprint(self) -> str:
        """Hash of all keys, of the names and sizes of images and caption files, and of the text of the .jsonl lists."""
        digest = hashlib.sha256()
        lists: set[str] = set()
        for entry in self._entries:
            files = [*entry.images, *(name for name, _, length in entry.captions if length < 0)]
            lists.update(name for name, _, length in entry.captions if length >= 0)
            digest.update(repr((entry.key, [(name, self._size(name)) for name in files], entry.captions)).encode())
        for name in sorted(lists):
            with (self.root / name).open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
        return digest.hexdigest()

    def _captions(self, name: str, offset: int, length: int) -> tuple[Caption, ...]:
        path = self.root / name
        if length >= 0:
            with path.open("rb") as file:
                file.seek(offset)
                return captions_from_json(file.read(length))
        data = read_regular_file(path, kind="caption", max_bytes=MAX_CAPTION_FILE_BYTES)
        return captions_from_json(data) if name.endswith(".json") else captions_from_text(data)

    def _size(self, name: str) -> int:
        try:
            return os.stat(self.root / name).st_size
        except (OSError, ValueError):
            return -1

    def _scan(self) -> dict[str, _Entry]:
        entries: dict[str, _Entry] = {}
        listed: set[str] = set()
        for directory, names, files in os.walk(self.root):
            names[:] = sorted(name for name in names if not name.startswith("."))
            here = PurePosixPath(Path(directory).relative_to(self.root).as_posix())
            lists = [name for name in LISTS if name in files]
            for name in lists:
                self._scan_list(here, name, entries)
            if lists or str(here.parent) in listed:
                listed.add(str(here))
            else:
                self._scan_files(here, sorted(files), entries)
        return entries

    def _scan_files(self, here: PurePosixPath, files: list[str], entries: dict[str, _Entry]) -> None:
        present = set(files)
        for name in files:
            path = here / name
            if path.suffix.lower() not in IMAGE_SUFFIXES or name.startswith("."):
                continue
            key = str(path.with_suffix(""))
            if key not in entries:
                beside = [path.with_suffix(suffix) for suffix in (".txt", ".json")]
                captions = [(str(text), 0, -1) for text in beside if text.name in present]
                entries[key] = _Entry(key, captions=captions)
            entries[key].images.append(str(path))

    def _scan_list(self, here: PurePosixPath, name: str, entries: dict[str, _Entry]) -> None:
        path = self.root / here / name
        with open_regular(path) as file:
            beginning = file.read(BEGINNING_BYTES)
            if beginning and (what := mistaken(beginning, "JSON")):
                key = str(here / name)
                entries[key] = _Entry(key, problem=BadExample(_LIST_MISTAKEN, f"{path} {what}"))
                return
            for number, (offset, length) in enumerate(lines_with_offsets(path, MAX_CAPTION_FILE_BYTES), 1):
                file.seek(offset)
                line = file.read(min(length, MAX_CAPTION_FILE_BYTES + 1))
                try:
                    image = _image_named(line)
                except BadExample as error:
                    key = f"{here / name}:{number}"
                    entries[key] = _Entry(key, problem=error)
                    continue
                key = str(here / PurePosixPath(image).with_suffix(""))
                entry = entries.setdefault(key, _Entry(key))
                if str(here / image) not in entry.images:
                    entry.images.append(str(here / image))
                entry.captions.append((str(here / name), offset, length))


def _image_named(line: bytes) -> str:
    """The image a line of a list speaks of; raises `BadExample` for lines that are of no use or point out of the
    folder.
    """
    fields = object_from_json(line)
    captions_from_fields(fields)
    name = next((fields[field] for field in IMAGE_FIELDS if isinstance(fields.get(field), str)), "")
    path = PurePosixPath(name)
    if not path.name:
        raise BadExample("image_missing", f"none of the fields {', '.join(IMAGE_FIELDS)} names a file")
    if path.is_absolute() or ".." in path.parts or "\0" in name:
        raise BadExample("image_outside_folder", name[:200])
    return str(path)
