"""A folder of images with captions in a list (captions.jsonl, metadata.csv) or in a file beside each image."""

import hashlib
import os
from collections.abc import Container
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from diptych.core.data.ledger import Ledger, Skipped, tried
from diptych.core.data.records import BadExample, Caption, Record
from diptych.core.data.sources.captions import (
    MAX_CAPTION_FILE_BYTES,
    TEXT_FIELDS,
    captions_from_fields,
    captions_from_text,
    object_from_json,
)
from diptych.core.data.sources.files import (
    HIDDEN,
    IMAGE_SUFFIXES,
    MAX_IMAGE_FILE_BYTES,
    SAMPLED_CAPTIONS,
    SAMPLED_IMAGES,
    evenly,
    file_size,
    read_regular_file,
    sampled_file,
)
from diptych.core.data.sources.keys import UniqueKeys, hashed
from diptych.core.data.sources.labels import LABEL_FIELDS, labels_from_fields
from diptych.core.data.sources.lists import LISTS, PARQUET_LISTS, ImageList
from diptych.core.data.sources.reading import AS_USUAL, Reading
from diptych.core.files.regular import open_regular

IMAGE_FIELDS = ("file_name", "image", "file", "filepath")
CAPTION_SUFFIXES = (".txt", ".json")


@dataclass(slots=True, eq=False)
class _Entry:
    """What stands in the folder under one key: images and where their captions are, or the reason why it is of no
    use. An image that a list names is alone; of others those whose paths differ in the suffix only are together.
    """

    key: str
    images: list[str] = field(default_factory=list)
    captions: list[tuple[str, int, int]] = field(
        default_factory=list
    )  # file, offset, length; length -1: the whole file
    problem: Skipped | None = None


class FolderSource:
    """One record an image; where no list is, images whose paths differ in the suffix only are one.

    A list (captions or metadata, as .jsonl, or as .csv or .tsv where there are no other captions) speaks for its
    directory and those below: only what its entries name counts there, as {"file_name" or "image": a path relative to
    the list, "caption" or "text": ..., ...} (see `captions.captions_from_fields`); several entries about one image add
    up. Elsewhere the captions of `a.jpg` are the lines of `a.txt`, or stand in `a.json`. Sub-directories are read too;
    hidden names are not. The labels of a record stand in the same places as its captions, in a field "label"; where
    none is there and no list speaks, the first folder of the image's path is its label.

    Args:
        root: the folder.
        only: names of lists in it; nothing else is looked at then.
        reading: fields of the lists.
    """

    def __init__(self, root: str | Path, *, only: tuple[str, ...] = (), reading: Reading = AS_USUAL):
        self.root = Path(root).absolute()
        if not self.root.is_dir():
            raise FileNotFoundError(f"no folder {self.root}")
        self.ledger = Ledger(self.root.name, max_skipped=reading.max_skipped)
        self._text_fields = reading.captions_in(TEXT_FIELDS)
        self._image_fields = reading.images_in(IMAGE_FIELDS)
        self._label_fields = reading.labels_in(LABEL_FIELDS)
        self._lists: dict[str, ImageList] = {}
        self._refused: list[Skipped] = []
        self._entries = list(dict.fromkeys(self._scan(only).values()))
        self._keys = UniqueKeys(lambda: hashed((entry.key, place) for place, entry in enumerate(self._entries)))
        self.ledger.size = len(self._entries)
        if len(self._refused) == len(self._entries):
            raise ValueError(self._nothing_found())

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def _said_fields(self) -> tuple[str, ...]:
        return *self._text_fields, *self._label_fields

    def _nothing_found(self) -> str:
        what = f"no images ({', '.join(IMAGE_SUFFIXES)}) and no list of them ({', '.join(LISTS)}) under {self.root}."
        for refused in self._refused[:1]:
            what = f"{refused.reason}: {refused.detail}"
        return f"{what}{self.ledger.what_was_seen()}"

    def record(self, index: int) -> Record:
        """The record's key is the image's path in the folder without its suffix, with its place where an earlier one
        has it.
        """
        entry = self._entries[index]
        if entry.problem is not None:
            raise BadExample(entry.problem.reason, entry.problem.detail)
        said = [self._said(*place) for place in entry.captions]
        captions = [caption for some, _ in said for caption in some]
        labels = dict.fromkeys(label for _, some in said for label in some)
        folder, inside, _ = entry.key.partition("/")
        if inside and not labels and not any(length >= 0 for _, _, length in entry.captions):
            labels = {folder: None}
        return Record(self._keys.key(entry.key, index), tuple(entry.images), tuple(captions), labels=tuple(labels))

    def record_name(self, index: int) -> str:
        """The path of the image, or the list's and a number of an entry that names none."""
        entry = self._entries[index]
        return entry.images[0] if entry.images else entry.key

    def read(self, reference: str) -> bytes:
        """The bytes of an image, given its path in the folder."""
        return read_regular_file(self.root / reference, kind="image", max_bytes=MAX_IMAGE_FILE_BYTES)

    def fingerprint(self) -> str:
        """Hash of the fields that are read, of all keys, of the names and sizes of images and caption files, of the
        text of the lists, and of what some evenly chosen caption files and images hold.
        """
        digest = hashlib.sha256(repr((self._text_fields, self._image_fields)).encode())
        whole: list[str] = []
        for entry in self._entries:
            beside = [name for name, _, length in entry.captions if length < 0]
            files = [*entry.images, *beside]
            sizes = [(name, file_size(self.root / name)) for name in files]
            digest.update(repr((entry.key, sizes, entry.captions)).encode())
            whole += beside
        for name in sorted({name for entry in self._entries for name, _, length in entry.captions if length >= 0}):
            with open_regular(self.root / name) as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
        images = [name for entry in self._entries for name in entry.images]
        for name in evenly(whole, SAMPLED_CAPTIONS) + evenly(images, SAMPLED_IMAGES):
            digest.update(sampled_file(self.root / name))
        return digest.hexdigest()

    def _said(self, name: str, offset: int, length: int) -> tuple[tuple[Caption, ...], tuple[str, ...]]:
        """The captions and labels at a place."""
        if length >= 0:
            fields = self._lists[name].entry(offset, length)
        else:
            data = read_regular_file(self.root / name, kind="caption", max_bytes=MAX_CAPTION_FILE_BYTES)
            if not name.endswith(".json"):
                return captions_from_text(data), ()
            fields = object_from_json(data)
        return captions_from_fields(fields, self._text_fields), labels_from_fields(fields, self._label_fields)

    def _scan(self, only: tuple[str, ...]) -> dict[str, _Entry]:
        """The entry of each image by its path, and those of no use by their names."""
        entries: dict[str, _Entry] = {}
        for name in only:
            self._scan_list(PurePosixPath(), tried(name, ImageList.of, self.root / name), entries)
        unlisted: list[PurePosixPath] = []
        listed: set[str] = set()

        def refuse(error: OSError) -> None:
            self._refuse(Skipped(os.path.relpath(error.filename, self.root), "folder_unreadable", str(error)), entries)

        for directory, names, files in () if only else os.walk(self.root, onerror=refuse):
            here = PurePosixPath(Path(directory).relative_to(self.root).as_posix())
            names[:] = self._folders_to_read(here, sorted(names))
            lists = self._lists_in(here, files)
            for one in lists:
                self._scan_list(here, one, entries)
            if lists or str(here.parent) in listed:
                listed.add(str(here))
                unlisted += [here / name for name in sorted(files) if name not in LISTS]
            else:
                self._scan_files(here, sorted(files), entries)
        for path in unlisted:
            if str(path) not in entries:
                self.ledger.pass_over("no entry of the list above it names it", str(path))
        return entries

    def _folders_to_read(self, here: PurePosixPath, names: list[str]) -> list[str]:
        """Those of the folders in a directory that are walked into; the others are counted."""
        rules = {name: self._rule_of_folder(here / name) for name in names}
        for name, rule in rules.items():
            if rule:
                self.ledger.pass_over(rule, f"{here / name}/")
        return [name for name in names if not rules[name]]

    def _rule_of_folder(self, path: PurePosixPath) -> str:
        if path.name.startswith("."):
            return HIDDEN
        return "links to folders, which are not followed" if (self.root / path).is_symlink() else ""

    def _scan_files(self, here: PurePosixPath, files: list[str], entries: dict[str, _Entry]) -> None:
        present = set(files)
        together: dict[str, _Entry] = {}
        others: list[PurePosixPath] = []
        for name in files:
            path = here / name
            if path.suffix.lower() not in IMAGE_SUFFIXES or name.startswith("."):
                others.append(path)
                continue
            if str(path) in entries:
                continue  # a list elsewhere names it
            if path.stem not in together:
                beside = [path.with_suffix(suffix) for suffix in CAPTION_SUFFIXES]
                captions = [(str(text), 0, -1) for text in beside if text.name in present]
                together[path.stem] = _Entry(str(path.with_suffix("")), captions=captions)
            together[path.stem].images.append(str(path))
            entries[str(path)] = together[path.stem]
        for path in others:
            if path.name not in LISTS:
                self._pass_over(path, together)

    def _lists_in(self, here: PurePosixPath, files: list[str]) -> list[ImageList | Skipped]:
        """The lists that a directory is read by, or why they cannot be read. One of CSV is, where nothing else tells
        captions and it has columns for both images and captions.
        """
        found = [name for name in LISTS if name in files]
        lines = [name for name in found if name.endswith(".jsonl")]
        stems = {path.stem for path in map(PurePosixPath, files) if path.suffix.lower() in IMAGE_SUFFIXES}
        captions = {path.stem for path in map(PurePosixPath, files) if path.suffix in CAPTION_SUFFIXES}
        lists = [tried(str(here / name), ImageList.of, self.root / here / name) for name in lines]
        for name in found[len(lines) :]:
            table = tried(name, ImageList.of, self.root / here / name)
            if lines or stems & captions:
                rule = f"a list beside {lines[0] if lines else 'captions of the names of images'}, which counts instead"
            elif isinstance(table, Skipped):
                rule = f"{table.reason}: {table.detail}"
            elif not all(set(table.columns) & set(some) for some in (self._image_fields, self._said_fields)):
                rule = (
                    f"no column of {', '.join(self._image_fields)}, or none of {', '.join(self._said_fields)} (there "
                )
                rule += f"are {', '.join(table.columns)}; --image-field, --caption-field and --label-field name others)"
            else:
                lists.append(table)
                continue
            self.ledger.pass_over(rule, str(here / name))
        return lists

    def _pass_over(self, path: PurePosixPath, images: Container[str]) -> None:
        """Count a file that is no image, unless its captions are an image's; `images` are the stems beside it."""
        if path.name.startswith("."):
            rule = HIDDEN
        elif path.suffix in CAPTION_SUFFIXES:
            if path.stem in images:
                return
            rule = "captions without an image of their name"
        elif path.name in PARQUET_LISTS:
            rule = "a list in Parquet, which is not read beside images: write it as CSV"
        else:
            rule = f"the suffix {path.suffix.lower() or '(none)'}, where {', '.join(IMAGE_SUFFIXES)} are images, "
            rule += f"{', '.join(CAPTION_SUFFIXES)} captions, and {', '.join(LISTS)} lists of them"
        self.ledger.pass_over(rule, str(path))

    def _scan_list(self, here: PurePosixPath, listed: ImageList | Skipped, entries: dict[str, _Entry]) -> None:
        if isinstance(listed, Skipped):
            self._refuse(listed, entries)
            return
        name = str(here / listed.path.name)
        self._lists[name] = listed
        captioned, seen = 0, dict.fromkeys(listed.columns)
        for number, (offset, length, line) in enumerate(listed.entries(), 1):
            key = f"{name}:{number}"
            found = tried(key, self._listed, here, listed, line)
            if isinstance(found, Skipped):
                entries[key] = _Entry(key, problem=found)
                continue
            image, fields = found
            seen |= dict.fromkeys(fields)
            captioned += any(fields.get(field) is not None for field in self._said_fields)
            entry = entries.setdefault(str(image), _Entry(str(image.with_suffix("")), [str(image)]))
            entry.captions.append((name, offset, length))
        if not captioned:
            rule = f"no entry has a field {', '.join(self._said_fields)} (the fields are {', '.join(seen)}; "
            self.ledger.pass_over(f"{rule}--caption-field and --label-field name others)", name)

    def _refuse(self, what: Skipped, entries: dict[str, _Entry]) -> None:
        """Enter a list or a folder that cannot be read."""
        self._refused.append(what)
        entries[what.name] = _Entry(what.name, problem=what)

    def _listed(self, here: PurePosixPath, listed: ImageList, line: bytes) -> tuple[PurePosixPath, dict[str, Any]]:
        """The path in the folder of the image that an entry speaks of, and the entry; raises `BadExample` for entries
        that name none, point out of the folder, or have captions that cannot be read.
        """
        fields = listed.fields(line)
        captions_from_fields(fields, self._text_fields)
        name = next((fields[field] for field in self._image_fields if isinstance(fields.get(field), str)), "")
        path = PurePosixPath(name)
        if not path.name:
            raise BadExample(
                "image_missing",
                f"none of {', '.join(self._image_fields)} names a file, of the fields {', '.join(fields)}: "
                "--image-field chooses one",
            )
        if path.is_absolute() and path.is_relative_to(self.root.as_posix()):
            return path.relative_to(self.root.as_posix()), fields
        if path.is_absolute() or ".." in path.parts or "\0" in name:
            raise BadExample("image_outside_folder", name[:200])
        return here / path, fields
