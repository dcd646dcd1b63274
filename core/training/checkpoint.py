"""Checkpoints that a kill, a full disk or a flipped byte cannot spoil: whole and verified, or not used.

A checkpoint is a folder ``step-00001234`` with one safetensors file a group (``weights``, ``optimizer``, ``ema``),
``state.json`` and ``manifest.json``, which holds the size and SHA-256 of the others. It is written under a temporary
name on the same file system, every file and the folder are flushed to disk, and one rename makes it visible. Loading
verifies the manifest and falls back to the checkpoint before.

Of several processes each writes a part of every group (``weights-00001-of-00002.safetensors``) and ``part-00001.json``,
which says which numbers of which tensors these are, and the size and SHA-256 of its files. The manifest, whose `parts`
says how many there are, is written by the first, when all are there.
"""

import contextlib
import hashlib
import json
import re
import shutil
import warnings
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from diptych.core.files.atomic import flush_to_disk, put_in_place
from diptych.core.files.errors import Failure
from diptych.core.training.checkpoint_parts import (
    Piece,
    Pieces,
    check_whole,
    described,
    joined,
    pieces_of,
    read_arrays,
    read_pieces,
)
from diptych.core.training.faults import fault_point
from diptych.core.weights.safetensors import read_tensors, write_safetensors

FORMAT = 1
FORMAT_OF_PARTS = 2
_COMPLETE = re.compile(r"step-(\d{8,})")
_LEFT_OVER = re.compile(r"\.(saving|replaced|removing)-(step-\d{8,}|best)(-[0-9a-f]+)?")
_GROUP = re.compile(r"[a-z][a-z0-9_]*")
_FILES = {
    FORMAT: re.compile(rf"{_GROUP.pattern}\.safetensors"),
    FORMAT_OF_PARTS: re.compile(rf"{_GROUP.pattern}-\d{{5,}}-of-\d{{5,}}\.safetensors|part-\d{{5,}}\.json"),
}

Groups = dict[str, dict[str, np.ndarray]]


class CheckpointError(Failure):
    """A checkpoint could not be written, or none could be read; the message says which file and what to do."""


@dataclass(frozen=True)
class Checkpoint:
    """What one checkpoint holds: arrays by group and name, and the plain state beside them (examples seen, seed,
    counters).
    """

    step: int
    groups: Groups
    state: dict


def save(
    folder: str | Path, step: int, groups: Mapping[str, Mapping[str, np.ndarray]], state: Mapping, keep: int = 2
) -> Path:
    """Write the checkpoint of `step` into `folder`, then delete all but the newest `keep`; return the checkpoint's
    folder.

    `state` is plain JSON (str keys, lists, numbers, None) and comes back equal. When this returns, the checkpoint
    survives a loss of power.

    Raises: CheckpointError when the disk refuses; nothing is left behind and the earlier checkpoints are untouched.
            ValueError for a state or a name that could not be read back equal.
    """
    _check_names(groups)
    saving = Saving(folder, step, keep=keep)
    try:
        saving.write(pieces_of(groups), state)
        return saving.complete()
    except BaseException:
        saving.abandon()
        raise


class Saving:
    """A checkpoint on its way to the disk, as one process sees it: each writes its part, then the first makes of all
    parts a checkpoint, in one rename.

    Args:
        folder: of checkpoints.
        step: whose checkpoint it is.
        part, parts: the number of this process's, from 1, and how many there are; one part is the whole.
        attempt: where there are several, a word for the temporary folder's name that these processes share and others
            have not: those of an earlier start may still be writing.
        keep: how many checkpoints stay.
    """

    def __init__(
        self, folder: str | Path, step: int, *, part: int = 1, parts: int = 1, attempt: str = "", keep: int = 2
    ):
        if step < 0 or keep < 1:
            raise ValueError(f"step={step}, keep={keep}: expected step >= 0 and keep >= 1")
        self._folder, self._step, self._keep = Path(folder), step, keep
        self._part, self._parts = part, parts
        self.final = self._folder / f"step-{step:08d}"
        self._temporary = self._folder / f".saving-{self.final.name}{f'-{attempt}' if attempt else ''}"
        self._bytes = 0

    def write(self, pieces: Pieces, state: Mapping) -> None:
        """Write this process's part: when this returns, it survives a loss of power. The state is the first part's.

        Raises: as `save`.
        """
        groups = list(dict.fromkeys(piece.group for piece, _ in pieces))
        _check_names(groups)
        state_text = _plain_json(dict(state))
        self._bytes = sum(array.nbytes for _, array in pieces)
        with self._told():
            if not self._folder.is_dir():
                self._folder.mkdir(parents=True, exist_ok=True)
                flush_to_disk(self._folder.parent)
            if self._parts == 1:
                shutil.rmtree(self._temporary, ignore_errors=True)
            self._temporary.mkdir(exist_ok=True)
            written = self._write_groups(groups, pieces)
            fault_point("after_tensors")
            if self._part == 1:
                written.append(self._temporary / "state.json")
                written[-1].write_bytes(state_text)
            if self._parts > 1:
                files = {path.name: _describe(path) for path in written}
                written.append(self._temporary / _part_name(self._part))
                text = {"files": files, "pieces": described(piece for piece, _ in pieces)}
                written[-1].write_bytes(json.dumps(text).encode())
            for path in (*written, self._temporary):
                flush_to_disk(path)
            fault_point("after_part")

    def complete(self) -> Path:
        """Make a checkpoint of the parts, once all are written, and return its folder; one process does.

        Raises: as `save`.
        """
        with self._told():
            fault_point("before_manifest")
            manifest = self._temporary / "manifest.json"
            manifest.write_bytes(_signed(self._manifest()))
            fault_point("before_fsync")
            for path in (manifest, self._temporary):
                flush_to_disk(path)
            fault_point("before_rename")
            put_in_place(self._temporary, self.final)
            fault_point("after_rename")
            flush_to_disk(self._folder)
        _prune(self._folder, self._step, self._keep)
        return self.final

    def abandon(self) -> None:
        """Delete what is written, once no process writes any more."""
        shutil.rmtree(self._temporary, ignore_errors=True)

    def _write_groups(self, groups: list[str], pieces: Pieces) -> list[Path]:
        if self._parts == 1:
            whole = joined(pieces)
            tensors = {f"{group}.safetensors": whole[group] for group in groups}
        else:
            tensors = {
                f"{group}-{self._part:05d}-of-{self._parts:05d}.safetensors": {
                    piece.key: array for piece, array in pieces if piece.group == group
                }
                for group in groups
            }
        for name, arrays in tensors.items():
            write_safetensors(self._temporary / name, arrays)
        return [self._temporary / name for name in tensors]

    def _manifest(self) -> dict:
        """Of what is there: every part, whole by its own account, and together all of every tensor."""
        files: dict[str, dict] = {}
        if self._parts == 1:
            files |= {path.name: _describe(path) for path in sorted(self._temporary.iterdir())}
            return {"format": FORMAT, "step": self._step, "files": files}
        pieces: list[Piece] = []
        try:
            for part in range(1, self._parts + 1):
                path = self._temporary / _part_name(part)
                listed = json.loads(path.read_bytes())
                files |= listed["files"] | {path.name: _describe(path)}
                pieces += read_pieces(listed["pieces"])
            for name, expected in files.items():
                found = (self._temporary / name).stat().st_size
                if found != expected["bytes"]:
                    raise ValueError(f"{name} has {found} bytes, expected {expected['bytes']}")
            check_whole(pieces)
        except (ValueError, TypeError, KeyError) as error:
            raise CheckpointError(
                f"could not make the checkpoint {self.final} of the parts in {self._temporary}: {error}. Earlier "
                "checkpoints are untouched; see whether another run writes there."
            ) from error
        return {"format": FORMAT_OF_PARTS, "step": self._step, "parts": self._parts, "files": files}

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        """Turns what the disk refuses into a sentence; a checkpoint of one part is then deleted first, for the bytes
        that are free to be counted without it.
        """
        try:
            yield
        except OSError as error:
            if self._parts == 1:
                self.abandon()
            raise CheckpointError(self._failure(error)) from error

    def _failure(self, error: OSError) -> str:
        existing = next(parent for parent in self.final.parents if parent.exists())
        free = shutil.disk_usage(existing).free
        part = f"part {self._part} of {self._parts} of " if self._parts > 1 else ""
        return (
            f"could not write {part}the checkpoint {self.final}: {error}. It needs {self._bytes:,} bytes and {free:,} "
            "are free there. Earlier checkpoints are untouched: free some space or choose another --run-dir, then give "
            "the same command again to resume."
        )


def restore_latest(folder: str | Path) -> Checkpoint | None:
    """Return the newest checkpoint in `folder` that verifies, or None where no checkpoint was ever written.

    A damaged checkpoint is reported in a warning and, once an older one has been read, renamed ``damaged-step-...`` so
    that it is kept but no longer considered.

    Raises: CheckpointError when there are checkpoints and none of them is good.
    """
    folder = Path(folder)
    paths = _complete_checkpoints(folder)
    problems: dict[Path, CheckpointError] = {}
    for path in reversed(paths):
        try:
            checkpoint = load(path)
        except CheckpointError as error:
            problems[path] = error
            continue
        for damaged, problem in problems.items():
            warnings.warn(f"{problem} Resuming from the checkpoint before it, {path}.", stacklevel=2)
            if _is_damaged(problem):
                _set_aside(damaged)
        return checkpoint
    if problems:
        listed = "\n  ".join(map(str, problems.values()))
        raise CheckpointError(
            f"{folder} holds {len(problems)} checkpoint(s) and none is good:\n  {listed}\n"
            f"Copy a good checkpoint back into it, or move {folder} away to start from the beginning."
        )
    return None


def load(path: str | Path) -> Checkpoint:
    """Read one checkpoint folder after verifying the size and SHA-256 of every file; it changes nothing on disk.

    Raises: CheckpointError naming the file, what was found and what was expected.
    """
    path = Path(path)
    manifest = _read_manifest(path)
    try:
        for name, expected in manifest["files"].items():
            _verify(path / name, expected)
        state = json.loads((path / "state.json").read_bytes())
        groups = _joined(path, manifest) if manifest["format"] == FORMAT_OF_PARTS else _whole(path, manifest)
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise CheckpointError(f"Checkpoint {path.name} cannot be used: {error}.") from error
    return Checkpoint(manifest["step"], groups, state)


def _whole(path: Path, manifest: Mapping) -> Groups:
    files = [path / name for name in manifest["files"] if name != "state.json"]
    return {file.stem: read_tensors(file) for file in files}


def _joined(path: Path, manifest: Mapping) -> Groups:
    """The tensors of a checkpoint by parts; of one part's there is never more than a piece in memory besides them."""
    parts = [read_pieces(json.loads((path / name).read_bytes())["pieces"]) for name in _part_names(manifest)]
    check_whole(piece for pieces in parts for piece in pieces)

    def arrays() -> Iterator[tuple[Piece, np.ndarray]]:
        for number, pieces in enumerate(parts, 1):
            by_group: dict[str, list[Piece]] = {}
            for piece in pieces:
                by_group.setdefault(piece.group, []).append(piece)
            for group, some in by_group.items():
                yield from read_arrays(path / f"{group}-{number:05d}-of-{len(parts):05d}.safetensors", some)

    return joined(arrays())


def _part_names(manifest: Mapping) -> list[str]:
    return [_part_name(part) for part in range(1, manifest["parts"] + 1)]


def load_step(folder: str | Path, step: int) -> Checkpoint:
    """As `load`, the checkpoint of one step and no other; raises CheckpointError where it is damaged or not there."""
    path = Path(folder) / f"step-{step:08d}"
    if not path.is_dir():
        raise CheckpointError(f"{folder} holds no checkpoint of step {step}.")
    return load(path)


def newest_state(folder: str | Path) -> dict | None:
    """The state of the newest checkpoint whose state can be read, without a look at its arrays; None without one."""
    for path in reversed(_complete_checkpoints(Path(folder))):
        with contextlib.suppress(OSError, ValueError):
            state = json.loads((path / "state.json").read_bytes())
            if isinstance(state, dict):
                return state
    return None


def remove_leftovers(folder: str | Path) -> list[str]:
    """Delete what an interrupted `save` left in `folder` (only names that `save` makes, and those of a run's
    best model) and return the names.

    Call it only while no other process saves into the folder, that is, under the run's lock.
    """
    folder = Path(folder)
    removed = []
    for path in sorted(folder.iterdir()) if folder.is_dir() else []:
        match = _LEFT_OVER.fullmatch(path.name)
        if not match:
            continue
        original = folder / match[2]
        if match[1] == "replaced" and not original.exists():
            path.rename(original)  # the kill came between the two renames of a replacement
            continue
        shutil.rmtree(path, ignore_errors=True)
        removed.append(path.name)
    return removed


def _check_names(groups: Iterable[str]) -> None:
    for group in groups:
        if not _GROUP.fullmatch(group):
            raise ValueError(
                f"group {group!r}: expected lower-case letters, digits and underscores, it becomes a file name"
            )


def _part_name(part: int) -> str:
    return f"part-{part:05d}.json"


def _plain_json(state: dict) -> bytes:
    try:
        text = json.dumps(state, indent=1, sort_keys=True, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"the state of a checkpoint must be plain JSON: {error}; convert arrays and NumPy numbers first"
        ) from error
    if json.loads(text) != state:
        raise ValueError(
            "the state of a checkpoint would not come back equal from JSON: use str keys, and lists in place of tuples"
        )
    return text.encode()


def _describe(path: Path) -> dict[str, int | str]:
    with open(path, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        return {"bytes": file.tell(), "sha256": digest}


def _verify(path: Path, expected: Mapping) -> None:
    if not path.is_file():
        raise ValueError(f"{path} is missing")
    size = path.stat().st_size
    if size != expected["bytes"]:
        raise ValueError(f"{path} has {size} bytes, expected {expected['bytes']}")
    digest = _describe(path)["sha256"]
    if digest != expected["sha256"]:
        raise ValueError(f"{path} has SHA-256 {digest}, expected {expected['sha256']}")


def _signed(manifest: dict) -> bytes:
    """The bytes of a manifest, which also vouch for themselves: the last field is the SHA-256 of the rest."""
    body = {key: value for key, value in manifest.items() if key != "sha256"}
    digest = hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
    return json.dumps(body | {"sha256": digest}, indent=1).encode() + b"\n"


def _read_manifest(path: Path) -> dict:
    """Read and verify a manifest; any changed byte is found, because equal contents have exactly one spelling."""
    file = path / "manifest.json"
    try:
        raw = file.read_bytes()
        manifest = json.loads(raw)
        if not isinstance(manifest, dict) or _signed(manifest) != raw:
            raise ValueError("differs from what its own checksum says")
        if manifest["format"] not in (FORMAT, FORMAT_OF_PARTS):
            raise ValueError(
                f"has format {manifest['format']}, expected {FORMAT} or {FORMAT_OF_PARTS}: use the version that wrote "
                "it"
            )
        if _COMPLETE.fullmatch(path.name) and path.name != f"step-{manifest['step']:08d}":
            raise ValueError(f"is of step {manifest['step']}, expected that of its folder")
        for name in manifest["files"]:
            if name != "state.json" and not _FILES[manifest["format"]].fullmatch(name):
                raise ValueError(f"lists {name!r}, which is no file of a checkpoint")
        if manifest["format"] == FORMAT_OF_PARTS and not manifest["files"].keys() >= set(_part_names(manifest)):
            raise ValueError(f"lists not all of {manifest['parts']} parts")
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        raise CheckpointError(f"Checkpoint {path.name} cannot be used: {file}: {error}.") from error
    return manifest


def _complete_checkpoints(folder: Path) -> list[Path]:
    """Checkpoint folders, oldest step first."""
    if not folder.is_dir():
        return []
    found = [(int(match[1]), path) for path in folder.iterdir() if (match := _COMPLETE.fullmatch(path.name))]
    return [path for _, path in sorted(found)]


def _prune(folder: Path, step: int, keep: int) -> None:
    """Delete checkpoints older than the newest `keep` up to `step`; each is renamed first, so that a kill leaves no
    half under a good name.
    """
    up_to_step = [path for path in _complete_checkpoints(folder) if int(path.name.removeprefix("step-")) <= step]
    for path in up_to_step[:-keep]:
        removing = path.with_name(f".removing-{path.name}")
        try:
            path.rename(removing)
            fault_point("during_prune")
            shutil.rmtree(removing)
        except OSError as error:
            warnings.warn(f"could not delete the old checkpoint {path}: {error}; the new one is safe", stacklevel=3)


def _is_damaged(problem: CheckpointError) -> bool:
    """Whether the contents are wrong, as opposed to a disk or a permission that may let them be read another time."""
    return not isinstance(problem.__cause__, OSError) or isinstance(problem.__cause__, FileNotFoundError)


def _set_aside(damaged: Path) -> None:
    aside = damaged.with_name(f"damaged-{damaged.name}")
    try:
        if aside.exists():
            shutil.rmtree(aside)
        damaged.rename(aside)
    except OSError as error:
        warnings.warn(f"could not rename the damaged checkpoint {damaged}: {error}", stacklevel=3)
