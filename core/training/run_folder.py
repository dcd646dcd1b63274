"""The folder of one run: its lock, its files, and the configurations that may continue what is there."""

import contextlib
import errno
import fcntl
import json
import os
import socket
import time
import warnings
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Self

from diptych.core.files.errors import Failure
from diptych.core.files.json_objects import write_json
from diptych.core.placement import ALONE, Placement
from diptych.core.training.card import Card, command_line
from diptych.core.training.checkpoint import newest_state, remove_leftovers


class RunFolderError(Failure):
    """The folder cannot be used; the message says by whom it is held, or what is wrong with it, and what to do."""


class ConfigMismatch(RunFolderError):
    """The folder holds a run of another configuration; the message lists the fields that differ."""


class RunFolder:
    """Owns the folder of a run while entered: creates it, holds its lock and knows the paths in it.

    The lock belongs to the process, not to a file's existence, so a run that was killed leaves none behind.

    Args:
        path: of the folder.
        placement: of several processes the one that writes owns the folder; the others enter it afterwards, and change
            nothing in it.
    """

    def __init__(self, path: str | Path, placement: Placement = ALONE):
        self.path, self._placement = Path(path), placement
        self.card = self.path / "card.json"
        self.metrics = self.path / "metrics.jsonl"
        self.checkpoints = self.path / "checkpoints"
        self.tensorboard = self.path / "tensorboard"
        self.results = self.path / "results.json"
        self.report = self.path / "report.html"
        self.best = self.path / "best"
        self.lock = self.path / "lock"
        self._lock_descriptor: int | None = None

    def __enter__(self) -> Self:
        problem: RunFolderError | None = None
        if self._placement.writes:
            try:
                self._own()
            except RunFolderError as error:
                problem = error
        told = self._placement.told(str(problem) if problem else None)[0]
        if told is not None:
            raise problem or RunFolderError(told)
        return self

    def _own(self) -> None:
        try:
            self.checkpoints.mkdir(parents=True, exist_ok=True)
            self._acquire()
            remove_leftovers(self.checkpoints)
            remove_leftovers(self.path)
        except OSError as error:
            self._release()
            raise RunFolderError(
                f"cannot write the run into {self.path.absolute()}: {error}. Give another folder with --run-dir."
            ) from error

    def __exit__(self, *_: object) -> None:
        self._release()

    def check_config(
        self,
        config: Mapping,
        *,
        harmless: Iterable[str] = (),
        as_now: Callable[[Mapping], Mapping] | None = None,
        flags: Mapping[str, str] = {},
    ) -> None:
        """Refuse to continue with a configuration that would compute something else than the run stored here.

        `config` is the plain dictionary of the card (`card.plain`); fields are compared by dotted name, but those in
        `harmless`, which change how a run is carried out or shown, not what it computes. `as_now` brings what an
        earlier diptych stored into today's form. Where neither card nor checkpoint is stored anything is accepted.

        Raises: ConfigMismatch listing every differing field as stored and as given, by its flag where `flags` has one.
        """
        config_stored = self.stored_config()
        if config_stored is None:
            return
        stored, given = _flatten(as_now(config_stored) if as_now else config_stored), _flatten(_as_json(config))
        differing = [
            f"  {flags.get(name, name)}: stored {_shown(stored, name)}, given {_shown(given, name)}"
            for name in sorted(stored.keys() | given.keys())
            if stored.get(name, _ABSENT) != given.get(name, _ABSENT) and name not in set(harmless)
        ]
        if differing:
            raise ConfigMismatch(
                f"{self.path} holds a run with other options, so its checkpoints cannot be continued with these:\n"
                + "\n".join(differing)
                + "\nGive another --run-dir for a new run, or the stored options to resume this one."
            )

    def stored_config(self) -> dict | None:
        """The configuration of the run that is stored here: the card's, or without a card its newest checkpoint's."""
        card = self.read_card()
        if card is not None:
            return card["config"]
        state = newest_state(self.checkpoints)
        return state.get("config") if state else None

    def read_card(self) -> Card | None:
        """The stored card, or None. Raises: RunFolderError when it is not readable."""
        try:
            card = json.loads(self.card.read_bytes())
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise RunFolderError(
                f"{self.card} is not readable as JSON: {error}. Give another --run-dir or move the file away."
            ) from error
        if not isinstance(card, dict) or "config" not in card:
            raise RunFolderError(
                f"{self.card} is no card of a run: expected an object with a config. Give another --run-dir or move it "
                "away."
            )
        return card

    def write_card(self, card: Card, *, resume_step: int | None = None) -> Card:
        """Store the card and return what was stored.

        Where a card is stored already, its start time and earlier restarts are kept and one restart, from
        `resume_step`, is added.
        """
        stored = self.read_card()
        card = dict(card)
        if stored is not None:
            restart = {"time": card.get("start_time"), "step": resume_step or 0}
            card["start_time"] = stored.get("start_time")
            card["restarts"] = [*stored.get("restarts", []), restart]
        return self._written(card)

    def add_to_card(self, **found: object) -> Card:
        """Add what became known on the way to the stored card; returns the whole."""
        return self._written((self.read_card() or {}) | found)

    def _written(self, card: Card) -> Card:
        if self._placement.writes:
            write_json(self.card, card)
        return card

    def _acquire(self) -> None:
        self._lock_descriptor = os.open(self.lock, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(self._lock_descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
                holder = _read_holder(self.lock)
                self._release()
                raise RunFolderError(_in_use(self.path, holder)) from error
            if error.errno not in (errno.ENOLCK, errno.ENOTSUP):
                raise
            warnings.warn(
                f"{self.path} is on a file system without locks: make sure that no other run uses this folder",
                stacklevel=3,
            )
        since = time.strftime("%Y-%m-%d %H:%M:%S")
        holder = {"pid": os.getpid(), "host": socket.gethostname(), "since": since, "command": command_line()}
        os.ftruncate(self._lock_descriptor, 0)
        os.pwrite(self._lock_descriptor, json.dumps(holder).encode(), 0)

    def _release(self) -> None:
        # The file stays: deleting it would let two processes hold locks on two files of one name.
        if self._lock_descriptor is not None:
            os.close(self._lock_descriptor)
            self._lock_descriptor = None


_ABSENT = object()


def _as_json(value: object) -> object:
    return json.loads(json.dumps(value))


def _flatten(value: object, prefix: str = "") -> dict[str, object]:
    if not isinstance(value, Mapping) or not value:
        return {prefix: value}
    flat: dict[str, object] = {}
    for name, inner in value.items():
        flat |= _flatten(inner, f"{prefix}.{name}" if prefix else str(name))
    return flat


def _shown(flat: Mapping[str, object], name: str) -> str:
    return json.dumps(flat[name], ensure_ascii=False) if name in flat else "nothing"


def _read_holder(lock: Path) -> dict:
    with contextlib.suppress(OSError, ValueError):
        holder = json.loads(lock.read_bytes())
        if isinstance(holder, dict):
            return holder
    return {}


def _in_use(path: Path, holder: Mapping) -> str:
    pid, host = holder.get("pid", "unknown"), holder.get("host", "unknown")
    advice = f"Wait for it, stop it (kill {pid}), or give another --run-dir."
    if host == socket.gethostname() and isinstance(pid, int) and not _exists(pid):
        advice = (
            "That process has ended, but a process it started still holds the lock: "
            "end that one, or give another --run-dir."
        )
    since, command = holder.get("since", "unknown"), holder.get("command", "unknown command")
    return f"{path} is in use by process {pid} on {host} since {since} ({command}). {advice}"


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
