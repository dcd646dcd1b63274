"""The source of records that a person's words mean."""

import os
import re
from collections.abc import Sequence
from glob import has_magic, iglob
from pathlib import Path

from diptych.core.data.ledger import ledger_of
from diptych.core.data.records import Source
from diptych.core.data.sources.files import IMAGE_SUFFIXES
from diptych.core.data.sources.lists import LISTS, PARQUET_LISTS
from diptych.core.data.sources.lists import SUFFIXES as LIST_SUFFIXES
from diptych.core.data.sources.reading import AS_USUAL, Reading
from diptych.core.files.random_access import Place
from diptych.core.files.remote.file import RemoteFile
from diptych.core.files.remote.find import find_remote, is_remote
from diptych.core.files.remote.hub import KINDS
from diptych.core.spelling import did_you_mean

EMBEDDED = "emoji"
SCENES, WIDE_SCENES, NOISY_SCENES = "scenes", "wide_scenes", "noisy_scenes"
SCENE_TASKS, BLANK_SCENE_TASKS = "scene_tasks", "blank_scene_tasks"
DRAWN = {
    **dict.fromkeys((SCENES, WIDE_SCENES, NOISY_SCENES), "siglip2"),
    **dict.fromkeys((SCENE_TASKS, BLANK_SCENE_TASKS), "paligemma"),
}
"""Embedded data that are drawn for training, and the recipe that does so."""
LINES = "lines"
LABELLED = "labelled:"
_BRACES = re.compile(r"\{(\d+)\.\.(\d+)\}")
_SPLIT = re.compile(r"(train|training|test|validation|valid|val|dev)[-_.]")
_ADVICE = (
    f'"{EMBEDDED}" or "{LINES}" for the embedded data, a folder of images with captions ({", ".join(IMAGE_SUFFIXES)}; '
    "captions.jsonl, metadata.jsonl, the same as .csv, or .txt files), such a list itself (photos/train.csv), "
    'WebDataset shards ("shards/{000..010}.tar" or a folder of .tar), Parquet files or '
    "a folder of them, both also as https://, s3://, gs:// or hf://datasets/owner/name, a folder written by "
    "datasets.save_to_disk, boxes as coco:annotations.json:images/, or any of these with the "
    f"boxes that recipes.label found in it as {LABELLED}regions.jsonl:DATA"
)


def open_source(spec: str | Path, *, index_folder: str | Path | None = None, reading: Reading = AS_USUAL) -> Source:
    """The source that a text stands for: embedded data, one or several files, or a folder, of this machine or far away.

    File names may hold `*`, `?` and number ranges such as `{000..010}`. The kind of data is told from the names of the
    files. "labelled:REGIONS.jsonl:DATA" is DATA with the regions that `region_labels.label_regions` wrote to that file.
    `index_folder` keeps the indices of tar shards; `reading` says which fields are meant, and how many records may be
    bad. Raises FileNotFoundError or ValueError that say what would have been right.
    """
    source = _open(str(spec), index_folder, reading)
    ledger = ledger_of(source)
    ledger.name, ledger.max_skipped = str(spec), reading.max_skipped
    return source


def _open(spec: str, index_folder: str | Path | None, reading: Reading) -> Source:
    if spec == EMBEDDED:
        from diptych.core.data.emoji import EmojiSource

        return EmojiSource()
    if spec == LINES:
        from diptych.core.data.lines import LineSource

        return LineSource()
    if spec in DRAWN:
        raise ValueError(f'"{spec}" are drawn as they are needed, and only `recipes.{DRAWN[spec]}` does so; {_ADVICE}')
    if spec.startswith("coco:"):
        from diptych.core.data.sources.coco import CocoRegionSource

        return CocoRegionSource.from_spec(spec)
    if spec.startswith(LABELLED):
        return _open_labelled(spec, index_folder, reading)
    if spec.startswith("pipe:"):
        raise ValueError(f"{spec!r} would be a program to run: data are read from files; {_ADVICE}")
    if is_remote(spec):
        return _open_remote(spec, index_folder, reading)
    paths = _expanded(spec)
    if len(paths) == 1 and paths[0].is_dir():
        return _open_folder(paths[0], index_folder, reading)
    return _open_files(paths, index_folder, reading)


def _open_labelled(spec: str, index_folder: str | Path | None, reading: Reading) -> Source:
    from diptych.core.data.sources.region_labels import LabelledSource

    regions, _, data = spec.removeprefix(LABELLED).partition(":")
    if not regions or not data:
        raise ValueError(f'{spec!r} is not of the form "{LABELLED}regions.jsonl:DATA"; {_ADVICE}')
    source = open_source(data, index_folder=index_folder, reading=reading)
    if not Path(regions).is_file():
        raise FileNotFoundError(
            f"no file {regions}: label the data first, by python -m recipes.label --data {data} --output {regions}"
        )
    return LabelledSource(source, regions)


def _open_remote(spec: str, index_folder: str | Path | None, reading: Reading) -> Source:
    """Files far away: those of a folder or pattern must be of one split."""
    files: list[RemoteFile] = []
    for address in _number_ranges(spec):
        found = find_remote(address)
        if len(found) > 1 and "*" not in address:
            _refuse_several_splits(address, [file.path.name for file in found], address.rstrip("/"))
        files += found
    if {file.suffix for file in files} not in ({kind} for kind in KINDS):
        raise ValueError(
            f"{spec} names {', '.join(map(str, files[:3]))}: far away, files of one of the kinds {', '.join(KINDS)} "
            "are read; download others and give their folder"
        )
    return _open_files(files, index_folder, reading)


def _expanded(spec: str) -> list[Path]:
    paths = []
    for name in _number_ranges(spec):
        literal = Path(name).exists() or not has_magic(name)
        found = [Path(name)] if literal else sorted(map(Path, iglob(name, recursive=True)))
        if not found or (literal and not found[0].exists()):  # what a pattern finds and cannot be read is counted
            near = did_you_mean(name, (EMBEDDED, LINES, *DRAWN))
            raise FileNotFoundError(f"no file or folder {name}.{near} Give {_ADVICE}")
        paths += found
    return paths


def _number_ranges(spec: str) -> list[str]:
    """ "a{08..10}" stands for a08, a09, a10."""
    match = _BRACES.search(spec)
    if match is None:
        return [spec]
    first, last = match.groups()
    if int(last) < int(first):
        raise ValueError(f"the range {match.group()} in {spec!r} runs backwards")
    names = []
    for number in range(int(first), int(last) + 1):
        names += _number_ranges(f"{spec[: match.start()]}{number:0{len(first)}d}{spec[match.end() :]}")
    return names


def _open_folder(folder: Path, index_folder: str | Path | None, reading: Reading) -> Source:
    if (folder / "dataset_dict.json").is_file():
        splits = sorted(path.name for path in folder.iterdir() if path.is_dir())
        raise ValueError(
            f"{folder} holds several splits: choose one, such as {folder / splits[0] if splits else folder}"
        )
    for pattern in ("*.tar", "*.parquet", "data/*.parquet", "*.arrow"):
        files = sorted(path for path in folder.glob(pattern) if not path.name.startswith((".", "cache-")))
        if files and {path.name for path in files} <= set(PARQUET_LISTS) and _has_images_or_lists(folder):
            continue  # a list of images, as imagefolder has it
        if files:
            _refuse_several_splits(folder, [path.name for path in files], files[0].parent)
            source = _open_files(files, index_folder, reading)
            _pass_over_beside(source, folder, files, pattern)
            return source
    from diptych.core.data.sources.folder import FolderSource

    return FolderSource(folder, reading=reading)


def _refuse_several_splits(folder: object, names: Sequence[str], parent: object) -> None:
    """Raises ValueError where files are named after several splits; `parent` is the folder that they are in."""
    kinds = {match.group(1) for name in names if (match := _SPLIT.match(name))}
    if len(kinds) > 1:
        suffix = Path(names[0]).suffix
        raise ValueError(
            f"{folder} holds the splits {', '.join(sorted(kinds))}: choose one, such as {parent}/{min(kinds)}-*{suffix}"
        )


def _has_images_or_lists(folder: Path) -> bool:
    """Whether there is an image or a list of them in a folder or below, as `FolderSource` reads them."""
    for _, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        if any(name in LISTS or (name.lower().endswith(IMAGE_SUFFIXES) and name[0] != ".") for name in names):
            return True
    return False


def _pass_over_beside(source: Source, folder: Path, files: list[Path], pattern: str) -> None:
    """Count what stands beside the files of a folder that are read."""
    held = files[0].parent
    for path in sorted({*folder.iterdir(), *held.iterdir()} - {*files, held}):
        name = path.relative_to(folder).as_posix()
        ledger_of(source).pass_over(f"what is beside {pattern}, which are read", f"{name}/" if path.is_dir() else name)


def _open_files(paths: Sequence[Place], index_folder: str | Path | None, reading: Reading) -> Source:
    suffixes = {path.suffix for path in paths}
    if suffixes == {".tar"}:
        from diptych.core.data.sources.webdataset import WebDatasetSource

        return WebDatasetSource(paths, index_folder=index_folder, reading=reading)
    if suffixes == {".parquet"}:
        from diptych.core.data.sources.parquet import ParquetSource

        return ParquetSource(paths, reading=reading)
    if suffixes == {".arrow"}:
        from diptych.core.data.sources.parquet import ArrowSource

        return ArrowSource([path for path in paths if isinstance(path, Path)], reading=reading)
    folders = {path.parent for path in paths if isinstance(path, Path)}
    if suffixes <= set(LIST_SUFFIXES) and len(folders) == 1:
        from diptych.core.data.sources.folder import FolderSource

        return FolderSource(folders.pop(), only=tuple(path.name for path in paths), reading=reading)
    raise ValueError(f"cannot tell what kind of data {', '.join(map(str, paths[:5]))} is: {_ADVICE}")
