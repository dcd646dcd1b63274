"""Data sets in the layout of clip-benchmark, and the labels that tar shards hold.

    FOLDER/classnames.txt                          a class a line, in the order of their numbers
    FOLDER/zeroshot_classification_templates.txt   a template a line, "{c}" for the class
    FOLDER/dataset_type.txt                        "retrieval" where samples have captions; without it they have labels
    FOLDER/test/nshards.txt                        how many shards
    FOLDER/test/0.tar, 1.tar, ...                  samples s0000000.webp (.jpg, .png) with s0000000.cls, the class's
    number in
                                                   decimal, or with s0000000.txt, a caption a line
    FOLDER/train/...                               the same

Reference: LAION-AI/CLIP_benchmark, README.md, "Creating a webdataset".
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path, PurePosixPath
from typing import cast

import numpy as np

from diptych.core.data.ledger import Skipped, tried, visit
from diptych.core.data.sources.files import OpenFile, read_at
from diptych.core.data.sources.shard_index import rule_of_suffix
from diptych.core.data.sources.tar import Member, scan, scan_file
from diptych.core.data.sources.webdataset import WebDatasetSource

CLASS_NAMES = "classnames.txt"
TEMPLATES = "zeroshot_classification_templates.txt"
TYPE = "dataset_type.txt"
SHARD_COUNT = "nshards.txt"
LABEL_SUFFIX = "cls"
NO_LABEL = -1
_MAX_LABEL_BYTES = 32


def is_clip_benchmark(folder: Path, split: str) -> bool:
    """Whether a folder has this layout, for a split."""
    return (folder / split / SHARD_COUNT).is_file()


def shards_of(folder: Path, split: str) -> list[Path]:
    """The shards of a split, in order.

    Raises:
        FileNotFoundError: the split or some of its shards are not there.
        ValueError: nshards.txt does not hold a number.
    """
    counted = folder / split / SHARD_COUNT
    if not counted.is_file():
        there = sorted(path.parent.name for path in folder.glob(f"*/{SHARD_COUNT}"))
        raise FileNotFoundError(f"no file {counted}; {folder} has the splits {', '.join(there) or '(none)'}.")
    text = counted.read_text(encoding="utf-8").strip()
    if not text.isdecimal() or not int(text):
        raise ValueError(f"{counted} must hold the number of shards, got {text[:40]!r}.")
    shards = [folder / split / f"{number}.tar" for number in range(int(text))]
    missing = [shard.name for shard in shards if not shard.is_file()]
    if missing:
        raise FileNotFoundError(
            f"{counted} speaks of {len(shards)} shards, and {len(missing)} are missing: {', '.join(missing[:5])}. "
            "Download them again."
        )
    return shards


def dataset_type(folder: Path) -> str:
    """ "classification" or "retrieval".

    Raises:
        ValueError: something else, such as the multi-label sets, whose labels are .npy members.
    """
    path = folder / TYPE
    kind = path.read_text(encoding="utf-8").strip().lower() if path.is_file() else "classification"
    if kind not in ("classification", "retrieval"):
        raise ValueError(f"{path} says {kind!r}; classification and retrieval can be evaluated.")
    return kind


def shard_labels(source: WebDatasetSource) -> tuple[np.ndarray, dict[str, int]]:
    """The number in the .cls member of each record, and how many records have none that can be read, by reason.

    Args:
        source: of the shards; they are scanned once more, headers and labels only.

    Returns:
        int64 [records], `NO_LABEL` for records without a label; {reason: records}. The reasons are label_missing and
        label_not_a_number; records that are damaged, or have no image, are counted where their images are read.
    """
    source.ledger.passed_over.pop(rule_of_suffix(f".{LABEL_SUFFIX}"), None)  # they are read here
    labels = np.full(len(source), NO_LABEL, np.int64)
    reasons: dict[str, int] = {}
    of_shard: dict[int, dict[str, int | None]] = {}
    for index, images in visit(source, lambda record: record.images):
        if not images:
            continue
        number, _, _ = cast(tuple[int, int, int], images[0])
        if number not in of_shard:
            of_shard = {number: _labels_in(source.shards[number])}  # records come shard by shard
        found = of_shard[number].get(source.member_name(index), NO_LABEL)
        if found is None or found < 0:
            reason = "label_not_a_number" if found is None else "label_missing"
            reasons[reason] = reasons.get(reason, 0) + 1
        else:
            labels[index] = found
    return labels, reasons


def has_labels(shards: Sequence[Path]) -> bool:
    """Whether the first shard that holds anything holds a label."""
    for shard in shards:
        names = [found.name for found in scan_file(shard) if isinstance(found, Member)]
        if names:
            return any(_key_and_suffix(name)[1] == LABEL_SUFFIX for name in names)
    return False


def _labels_in(shard: Path) -> dict[str, int | None]:
    """Key -> label of a shard's .cls members, None where one is not a number of 0 or more; the first of repeated ones
    counts.
    """
    labels: dict[str, int | None] = {}
    file = OpenFile(shard)
    for found in scan(file.descriptor):
        if not isinstance(found, Member):
            continue
        key, suffix = _key_and_suffix(found.name)
        if suffix == LABEL_SUFFIX and key not in labels:
            labels[key] = _label(file, found)
    return labels


def _label(file: OpenFile, member: Member) -> int | None:
    read = partial(read_at, file.descriptor, member.offset, member.size, kind="label", max_bytes=_MAX_LABEL_BYTES)
    text = tried(member.name, read)
    return int(text) if not isinstance(text, Skipped) and text.strip().isdigit() else None


def _key_and_suffix(name: str) -> tuple[str, str]:
    """The parts of a member's name before and after the first dot of the file name, as the index of shards divides
    them.
    """
    path = PurePosixPath(name)
    stem, _, suffix = path.name.partition(".")
    return str(path.parent / stem), suffix.lower()
