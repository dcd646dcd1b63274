"""The index of one tar shard: which samples it holds and where, kept in a file so that headers are read once."""

import hashlib
import json
import warnings
import zipfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path, PurePosixPath

import numpy as np

from diptych.core.data.ledger import Named
from diptych.core.data.sources.files import HIDDEN, IMAGE_SUFFIXES
from diptych.core.data.sources.keys import name_bytes
from diptych.core.data.sources.tar import UNREADABLE, Damage, scan_file
from diptych.core.files.atomic import replacing
from diptych.core.files.cache_folder import index_folder
from diptych.core.files.random_access import Place, opened
from diptych.core.files.remote.file import RemoteFile

IMAGE, TEXT, JSON, LABEL = range(4)
_KINDS = dict.fromkeys(IMAGE_SUFFIXES, IMAGE) | {".txt": TEXT, ".json": JSON, ".cls": LABEL}
_FORMAT = 5
_REQUESTS_AT_ONCE = 16


@dataclass(frozen=True)
class ShardIndex:
    """Samples first, then problems; arrays rather than objects, because a shard holds thousands and a data set
    thousands of shards.

    keys: one a sample.   members: int64 [members, 3] of (kind, offset, size), sample after sample.
    starts: int64 [samples + 1], where each sample's members begin.   problems: (reason, detail) of each damage met.
    passed_over: the members that are neither image nor caption nor label, by the rule that says so.
    """

    keys: list[str]
    members: np.ndarray
    starts: np.ndarray
    problems: list[tuple[str, str]]
    passed_over: dict[str, Named] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.keys) + len(self.problems)

    def problem(self, place: int) -> tuple[str, str] | None:
        """(reason, detail) where the entry at `place` is not a sample."""
        if place < len(self.keys):
            return None
        reason, detail = self.problems[place - len(self.keys)]
        return reason, detail

    def sample(self, place: int) -> tuple[str, list[list[int]]]:
        """Key and [kind, offset, size] of each member."""
        return self.keys[place], self.members[self.starts[place] : self.starts[place + 1]].tolist()

    def fingerprint(self) -> str:
        """Hash of all that the index holds."""
        text = json.dumps([self.keys, self.problems])
        return hashlib.sha256(text.encode() + self.members.tobytes() + self.starts.tobytes()).hexdigest()


def open_indices(shards: Sequence[Place], folder: str | Path | None = None) -> list[ShardIndex]:
    """The index of each shard; several far away are asked for at once, since each answer takes its time."""
    if not any(isinstance(shard, RemoteFile) for shard in shards):
        return [open_index(shard, folder) for shard in shards]
    threads = ThreadPoolExecutor(_REQUESTS_AT_ONCE, "diptych-indices")
    try:
        return list(threads.map(partial(open_index, folder=folder), shards))
    finally:
        threads.shutdown(cancel_futures=True)


def open_index(shard: Place, folder: str | Path | None = None) -> ShardIndex:
    """The index of a shard, from `folder` if one is there that fits, otherwise built (and written there, unless the
    shard cannot be read: a later start may be able to). The index of a shard far away is always kept.
    """
    try:
        file = opened(shard)
    except OSError:
        return build_index(shard)  # which says so
    if folder is None and isinstance(shard, RemoteFile):
        folder = index_folder()
    if folder is None:
        return build_index(shard)
    name = hashlib.sha256(name_bytes(str(shard))).hexdigest()[:24]
    path = Path(folder) / f"{shard.stem}-{name}.npz"
    shard_state: list[int | str] = [_FORMAT, file.size, file.identity]
    index = _load(path, shard_state)
    if index is not None:
        return index
    index = build_index(shard)
    try:
        if not any(reason == UNREADABLE for reason, _ in index.problems):
            _save(path, shard_state, index)
    except OSError as error:  # a full or read-only disk: the index is in memory, only the next start is slower
        warnings.warn(f"the index of {shard} could not be kept as {path}: {error}", stacklevel=2)
    return index


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
    lengths = [len(members) for members in samples.values()]
    flat = [member for members in samples.values() for member in members.values()]
    return ShardIndex(
        keys=list(samples),
        members=np.array(flat, np.int64).reshape(-1, 3),
        starts=np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]).astype(np.int64),
        problems=problems,
        passed_over=passed_over,
    )


def rule_of_suffix(suffix: str) -> str:
    """The rule by which members with a suffix that is not read are passed over."""
    return f"the suffix {suffix or '(none)'}, where {', '.join(_KINDS)} are read"


def _rule(path: PurePosixPath) -> str:
    if path.name.startswith("."):
        return HIDDEN
    if path.suffix.lower() in _KINDS:
        return f"more than one dot in the name: what follows the first must be {', '.join(_KINDS)}"
    return rule_of_suffix(path.suffix.lower())


def _load(path: Path, shard_state: list[int | str]) -> ShardIndex | None:
    try:
        with path.open("rb") as stored, np.load(stored, allow_pickle=False) as file:
            described = json.loads(file["described"].tobytes())
            if described["shard"] != shard_state:
                return None
            passed_over = {rule: Named(count, names) for rule, (count, names) in described["passed_over"].items()}
            return ShardIndex(described["keys"], file["members"], file["starts"], described["problems"], passed_over)
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None  # not there, half-written or of another program: the index is built anew and written over it


def _save(path: Path, shard_state: list[int | str], index: ShardIndex) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    passed_over = {rule: (named.count, named.names) for rule, named in index.passed_over.items()}
    described = json.dumps(
        {"shard": shard_state, "keys": index.keys, "problems": index.problems, "passed_over": passed_over}
    )
    with replacing(path) as file:
        np.savez(
            file,
            described=np.frombuffer(described.encode(), np.uint8),
            members=index.members,
            starts=index.starts,
        )
