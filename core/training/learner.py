"""The one training loop: batches in, steps, metrics, evaluations and checkpoints out."""

import io
import math
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Protocol

import keras
import numpy as np

from diptych.core.data.batch import Batch
from diptych.core.data.loading.loader import Loader
from diptych.core.placement import ALONE, Placement
from diptych.core.training import checkpoint
from diptych.core.training.ema import Ema
from diptych.core.training.metrics import MetricsWriter
from diptych.core.training.older_runs import slots_as_now
from diptych.core.training.optimizers import PatternOptimizer
from diptych.core.training.progress import Progress
from diptych.core.training.run_folder import RunFolder
from diptych.core.training.signals import StopSignals
from diptych.core.training.teacher import EmaTeacher
from diptych.core.training.tensorboard import TensorBoard


class Step(Protocol):
    """What `diptych.backends.train_step` builds."""

    compilations: int

    def __call__(self, batch: dict) -> dict: ...

    def synchronize(self) -> None: ...


class TrainingDiverged(RuntimeError):
    """Too many steps in a row had a loss or gradient that is not finite; the message names their examples."""


@dataclass
class Learner:
    """Runs `total_steps` steps from wherever the run folder's newest checkpoint left off.

    A run is a pure function of its options: killed at any moment and started again, it ends with the same bits (on the
    same machine and number of threads), because the checkpoint holds weights, optimizer, moving average, counters and
    the place in the data, and metrics of later steps are cut off on resume.

    Args:
        model, optimizer, ema, teacher, step: what `diptych.backends.train_step` built, and from what; the model is
            evaluated and saved with its Keras variables.
        objective_variables: what the objective keeps between steps, by name.
        loader: an endless, seekable source of batches.
        folder: an entered `RunFolder`.
        total_steps: number of the last step; a step takes one batch.
        first_step, first_update: steps before this run, in data that goes on, and updates that the optimizer has
            already made.
        pieces: into how many equal parts, each with an optimizer's step of its own, a batch is to be cut; None for one.
        evaluate: called every `evaluate_every` steps and at the end; its numbers become a metrics row. It sees the
            moving average's weights where there is one.
        checkpoint_every: steps between checkpoints; None for one every `checkpoint_seconds`.
        log_every: steps between rows of metrics.
        tensorboard: whether metrics also go into TensorBoard files.
        placement: of several processes one alone writes and talks.
        flops_per_step, peak_flops_per_second: where both are known, progress shows utilisation.
        max_skipped_in_a_row: non-finite steps in a row after which the run stops.
    """

    model: keras.Model
    optimizer: PatternOptimizer
    step: Step
    loader: Loader
    folder: RunFolder
    total_steps: int
    batch_size: int
    ema: Ema | None = None
    teacher: EmaTeacher | None = None
    objective_variables: Mapping[str, keras.Variable] = field(default_factory=dict)
    first_step: int = 0
    first_update: int = 0
    pieces: Callable[[Batch], int] | None = None
    evaluate: Callable[[], dict[str, float]] | None = None
    evaluate_every: int | None = None
    checkpoint_every: int | None = None
    checkpoint_seconds: float = 60.0
    log_every: int = 1
    tensorboard: bool = False
    placement: Placement = ALONE
    flops_per_step: float | None = None
    peak_flops_per_second: float | None = None
    max_skipped_in_a_row: int = 10
    say: Callable[[str], None] = print
    steps_done: int = field(init=False)
    updates_done: int = field(default=0, init=False)
    skipped_steps: int = field(default=0, init=False)
    seconds: float = field(default=0.0, init=False)

    def __post_init__(self):
        self.steps_done = self.first_step
        self._skipped_examples: dict[str, int] = {}
        self._examples_read = 0
        self._skipped_in_a_row: list[tuple[int, tuple[str, ...]]] = []

    @property
    def finished(self) -> bool:
        return self.steps_done >= self.total_steps

    @property
    def skipped_examples(self) -> dict[str, int]:
        """Bad examples replaced so far, by reason."""
        return dict(self._skipped_examples)

    @property
    def examples_read(self) -> int:
        """Examples met so far, with those that were skipped."""
        return self._examples_read

    def restore(self) -> int:
        """Takes up the newest good checkpoint of the folder and returns the step it was saved at; 0 where there is
        none.
        """
        saved = checkpoint.restore_latest(self.folder.checkpoints)
        if saved is None:
            return 0
        fingerprint = self.loader.fingerprint()
        if saved.state["data"] != fingerprint:
            raise checkpoint.CheckpointError(
                f"The data or its preprocessing changed since the checkpoint of step {saved.step} in "
                f"{self.folder.checkpoints} (fingerprint {saved.state['data'][:12]}, now {fingerprint[:12]}). Put the "
                "data back as it was to resume, or start a new run with another --run-dir."
            )
        for group, variables in self.groups().items():
            arrays = saved.groups.get(group, {})
            _assign(group, variables, slots_as_now(arrays, variables) if group == "optimizer" else arrays)
        self.steps_done, self.skipped_steps = saved.step, saved.state["skipped_steps"]
        self.updates_done = saved.state.get("updates_done", saved.step - self.first_step)
        self.seconds = saved.state["seconds"]
        self._skipped_examples = dict(saved.state["skipped_examples"])
        self._examples_read = saved.state["examples_read"]
        return saved.step

    def train(self, stop: StopSignals) -> None:
        """Runs to the end, or until `stop` asks to; either way a checkpoint holds the last finished step."""
        start = self.steps_done
        writes = self.placement.writes
        tensorboard = TensorBoard(self.folder.tensorboard, resume_step=start) if self.tensorboard and writes else None
        metrics = MetricsWriter(self.folder.metrics if writes else None, resume_step=start, tensorboard=tensorboard)
        progress = Progress(self.total_steps, start, self.batch_size, stream=None if writes else io.StringIO())
        # A step is under way while the one before it is written down, or the device would wait for the host. After a
        # step that was not finite the next is written down at once, so that the run stops exactly at the last of a row
        # of them.
        pending = None
        self._last_save = self._last_tick = time.monotonic()
        batches = self.loader.batches(start)
        with metrics, progress:
            try:
                while not self.finished and not stop.stop_requested:
                    batch = next(batches)
                    parts = self.pieces(batch) if self.pieces else 1
                    logs = [self.step(piece.arrays()) for piece in batch.pieces(parts)]
                    if pending:
                        self._record(*pending, metrics, progress)
                    self._count(batch)
                    self.steps_done += 1
                    self.updates_done += parts
                    pending = (self.steps_done, self.updates_done, batch.keys, logs)
                    evaluates, saves = self._evaluates(), self._saves() or self.finished
                    if evaluates or saves or self._skipped_in_a_row:
                        self._record(*pending, metrics, progress)
                        pending = None
                    if evaluates:
                        self._write_evaluation(metrics, progress)
                    if evaluates or saves:
                        self._save(metrics)
                if pending:
                    self._record(*pending, metrics, progress)
                    self._save(metrics)
            except TrainingDiverged:
                self._save(metrics)
                raise
            finally:
                batches.close()

    def _record(self, number, updates, keys, logs, metrics, progress) -> None:
        """Writes a finished step down; from here on its numbers are on the host."""
        values = _means(logs)
        now = time.monotonic()
        self.seconds += now - self._last_tick
        self._last_tick = now
        if values.pop("finite") == 1:
            self._skipped_in_a_row.clear()
        else:
            self.skipped_steps += 1
            self._skipped_in_a_row.append((number, keys))
            progress.message(
                f"Step {number}: the loss is {values['loss']} and the gradient norm {values['gradient_norm']}; the "
                f"step was skipped ({self.skipped_steps} so far, {len(self._skipped_in_a_row)} in a row)."
            )
        values["learning_rate"] = self.optimizer.rate_at(self.first_update + max(0, updates - 1 - self.skipped_steps))
        speed = progress.examples_per_second
        if speed and self.flops_per_step and self.peak_flops_per_second:
            values["utilisation"] = self.flops_per_step * speed / self.batch_size / self.peak_flops_per_second
        progress.update(number, values)
        if number % self.log_every == 0 or number == self.total_steps:
            row = {"examples": number * self.batch_size, **values, "skipped_steps": self.skipped_steps}
            metrics.write(number, row | {"examples_per_second": speed, "seconds": self.seconds})
        if len(self._skipped_in_a_row) >= self.max_skipped_in_a_row:
            listed = "\n".join(f"  step {step}: {', '.join(ids)}" for step, ids in self._skipped_in_a_row)
            raise TrainingDiverged(
                f"{len(self._skipped_in_a_row)} steps in a row had a loss or gradient that is not finite. Weights are "
                f"those of step {self._skipped_in_a_row[0][0] - 1}. Lower --learning-rate, or look at these "
                f"examples:\n{listed}"
            )

    def _count(self, batch) -> None:
        self._examples_read += len(batch) + len(batch.skipped)
        for one in batch.skipped:
            self._skipped_examples[one.reason] = self._skipped_examples.get(one.reason, 0) + 1

    def _evaluates(self) -> bool:
        if self.evaluate is None:
            return False
        return self.finished or bool(self.evaluate_every and self.steps_done % self.evaluate_every == 0)

    def _saves(self) -> bool:
        if self.checkpoint_every:
            return self.steps_done % self.checkpoint_every == 0
        return time.monotonic() - self._last_save >= self.checkpoint_seconds

    def _write_evaluation(self, metrics, progress) -> None:
        started = time.monotonic()
        self.step.synchronize()
        examples = self.steps_done * self.batch_size
        with self.ema.applied() if self.ema else nullcontext():
            numbers = self.evaluate() if self.evaluate else {}
        self._last_tick += time.monotonic() - started
        metrics.write(self.steps_done, {"examples": examples, "evaluation": numbers})
        shown = ", ".join(f"{name} {value:.1%}" for name, value in numbers.items() if math.isfinite(value))
        progress.message(f"After {examples:,} examples: {shown}")

    def _save(self, metrics) -> None:
        self.step.synchronize()
        if self.placement.writes:
            self._write_checkpoint(metrics)
        self._last_save = time.monotonic()

    def _write_checkpoint(self, metrics) -> None:
        metrics.sync()
        groups = {group: {name: _array(v) for name, v in named.items()} for group, named in self.groups().items()}
        state = {
            "examples_seen": self.steps_done * self.batch_size,
            "skipped_steps": self.skipped_steps,
            "updates_done": self.updates_done,
            "skipped_examples": self._skipped_examples,
            "examples_read": self._examples_read,
            "seconds": self.seconds,
            "data": self.loader.fingerprint(),
        }
        try:
            checkpoint.save(self.folder.checkpoints, self.steps_done, groups, state)
        except checkpoint.CheckpointError as error:
            if self.finished:
                raise
            self.say(f"{error} Training goes on; the next checkpoint will be tried as usual.")

    def groups(self) -> dict[str, dict[str, keras.Variable]]:
        """All that a checkpoint holds, by group and name."""
        groups = {
            "weights": {variable.path: variable for variable in self.model.variables},
            "optimizer": self.optimizer.named_slots(),
            "ema": self.ema.named() if self.ema else {},
            "teacher": self.teacher.named() if self.teacher else {},
            "objective": dict(self.objective_variables),
        }
        return {name: variables for name, variables in groups.items() if variables}


def _means(logs: list[dict]) -> dict[str, float]:
    """The mean of each number over the steps that a batch took."""
    values = [{name: float(keras.ops.convert_to_numpy(value)) for name, value in log.items()} for log in logs]
    return {name: sum(log[name] for log in values) / len(values) for name in values[0]}


def _array(variable) -> np.ndarray:
    # A copy: the next step may reuse the memory that a NumPy view of the variable points into.
    return np.array(keras.ops.convert_to_numpy(variable.value))


def _assign(group: str, variables: dict, arrays: dict) -> None:
    missing, unknown = sorted(variables.keys() - arrays.keys()), sorted(arrays.keys() - variables.keys())
    shapes = [
        f"{name}: stored {list(arrays[name].shape)}, expected {list(variable.shape)}"
        for name, variable in variables.items()
        if name in arrays and tuple(arrays[name].shape) != tuple(variable.shape)
    ]
    if missing or unknown or shapes:
        raise checkpoint.CheckpointError(
            f"The checkpoint's {group} do not fit this model. Missing: {missing or 'none'}. Unknown: "
            f"{unknown or 'none'}. Other shapes: {shapes or 'none'}. Use the options the run was started with, or "
            "another --run-dir."
        )
    for name, variable in variables.items():
        variable.assign(arrays[name])
