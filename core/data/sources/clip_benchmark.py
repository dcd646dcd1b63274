"""Data sets in the layout of clip-benchmark.

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

from pathlib import Path

CLASS_NAMES = "classnames.txt"
TEMPLATES = "zeroshot_classification_templates.txt"
TYPE = "dataset_type.txt"
SHARD_COUNT = "nshards.txt"


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
