"""Metrics of a run as JSON lines, exact to the last bit, and cut back to a checkpoint on resume."""

import contextlib
import json
import math
import os
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from diptych.core.files.atomic import replacing
from diptych.core.files.json_objects import json_bytes
from diptych.core.training.tensorboard import TensorBoard
from diptych.core.training.trackers import Tracker

MetricsRow = dict[str, Any]
"""A row of metrics: "step", and mostly "examples". A row of a step has its numbers by name ("loss", "learning_rate",
"logit_scale", "logit_bias", "gradient_norm", "examples_per_second", "seconds", those of its terms); a row of an
evaluation has "evaluation", shares by name, and "validation_loss". Any may be missing, or be no number."""
_NON_FINITE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


class MetricsWriter:
    """Appends rows to ``metrics.jsonl``; opening it at step `resume_step` first removes every row of a later step.

    Floats are written as Python's shortest exact spelling, so two runs are equal bit for bit when their rows are. JSON
    has no NaN or infinity; they are written as the strings "NaN", "Infinity" and "-Infinity", which `read_metrics`
    turns back. Without a path, as in a process that does not write, rows go nowhere.

    A disk that takes no more ends no run: rows wait in memory, in `waiting`, and are tried again with the next.

    Args:
        path: of the file.
        resume_step: the last step whose rows stay.
        waiting: rows up to that step that are not in the file yet: `waiting` of the writer before.
        tensorboard: takes the numbers of each row, too; it is given up when its disk is full.
        trackers: take them as well; one that fails is given up.
        say: is told, once, of a disk that takes no more.
    """

    def __init__(
        self,
        path: str | Path | None,
        *,
        resume_step: int = 0,
        waiting: Sequence[str] = (),
        tensorboard: TensorBoard | None = None,
        trackers: Sequence[Tracker] = (),
        say: Callable[[str], None] = print,
    ):
        self.path = None if path is None else Path(path)
        self._tensorboard, self._trackers, self._say = tensorboard, list(trackers), say
        self._told = False
        self._waiting = deque(row.encode() + b"\n" for row in waiting)
        self._begun = 0  # bytes of the first waiting row that are in the file
        if self.path is not None:
            _truncate(self.path, resume_step)
            if self._waiting:  # they may have been written after the checkpoint that stored them
                written = {line for _, line, _ in _lines(self.path)}
                self._waiting = deque(row for row in self._waiting if row not in written)
        self._file = open(self.path or os.devnull, "ab", buffering=0)  # noqa: SIM115 (open for as long as the run)

    @property
    def waiting(self) -> list[str]:
        """The rows, as JSON, that could not be written yet; a checkpoint that stores them loses none."""
        return [row.decode().rstrip("\n") for row in self._waiting]

    def write(self, step: int, values: Mapping[str, object]) -> None:
        """Append one row (numbers, strings, None or plain containers; arrays of one element become numbers) and hand it
        to the system.

        A row survives the death of this process at once, and a loss of power after the next `sync`.
        """
        row = {"step": int(step)} | {name: _plain(value) for name, value in values.items()}
        self._waiting.append(json_bytes(json.dumps(row, ensure_ascii=False, allow_nan=False)) + b"\n")
        self._write_waiting()
        for tracker in list(self._trackers):
            self._tell(tracker, lambda told: told.write(step, values))
        board = self._tensorboard
        if board is None:
            return
        try:
            board.write(step, values)
        except OSError as error:
            self._say(f"TensorBoard's file takes no more: {error}. It ends here; all rows are in {self.path}.")
            self._tensorboard = None
            with contextlib.suppress(OSError):
                board.close()

    def sync(self) -> None:
        """Flush to the disk all rows that it takes. Call it before saving a checkpoint, so that no checkpoint is ahead
        of its metrics and of what it stores of `waiting`.
        """
        self._write_waiting()
        if self.path is not None and not self._waiting:
            os.fsync(self._file.fileno())

    def close(self) -> None:
        """Flush to the disk and close, TensorBoard and trackers included; a second call does nothing."""
        if not self._file.closed:
            try:
                self.sync()
            except OSError as error:
                self._say(f"{self.path} may lack its last rows: {error}.")
            self._file.close()
        if self._tensorboard:
            self._tensorboard.close()
        while self._trackers:
            self._tell(self._trackers.pop(), lambda told: told.close())

    def _tell(self, tracker: Tracker, what: Callable[[Tracker], None]) -> None:
        try:
            what(tracker)
        except Exception as error:  # whatever a client raises, the run is worth more
            self._say(f"{tracker.name} takes no more: {error}. It ends here; all rows are in {self.path}.")
            self._trackers = [other for other in self._trackers if other is not tracker]

    def _write_waiting(self) -> None:
        try:
            while self._waiting:
                self._begun += self._file.write(self._waiting[0][self._begun :])
                if self._begun == len(self._waiting[0]):
                    self._waiting.popleft()
                    self._begun = 0
        except OSError as error:
            if not self._told:
                self._say(f"{self.path} takes no more rows: {error}. They wait in memory until there is space again.")
            self._told = True
            return
        if self._told:
            self._say(f"{self.path} takes rows again; none is missing.")
            self._told = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def read_metrics(path: str | Path) -> list[MetricsRow]:
    """All rows of a metrics file in the order written; a torn last line is ignored, other unreadable lines are warned
    about and left out.
    """
    path = Path(path)
    rows = []
    for number, line, row in _lines(path):
        if row is None:
            if line.endswith(b"\n"):
                warnings.warn(
                    f"{path}, line {number}: expected a JSON object with a step, got {line[:60]!r}; left out",
                    stacklevel=2,
                )
            continue
        rows.append({name: _revived(value) for name, value in row.items()})
    return rows


def _lines(path: Path) -> Iterator[tuple[int, bytes, dict | None]]:
    """Each line's number from 1, its bytes, and the row it holds, or None where it holds no complete row."""
    if not path.is_file():
        return
    with open(path, "rb") as file:
        for number, line in enumerate(file, 1):
            try:
                row = json.loads(line) if line.endswith(b"\n") else None
            except ValueError:
                row = None
            yield number, line, row if isinstance(row, dict) and isinstance(row.get("step"), int) else None


def _truncate(path: Path, step: int) -> None:
    """Keep the complete rows up to `step`, in a new file that replaces the old one in a single rename."""
    kept, dropped = [], 0
    for number, line, row in _lines(path):
        if row is not None and row["step"] <= step:
            kept.append(line)
            continue
        dropped += 1
        if row is None and line.endswith(b"\n"):
            warnings.warn(
                f"{path}, line {number}: expected a JSON object with a step, got {line[:60]!r}; removed", stacklevel=4
            )
    if not dropped:
        return
    with replacing(path) as file:
        file.writelines(kept)


def _plain(value: object) -> object:
    if hasattr(value, "item"):
        value = value.item()
    if isinstance(value, Mapping):
        return {str(name): _plain(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value


def _revived(value: object) -> object:
    if isinstance(value, dict):
        return {name: _revived(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_revived(inner) for inner in value]
    return _NON_FINITE.get(value, value) if isinstance(value, str) else value
