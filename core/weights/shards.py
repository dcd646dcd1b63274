"""Weights in several files with a list of them in JSON: safetensors' index, and Keras' list of shards."""

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np

from diptych.core.files.errors import WeightFileError
from diptych.core.files.json_objects import read_json
from diptych.core.weights.files import Closing, WeightFiles

MAX_SHARDS = 1_000
SHOWN = 5

_SHARD = re.compile(r"\w[\w.-]*\.(safetensors|weights\.h5)", re.ASCII)


class ShardedWeights(Closing):
    """Weights in several files.

    Args:
        index: `*.safetensors.index.json`, which names a file for each tensor, or `*.weights.json`, which names one or
            several for each group of Keras variables.
        open_shard: opens one of the files.

    Raises:
        WeightFileError: for a list that names a file elsewhere or not there, and for shards that hold more or less than
        it says.
    """

    def __init__(self, index: Path, open_shard: Callable[[Path], WeightFiles]):
        self.source = str(index)
        self._files: dict[str, WeightFiles] = {}
        listed = self._listed(index)
        try:
            for shard in sorted({shard for _, shard in listed}):
                if not (index.parent / shard).is_file():
                    raise WeightFileError(f"{index} lists {shard}, which is not there; fetch or copy it too.")
                self._files[shard] = open_shard(index.parent / shard)
            self._shard_of = self._checked(listed)
        except BaseException:
            self.close()
            raise
        self.shapes = {name: self._files[shard].shapes[name] for name, shard in self._shard_of.items()}
        self.dtypes = {name: self._files[shard].dtypes[name] for name, shard in self._shard_of.items()}

    def close(self) -> None:
        for file in self._files.values():
            file.close()

    def read(self, name: str) -> np.ndarray:
        return self._files[self._shard_of[name]].read(name)

    def read_float32(self, name: str) -> np.ndarray:
        return self._files[self._shard_of[name]].read_float32(name)

    def _listed(self, index: Path) -> set[tuple[str, str]]:
        """(entry, file) of everything in the list."""
        entries = read_json(index).get("weight_map")
        if not isinstance(entries, dict):
            raise WeightFileError(f"{index} has no weight_map, expected tensors with the file of each.")
        listed = set()
        for entry, files in entries.items():
            for file in files if isinstance(files, list) else [files]:
                if not isinstance(file, str) or not _SHARD.fullmatch(file):
                    raise WeightFileError(
                        f"{index} names {file!r} for {entry!r}, expected a file of weights beside it."
                    )
                listed.add((entry, file))
        if len({file for _, file in listed}) > MAX_SHARDS:
            raise WeightFileError(f"{index} lists more than {MAX_SHARDS:,} files.")
        return listed

    def _checked(self, listed: set[tuple[str, str]]) -> dict[str, str]:
        """The file of each tensor, after comparing what is there with what is listed."""
        shard_of: dict[str, str] = {}
        twice = []
        found = set()
        for shard, file in self._files.items():
            for name in file.shapes:
                found.add((_entry(name, shard), shard))
                if name in shard_of:
                    twice.append(name)
                shard_of[name] = shard
        wrong = [(listed - found, "missing"), (found - listed, "not listed")]
        lines = [f"{len(pairs)} {what}: {_shown(pairs)}" for pairs, what in wrong if pairs]
        lines += [f"{len(twice)} in two files: {', '.join(sorted(twice)[:SHOWN])}"] if twice else []
        if lines:
            raise WeightFileError("\n".join([f"{self.source} does not describe the files beside it.", *lines]))
        return shard_of


def _entry(name: str, shard: str) -> str:
    """Under which entry of the list a tensor stands: its own, or in Keras' list that of its group."""
    return name if shard.endswith(".safetensors") else "/" + name.rpartition("/")[0]


def _shown(pairs: set[tuple[str, str]]) -> str:
    return ", ".join(f"{entry} in {shard}" for entry, shard in sorted(pairs)[:SHOWN])
