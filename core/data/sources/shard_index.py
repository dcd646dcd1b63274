"""The index of one tar shard: which samples it holds and where, kept in a file so that headers are read once."""

import hashlib
import json
import warnings
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import pairwise
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np

from diptych.core.data.ledger import Named
from diptych.core.data.sources.fetching import REQUESTS_AT_ONCE
from diptych.core.data.sources.files import HIDDEN, IMAGE_SUFFIXES
from diptych.core.data.sources.keys import is_numbered, key_hash, name_bytes
from diptych.core.data.sources.tar import UNREADABLE, Damage, scan_file
from diptych.core.files.array_file import ArrayFile, write_arrays
from diptych.core.files.cache_folder import index_folder
from diptych.core.files.random_access import Place, opened
from diptych.core.files.remote.file import RemoteFile

IMAGE, TEXT, JSON, LABEL = range(4)
_KINDS = dict.fromkeys(IMAGE_SUFFIXES, IMAGE) | {".txt": TEXT, ".json": JSON, ".cls": LABEL}
_FORMAT = 5


@dataclass(frozen=True)
class ShardIndex:
    """Samples first, then problems; arrays rather than objects, because a shard holds thousands and a data set
    thousands of shards.

    count: samples.
    arrays: of a kept index read where they are asked for. kinds: uint8 [members], sample after sample; extents: int64
        [members, 2], the offset and size of each; starts: int64 [samples + 1], where each sample's members begin; keys:
        uint8, the bytes of all keys; key_ends: int64 [samples], where each ends; hashes: uint64 [samples], of the keys
        (`keys.key_hash`); numbered: int64, the samples whose keys look as if a place had been added
        (`keys.is_numbered`).
    problems: (reason, detail) of each damage met.
    digest: hash of all that the index holds.
    passed_over: the members that are neither image nor caption nor label, by the rule that says so.
    kept: where the index is kept, and for what state of the shard; None for one that is in memory alone.
    """

    count: int
    arrays: Mapping[str, np.ndarray]
    problems: list[tuple[str, str]]
    digest: str
    passed_over: dict[str, Named] = field(default_factory=dict)
    kept: "Kept | None" = None

    def __len__(self) -> int:
        return self.count + len(self.problems)

    def problem(self, place: int) -> tuple[str, str] | None:
        """(reason, detail) where the entry at `place` is not a sample."""
        if place < self.count:
            return None
        reason, detail = self.problems[place - self.count]
        return reason, detail

    def key(self, place: int) -> str:
        """The key of a sample."""
        begin, end = (int(self.arrays["key_ends"][place - 1]) if place else 0), int(self.arrays["key_ends"][place])
        return self.arrays["keys"][begin:end].tobytes().decode("utf-8", "surrogatepass")

    def key_bytes(self) -> list[bytes]:
        """The bytes of the keys of all samples (`keys.name_bytes`)."""
        every, ends = self.arrays["keys"].tobytes(), self.arrays["key_ends"].tolist()
        return [every[begin:end] for begin, end in pairwise([0, *ends])]

    def members(self, place: int) -> list[tuple[int, int, int]]:
        """(kind, offset, size) of each member of a sample."""
        begin, end = self.arrays["starts"][place : place + 2].tolist()
        kinds, extents = self.arrays["kinds"][begin:end].tolist(), self.arrays["extents"][begin:end].tolist()
        return [(kind, offset, size) for kind, (offset, size) in zip(kinds, extents, strict=True)]


class Kept(NamedTuple):
    """Where what is known of a shard is kept: files that begin with `path`, of use as long as the shard's state is
    this.
    """

    path: Path
    state: list[int | str]

    def file(self, kind: str) -> Path:
        """The file of one kind, such as "index"."""
        return self.path.with_name(f"{self.path.name}.{kind}")


def open_indices(shards: Sequence[Place], folder: str | Path | None = None) -> list[ShardIndex]:
    """The index of each shard; several far away are asked for at once, since each answer takes its time."""
    if not any(isinstance(shard, RemoteFile) for shard in shards):
        return [open_index(shard, folder) for shard in shards]
    threads = ThreadPoolExecutor(REQUESTS_AT_ONCE, "diptych-indices")
    try:
        return list(threads.map(partial(open_index, folder=folder), shards))
    finally:
        threads.shutdown(cancel_futures=True)


def open_index(shard: Place, folder: str | Path | None = None) -> ShardIndex:
    """The index of a shard, from `folder` if one is there that fits, otherwise built (and written there, unless the
    shard cannot be read: a later start may be able to). The index of a shard far away is always kept.
    """
    if folder is None and isinstance(shard, RemoteFile):
        folder = index_folder()
    if folder is None:
        return build_index(shard)
    try:
        kept = kept_for(shard, folder)
    except OSError:
        return build_index(shard)  # which says so
    index = _load(kept)
    if index is not None:
        return index
    index = build_index(shard)
    if any(reason == UNREADABLE for reason, _ in index.problems):
        return index
    return replace(index, kept=kept) if keep_index(kept, index) else index


def kept_for(shard: Place, folder: str | Path) -> Kept:
    """Where in a folder a shard's index is kept; raises OSError for a shard that cannot be opened."""
    name, file = hashlib.sha256(name_bytes(str(shard))).hexdigest()[:24], opened(shard)
    return Kept(Path(folder).absolute() / f"{shard.stem}-{name}", [_FORMAT, file.size, file.identity])


def build_index(shard: Place) -> ShardIndex:
    """Read the headers of a shard."""
    samples: dict[str, dict[str, tuple[int, int, int]]] = {}
    problems: list[tuple[str, str]] = []
    passed_over: dict[str, Named] = {}
    for found in scan_file(shard):
        if isinstance(found, Damage):
            problems.append((found.reason, found.detail))
            continue
        path = PurePosixPath(found.name)
        stem, dot, suffix = path.name.partition(".")
        kind = _KINDS.get(dot + suffix.lower())
        if kind is None or not stem:
            passed_over.setdefault(_rule(path), Named()).add(found.name[:200])
            continue
        members = samples.setdefault(str(path.parent / stem), {})
        if suffix.lower() in members:
            problems.append(("tar_name_repeated", found.name[:200]))
            continue
        members[suffix.lower()] = (kind, found.offset, found.size)
    return index_of(samples, problems, passed_over)


def index_of(
    samples: Mapping[str, Mapping[str, tuple[int, int, int]]],
    problems: list[tuple[str, str]],
    passed_over: dict[str, Named],
) -> ShardIndex:
    """The index of samples, {key: {suffix: (kind, offset, size)}}, and of what else was met."""
    keys = list(samples)
    lengths = [len(members) for members in samples.values()]
    flat = [member for members in samples.values() for member in members.values()]
    members = np.array(flat, np.int64).reshape(-1, 3)
    starts = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]).astype(np.int64)
    names = [name_bytes(key) for key in keys]
    arrays: dict[str, np.ndarray] = {
        "kinds": members[:, 0].astype(np.uint8),
        "extents": np.ascontiguousarray(members[:, 1:]),
        "starts": starts,
        "keys": np.frombuffer(b"".join(names), np.uint8),
        "key_ends": np.cumsum([len(name) for name in names], dtype=np.int64),
        "hashes": np.fromiter(map(key_hash, keys), np.uint64, len(keys)),
        "numbered": np.array([place for place, key in enumerate(keys) if is_numbered(key)], np.int64),
    }
    text = json.dumps([keys, problems])
    digest = hashlib.sha256(text.encode() + members.tobytes() + starts.tobytes()).hexdigest()
    return ShardIndex(len(keys), arrays, problems, digest, passed_over)


def rule_of_suffix(suffix: str) -> str:
    """The rule by which members with a suffix that is not read are passed over."""
    return f"the suffix {suffix or '(none)'}, where {', '.join(_KINDS)} are read"


def _rule(path: PurePosixPath) -> str:
    if path.name.startswith("."):
        return HIDDEN
    if path.suffix.lower() in _KINDS:
        return f"more than one dot in the name: what follows the first must be {', '.join(_KINDS)}"
    return rule_of_suffix(path.suffix.lower())


def _load(kept: Kept) -> ShardIndex | None:
    arrays = kept_arrays(kept, "index")
    if arrays is None:
        return None
    about = arrays.about
    passed_over = {rule: Named(count, names) for rule, (count, names) in about["passed_over"].items()}
    return ShardIndex(about["count"], arrays, about["problems"], about["digest"], passed_over, kept)


def keep_index(kept: Kept, index: ShardIndex) -> bool:
    """Write an index; whether that was possible."""
    passed_over = {rule: (named.count, named.names) for rule, named in index.passed_over.items()}
    about = {"count": index.count, "problems": index.problems, "digest": index.digest, "passed_over": passed_over}
    return keep_arrays(kept, "index", about, index.arrays)


def kept_arrays(kept: Kept, kind: str) -> ArrayFile | None:
    """What is kept of a shard, None where that is nothing, or nothing that fits."""
    try:
        arrays = ArrayFile(kept.file(kind))
        return arrays if arrays.about["state"] == kept.state else None
    except (OSError, ValueError, KeyError, TypeError):
        return None  # not there, half-written or of another program: it is made anew and written over it


def keep_arrays(kept: Kept, kind: str, about: Mapping[str, object], arrays: Mapping[str, np.ndarray]) -> bool:
    """Keep something; whether that was possible: a full or read-only disk only makes the next start slower."""
    try:
        write_arrays(kept.file(kind), {"state": kept.state, **about}, arrays)
    except OSError as error:
        warnings.warn(f"{kept.file(kind)} could not be kept: {error}", stacklevel=2)
        return False
    return True
