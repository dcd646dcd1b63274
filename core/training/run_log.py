"""The log of a run: what its loop writes down and shows of steps and evaluations."""

import io
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from types import MappingProxyType
from typing import Self

from diptych.core.training.best import LOSS, shown
from diptych.core.training.metrics import MetricsWriter
from diptych.core.training.progress import Progress
from diptych.core.training.run_folder import RunFolder
from diptych.core.training.tensorboard import TensorBoard
from diptych.core.training.trackers import opened


class RunLog:
    """Rows of metrics and progress, of a process that writes; of another nothing.

    Args:
        folder: of the run.
        total_steps, start: number of the last step, and of the last one that is done.
        batch_size: examples a step.
        log_every: steps between rows of metrics.
        turns: steps after which examples of another kind follow, each with a line about it. The next step compiles,
            and the speed is measured anew behind it.
        writes: whether this process writes and talks.
        tensorboard: whether rows also go into TensorBoard files.
        trackers: names of the trackers that are told of them, too (`trackers.TRACKERS`).
        config: the plain configuration of the run, for the trackers.
        waiting: rows that the checkpoint of `start` kept, because they could not be written (`MetricsWriter.waiting`).
        say: for messages about the files.
    """

    def __init__(
        self,
        folder: RunFolder,
        *,
        total_steps: int,
        start: int,
        batch_size: int,
        log_every: int,
        turns: Mapping[int, str],
        writes: bool,
        tensorboard: bool,
        trackers: Sequence[str] = (),
        config: Mapping[str, object] = MappingProxyType({}),
        waiting: Sequence[str],
        say: Callable[[str], None],
    ):
        self._total_steps, self._batch_size, self._log_every = total_steps, batch_size, log_every
        self._turns = turns
        self._metrics = MetricsWriter(
            folder.metrics if writes else None,
            resume_step=start,
            waiting=waiting,
            tensorboard=TensorBoard(folder.tensorboard, resume_step=start) if tensorboard and writes else None,
            trackers=[opened(name, folder.path, config) for name in trackers if writes],
            say=say,
        )
        self._progress = Progress(total_steps, start, batch_size, stream=None if writes else io.StringIO())

    @property
    def examples_per_second(self) -> float | None:
        """Lately; None until it is known."""
        return self._progress.examples_per_second

    @property
    def waiting(self) -> list[str]:
        """Rows that could not be written yet."""
        return self._metrics.waiting

    def step(self, number: int, values: Mapping[str, float], *, skipped_steps: int, seconds: float) -> None:
        """One step's numbers, shown and, where they are due, written in a row; the rest counts since the beginning."""
        if number - 1 in self._turns:
            self._progress.restart()
        speed = self.examples_per_second
        self._progress.update(number, values)
        if number % self._log_every == 0 or number == self._total_steps:
            row = {"examples": number * self._batch_size, **values, "skipped_steps": skipped_steps}
            self._metrics.write(number, row | {"examples_per_second": speed, "seconds": seconds})
        if number in self._turns:
            self.message(self._turns[number])

    def evaluation(self, number: int, values: Mapping[str, float], *, best: bool) -> None:
        """What an evaluation after a step found, and whether it is the best so far."""
        examples = number * self._batch_size
        row = {"examples": examples, "evaluation": {name: share for name, share in values.items() if name != LOSS}}
        if LOSS in values:
            row["validation_loss"] = values[LOSS]
        self._metrics.write(number, row)
        told = [f"{name} {shown(name, value)}" for name, value in values.items() if math.isfinite(value)]
        self.message(f"After {examples:,} examples: {', '.join(told)}{' (the best so far)' if best else ''}")

    def message(self, text: str) -> None:
        """A line for the person watching."""
        self._progress.message(text)

    def sync(self) -> None:
        """See `MetricsWriter.sync`."""
        self._metrics.sync()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with ExitStack() as stack:
            stack.callback(self._metrics.close)
            stack.callback(self._progress.close)
