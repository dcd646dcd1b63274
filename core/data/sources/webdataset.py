"""WebDataset tar shards as a source with random access: an index of where each file lies, and reads at those places.

Nothing is extracted, no shell and no unpickling is involved: of each sample only images and .txt or .json captions are
read.
"""

import hashlib
import os
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path

from diptych.core.data.records import BadExample, Caption, Record
from diptych.core.data.sources.captions import MAX_CAPTION_FILE_BYTES, captions_from_json, captions_from_text
from diptych.core.data.sources.files import IMAGE_SUFFIXES, MAX_IMAGE_FILE_BYTES, OpenFile, read_at
from diptych.core.data.sources.shard_index import IMAGE, JSON, TEXT, ShardIndex, open_index

_MOST_OPEN_FILES = 64


class WebDatasetSource:
    """One record a sample: the members of a shard whose names agree up to the first dot of the file name.

    Members .jpg, .jpeg, .png, .webp and .gif are its images, the lines of .txt and the captions in .json (see
    `captions.captions_from_fields`) its captions; other members are left alone. Damaged headers, links, devices and
    repeated names are records that raise `BadExample`, so that they are counted. With `index_folder` the index of each
    shard is kept there and used as long as the shard's size and time of change stay the same.
    """

    def __init__(self, shards: Sequence[str | Path], *, index_folder: str | Path | None = None):
        self.shards = [Path(shard).absolute() for shard in shards]
        if not self.shards:
            raise ValueError("WebDatasetSource needs at least one shard")
        self._indices: list[ShardIndex] = [open_index(shard, index_folder) for shard in self.shards]
        if not any(index.keys for index in self._indices):
            raise ValueError(self._nothing_found())
        self._ends = list(accumulate(len(index) for index in self._indices))
        self._files: OrderedDict[int, OpenFile] = OrderedDict()

    def __len__(self) -> int:
        return self._ends[-1]

    def _nothing_found(self) -> str:
        for shard, index in zip(self.shards, self._indices, strict=True):
            if index.problems:
                return f"{shard} holds no samples ({BadExample(*index.problems[0])})"
        return (
            f"{self.shards[0]} holds no samples: none of its members is named as an image "
            f"({', '.join(IMAGE_SUFFIXES)}) or as captions (.txt, .json)."
        )

    def record(self, index: int) -> Record:
        """The record's key is the common part of its members' names."""
        shard = bisect_right(self._ends, index)
        place = index - (self._ends[shard - 1] if shard else 0)
        shard_index = self._indices[shard]
        problem = shard_index.problem(place)
        if problem is not None:
            reason, detail = problem
            raise BadExample(reason, f"{self.shards[shard].name}: {detail}")
        key, members = shard_index.sample(place)
        images: list[tuple[int, int, int]] = []
        captions: list[Caption] = []
        for kind, offset, size in members:
            if kind == IMAGE:
                images.append((shard, offset, size))
                continue
            data = self._read(shard, offset, size, kind="caption", max_bytes=MAX_CAPTION_FILE_BYTES)
            captions += {TEXT: captions_from_text, JSON: captions_from_json}[kind](data)
        return Record(key, tuple(images), tuple(captions))

    def read(self, reference: tuple[int, int, int]) -> bytes:
        """The bytes of an image, given (number of the shard, offset, size)."""
        return self._read(*reference, kind="image", max_bytes=MAX_IMAGE_FILE_BYTES)

    def fingerprint(self) -> str:
        """Hash of the shards' file names and of the names, places and sizes of their members."""
        digest = hashlib.sha256()
        for shard, index in zip(self.shards, self._indices, strict=True):
            digest.update(f"{shard.name} {index.fingerprint()}\n".encode())
        return digest.hexdigest()

    def __getstate__(self) -> dict:
        return self.__dict__ | {"_files": OrderedDict()}

    def _read(self, shard: int, offset: int, size: int, *, kind: str, max_bytes: int) -> bytes:
        try:
            return read_at(self._file(shard).descriptor, offset, size, kind=kind, max_bytes=max_bytes)
        except OSError as error:
            raise BadExample(f"{kind}_unreadable", f"{self.shards[shard]}: {os.strerror(error.errno or 0)}") from None

    def _file(self, shard: int) -> OpenFile:
        file = self._files.get(shard)
        if file is None:
            if len(self._files) >= _MOST_OPEN_FILES:
                self._files.popitem(last=False)
            file = self._files[shard] = OpenFile(self.shards[shard])
        return file
