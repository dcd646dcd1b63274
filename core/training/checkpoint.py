"""Checkpoints that a kill, a full disk or a flipped byte cannot spoil: whole and verified, or not used.

A checkpoint is a folder ``step-00001234`` with one safetensors file a group (``weights``, ``optimizer``, ``ema``),
``state.json`` and ``manifest.json``, which holds the size and SHA-256 of the others. It is written under a temporary
name on the same file system, every file and the folder are flushed to disk, and one rename makes it visible. Loading
verifies the manifest and falls back to the checkpoint before.
"""

import contextlib
import hashlib
import json
import re
import shutil
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from diptych.core.files.atomic import flush_to_disk, put_in_place
from diptych.core.files.errors import Failure
from diptych.core.training.faults import fault_point
from diptych.core.weights.safetensors import read_tensors, write_safetensors

FORMAT = 1
_COMPLETE = re.compile(r"step-(\d{8,})")
_LEFT_OVER = re.compile(r"\.(saving|replaced|removing)-(step-\d{8,}|best)")
_GROUP = re.compile(r"[a-z][a-z0-9_]*")
_GROUP_FILE = re.compile(rf"{_GROUP.pattern}\.safetensors")

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
    folder = Path(folder)
    if step < 0 or keep < 1:
        raise ValueError(f"step={step}, keep={keep}: expected step >= 0 and keep >= 1")
    for group in groups:
        if not _GROUP.fullmatch(group):
            raise ValueError(
                f"group {group!r}: expected lower-case letters, digits and underscores, it becomes a file name"
            )
    state_text = _plain_json(dict(state))
    final = folder / f"step-{step:08d}"
    temporary = folder / f".saving-{final.name}"
    try:
        if not folder.is_dir():
            folder.mkdir(parents=True)
            flush_to_disk(folder.parent)
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir()
        _write_contents(temporary, step, groups, state_text)
        fault_point("before_fsync")
        for path in (*sorted(temporary.iterdir()), temporary):
            flush_to_disk(path)
        fault_point("before_rename")
        put_in_place(temporary, final)
        fault_point("after_rename")
        flush_to_disk(folder)
    except BaseException as error:
        shutil.rmtree(temporary, ignore_errors=True)
        if isinstance(error, OSError):
            raise CheckpointError(_write_failure(final, groups, error)) from error
        raise
    _prune(folder, step, keep)
    return final


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
    groups: Groups = {}
    state: dict = {}
    for name, expected in manifest["files"].items():
        file = path / name
        try:
            _verify(file, expected)
            if name == "state.json":
                state = json.loads(file.read_bytes())
            else:
                groups[file.stem] = read_tensors(file)
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise CheckpointError(f"Checkpoint {path.name} cannot be used: {error}.") from error
    return Checkpoint(manifest["step"], groups, state)


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


def _write_contents(
    temporary: Path, step: int, groups: Mapping[str, Mapping[str, np.ndarray]], state_text: bytes
) -> None:
    for group, tensors in groups.items():
        write_safetensors(temporary / f"{group}.safetensors", tensors)
    fault_point("after_tensors")
    (temporary / "state.json").write_bytes(state_text)
    fault_point("before_manifest")
    files = {path.name: _describe(path) for path in sorted(temporary.iterdir())}
    (temporary / "manifest.json").write_bytes(_signed({"format": FORMAT, "step": step, "files": files}))


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
        if manifest["format"] != FORMAT:
            raise ValueError(f"has format {manifest['format']}, expected {FORMAT}: use the version that wrote it")
        if _COMPLETE.fullmatch(path.name) and path.name != f"step-{manifest['step']:08d}":
            raise ValueError(f"is of step {manifest['step']}, expected that of its folder")
        for name in manifest["files"]:
            if name != "state.json" and not _GROUP_FILE.fullmatch(name):
                raise ValueError(f"lists {name!r}, which is no file of a checkpoint")
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


def _write_failure(final: Path, groups: Mapping[str, Mapping[str, np.ndarray]], error: Exception) -> str:
    needed = sum(array.nbytes for tensors in groups.values() for array in tensors.values())
    existing = next(parent for parent in final.parents if parent.exists())
    free = shutil.disk_usage(existing).free
    return (
        f"could not write the checkpoint {final}: {error}. It needs {needed:,} bytes and {free:,} are free there. "
        "Earlier checkpoints are untouched: free some space or choose another --run-dir, then give the same command "
        "again to resume."
    )
