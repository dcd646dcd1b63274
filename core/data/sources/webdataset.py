"""WebDataset tar shards as a source with random access: an index of where each file lies, and reads at those places.

Nothing is extracted, no shell and no unpickling is involved: of each sample only images, .txt or .json captions and
.cls labels are read.
"""

import contextlib
import hashlib
import os
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import accumulate
from pathlib import Path

import numpy as np

from diptych.core.data.ledger import Ledger, Skipped
from diptych.core.data.records import BadExample, Caption, Record
from diptych.core.data.sources.captions import (
    MAX_CAPTION_FILE_BYTES,
    TEXT_FIELDS,
    captions_from_fields,
    captions_from_text,
    object_from_json,
)
from diptych.core.data.sources.fetching import Extent, fetch_extents
from diptych.core.data.sources.files import (
    IMAGE_SUFFIXES,
    MAX_IMAGE_FILE_BYTES,
    SAMPLED_CAPTIONS,
    SAMPLED_IMAGES,
    evenly,
    place_of_file,
    read_at,
    sampled_part,
    told_apart,
)
from diptych.core.data.sources.keys import Hashed, UniqueKeys, bytes_hash, key_hash, name_bytes
from diptych.core.data.sources.labels import LABEL_FIELDS, MAX_LABEL_BYTES, labels_from_fields, labels_from_text
from diptych.core.data.sources.languages import Languages, read_languages
from diptych.core.data.sources.reading import AS_USUAL, Reading
from diptych.core.data.sources.shard_index import IMAGE, JSON, LABEL, ShardIndex, open_indices
from diptych.core.data.sources.shard_languages import kept_languages
from diptych.core.files.random_access import Place, RandomAccess, opened
from diptych.core.files.remote.file import RemoteFile

_MOST_OPEN_FILES = 64
_MOST_SAMPLED = 1_024  # shards


class WebDatasetSource:
    """One record a sample: the members of a shard whose names agree up to the first dot of the file name.

    Members .jpg, .jpeg, .png, .webp and .gif are its images, the lines of .txt and the captions in .json (see
    `captions.captions_from_fields`) its captions; other members are passed over, and counted. A shard that cannot be
    read, damaged headers, links, devices and repeated names are records that raise `BadExample`, so that they are
    counted. With `index_folder` the index of each shard is kept there and used as long as the shard's size and time of
    change, or its identity on its server, stay the same; those of shards far away are kept in any case
    (`cache_folder`).
    """

    def __init__(
        self, shards: Sequence[str | Place], *, index_folder: str | Path | None = None, reading: Reading = AS_USUAL
    ):
        self.shards = [place_of_file(shard) for shard in shards]
        if not self.shards:
            raise ValueError("WebDatasetSource needs at least one shard")
        self._names = told_apart(self.shards)
        self._indices: list[ShardIndex] = open_indices(self.shards, index_folder)
        self._ends = list(accumulate(len(index) for index in self._indices))
        self._files: OrderedDict[int, RandomAccess] = OrderedDict()
        self._text_fields, self._label_fields = self.fields_read(reading)
        self._keys = UniqueKeys(self._all_hashes)
        self.ledger = Ledger(self.shards[0].name, len(self), reading.max_skipped)
        for shard, index in zip(self._names, self._indices, strict=True):
            for rule, named in index.passed_over.items():
                for name in named.names:
                    self.ledger.pass_over(rule, f"{shard}: {name}")
                self.ledger.passed_over[rule].count += named.count - len(named.names)
        if not any(index.count for index in self._indices):
            raise ValueError(self._nothing_found())

    def __len__(self) -> int:
        return self._ends[-1]

    def _nothing_found(self) -> str:
        for shard, index in zip(self.shards, self._indices, strict=True):
            if index.problems:
                return f"{shard} holds no samples ({BadExample(*index.problems[0])}).{self.ledger.what_was_seen()}"
        return (
            f"{self.shards[0]} holds no samples: none of its members is named as an image "
            f"({', '.join(IMAGE_SUFFIXES)}) or as captions (.txt, .json).{self.ledger.what_was_seen()}"
        )

    def record(self, index: int) -> Record:
        """The record's key is the common part of its members' names, with its place where an earlier one has it."""
        shard, place = self._place(index)
        shard_index = self._indices[shard]
        problem = shard_index.problem(place)
        if problem is not None:
            reason, detail = problem
            raise BadExample(reason, f"{self._names[shard]}: {detail}")
        images: list[tuple[int, int, int]] = []
        captions: list[Caption] = []
        labels: list[str] = []
        for kind, offset, size in shard_index.members(place):
            if kind == IMAGE:
                images.append((shard, offset, size))
                continue
            size = min(size, MAX_LABEL_BYTES) if kind == LABEL else size
            data = self._read(shard, offset, size, kind="caption", max_bytes=MAX_CAPTION_FILE_BYTES)
            if kind == JSON:
                fields = object_from_json(data)
                captions += captions_from_fields(fields, self._text_fields)
                labels += labels_from_fields(fields, self._label_fields)
            elif kind == LABEL:
                labels += labels_from_text(data)
            else:
                captions += captions_from_text(data)
        key = self._keys.key(shard_index.key(place), index)
        return Record(key, tuple(images), tuple(captions), labels=tuple(dict.fromkeys(labels)))

    def member_name(self, index: int) -> str:
        """The common part of the names of a sample's members; "" for a damaged place."""
        shard, place = self._place(index)
        shard_index = self._indices[shard]
        return shard_index.key(place) if place < shard_index.count else ""

    def record_name(self, index: int) -> str:
        """The shard, and the sample in it or, by its number, what is damaged there."""
        shard, place = self._place(index)
        problem = self._indices[shard].problem(place)
        if problem is None:
            return f"{self._names[shard]}: {self.member_name(index)}"
        return f"{self._names[shard]}: {problem[1]}, damage {place - self._indices[shard].count + 1}"

    def read(self, reference: tuple[int, int, int]) -> bytes:
        """The bytes of an image, given (number of the shard, offset, size)."""
        return self._read(*reference, kind="image", max_bytes=MAX_IMAGE_FILE_BYTES)

    def fetch(self, indices: Sequence[int]) -> None:
        """Fetch what samples of shards far away need, see `fetching.fetch`."""
        extents: list[Extent] = []
        for index in indices:
            shard, place = self._place(index)
            file, shard_index = self.shards[shard], self._indices[shard]
            if isinstance(file, RemoteFile) and place < shard_index.count:
                extents += [
                    (file, offset, offset + size)
                    for kind, offset, size in shard_index.members(place)
                    if size <= (MAX_IMAGE_FILE_BYTES if kind == IMAGE else MAX_CAPTION_FILE_BYTES)
                ]
        fetch_extents(extents)

    def fingerprint(self) -> str:
        """Hash of the fields that are read, of the shards' file names, of the names, places and sizes of their members,
        and of what some evenly chosen captions and images hold.
        """
        digest = hashlib.sha256(repr(self._text_fields).encode())
        most = {False: -(-SAMPLED_CAPTIONS // len(self.shards)), True: -(-SAMPLED_IMAGES // len(self.shards))}
        asked = set(evenly(range(len(self.shards)), _MOST_SAMPLED))
        for number, (shard, index) in enumerate(zip(self.shards, self._indices, strict=True)):
            digest.update(name_bytes(f"{shard.name} {index.digest}\n"))
            if isinstance(shard, RemoteFile):  # its server knows whether it is the same: no sample has to be fetched
                digest.update(shard.identity.encode())
            elif number in asked:
                with contextlib.suppress(OSError):  # it was there when it was opened: its records are bad now
                    file, kinds, extents = opened(shard), index.arrays["kinds"], index.arrays["extents"]
                    for images, some in most.items():
                        places = np.flatnonzero((kinds == IMAGE) == images)
                        for offset, size in extents[evenly(places.tolist(), max(some, 2))].tolist():
                            digest.update(sampled_part(file, offset, size))
        return digest.hexdigest()

    def __getstate__(self) -> dict:
        return self.__dict__ | {"_files": OrderedDict()}

    def _place(self, index: int) -> tuple[int, int]:
        """(shard, place in it) of a record."""
        shard = bisect_right(self._ends, index)
        return shard, index - self._begin(shard)

    def _begin(self, shard: int) -> int:
        """The place of a shard's first record."""
        return self._ends[shard - 1] if shard else 0

    def hashed_keys(self) -> Iterator[Hashed]:
        """Places and hashes of the unique keys, shard by shard. What is damaged has none, and is counted."""
        for shard, (places, own) in enumerate(self._all_hashes()):
            index, begin, hashes = self._indices[shard], self._begin(shard), own.copy()
            again = np.flatnonzero(self._keys.comes_again(places, own)).tolist()
            names = index.key_bytes() if again else []
            for sample in again:  # as `UniqueKeys.key` has them, for very many
                hashes[sample] = bytes_hash(b"%b#%d" % (names[sample], begin + sample))
            for sample in index.arrays["numbered"].tolist():
                hashes[sample] = key_hash(self._keys.key(index.key(sample), begin + sample))
            for place, (reason, detail) in enumerate(index.problems, begin + index.count):
                self.ledger.skip(Skipped(self.record_name(place), reason, f"{self._names[shard]}: {detail}", place))
            yield places, hashes

    def caption_languages(self) -> Iterator[Languages]:
        """The languages of all captions, shard by shard; see `languages.languages_in`."""
        for shard, index in enumerate(self._indices):
            begin = self._begin(shard)
            read = partial(read_languages, self, range(begin, begin + len(index)))
            fields = (self._text_fields, self._label_fields)
            yield kept_languages(index.kept, fields, begin, self.record_name, read)

    @staticmethod
    def fields_read(reading: Reading) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """The fields of JSON that hold captions, and those that hold labels."""
        return reading.captions_in(TEXT_FIELDS), reading.labels_in(LABEL_FIELDS)

    def _all_hashes(self) -> Iterator[Hashed]:
        """Places and hashes of the samples' own keys, shard by shard."""
        for shard, index in enumerate(self._indices):
            begin = self._begin(shard)
            yield np.arange(begin, begin + index.count), index.arrays["hashes"]

    def _read(self, shard: int, offset: int, size: int, *, kind: str, max_bytes: int) -> bytes:
        try:
            return read_at(self._file(shard), offset, size, kind=kind, max_bytes=max_bytes)
        except OSError as error:
            raise BadExample(f"{kind}_unreadable", f"{self.shards[shard]}: {os.strerror(error.errno or 0)}") from None

    def _file(self, shard: int) -> RandomAccess:
        file = self._files.get(shard)
        if file is None:
            if len(self._files) >= _MOST_OPEN_FILES:
                self._files.popitem(last=False)
            file = self._files[shard] = opened(self.shards[shard])
        return file
