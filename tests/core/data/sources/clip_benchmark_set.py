"""A small data set in clip-benchmark's layout."""

import tarfile
from collections.abc import Sequence
from pathlib import Path

from tests.core.data.sources.content import add_member


def write_split(folder: Path, split: str, samples: Sequence[dict[str, bytes]], *, shards: int = 2) -> list[Path]:
    """Shards of samples, each {suffix: bytes}, with nshards.txt; samples are numbered through as clip-benchmark
    does.
    """
    (folder / split).mkdir(parents=True)
    (folder / split / "nshards.txt").write_text(f"{shards}\n")
    size = -(-len(samples) // shards)
    paths = []
    for shard in range(shards):
        paths.append(folder / split / f"{shard}.tar")
        with tarfile.open(paths[-1], "w") as tar:
            for number in range(shard * size, min((shard + 1) * size, len(samples))):
                for suffix, data in samples[number].items():
                    add_member(tar, f"s{number:07d}.{suffix}", data)
    return paths


def write_names(folder: Path, names: Sequence[str], templates: Sequence[str] = ()) -> None:
    """classnames.txt and zeroshot_classification_templates.txt."""
    (folder / "classnames.txt").write_text("".join(f"{name}\n" for name in names), encoding="utf-8")
    if templates:
        lines = "".join(f"{template}\n" for template in templates)
        (folder / "zeroshot_classification_templates.txt").write_text(lines, encoding="utf-8")
