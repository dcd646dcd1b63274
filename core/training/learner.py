"""The one training loop: batches in, steps, metrics, evaluations and checkpoints out."""

import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing, nullcontext
from dataclasses import asdict, dataclass, field
from typing import Protocol

import keras
import numpy as np

from diptych.core.data.batch import Batch
from diptych.core.data.loading.loader import Loader
from diptych.core.files.errors import Failure
from diptych.core.placement import ALONE, Placement
from diptych.core.training import checkpoint
from diptych.core.training.background_saving import BackgroundSaving
from diptych.core.training.best import LOSS, Best, best_of
from diptych.core.training.checkpoint_parts import Held, own_pieces
from diptych.core.training.ema import Ema
from diptych.core.training.older_runs import slots_as_now
from diptych.core.training.optimizers import PatternOptimizer
from diptych.core.training.run_folder import RunFolder
from diptych.core.training.run_log import RunLog
from diptych.core.training.signals import Stopped, StopSignals
from diptych.core.training.teacher import EmaTeacher
from diptych.core.training.together import Together
from diptych.core.training.variables import assign_all, checksum


class Step(Protocol):
    """What `diptych.backends.train_step` builds."""

    compilations: int
    torn: bool

    def __call__(self, batch: dict, asks: Sequence[float]) -> dict: ...

    def synchronize(self) -> None: ...

    def held(self, variables: Mapping[str, keras.Variable]) -> Mapping[str, Sequence[Held]]: ...


class TrainingDiverged(Failure):
    """Too many steps in a row had a loss or gradient that is not finite; the message names their examples."""


@dataclass
class Learner:
    """Runs `total_steps` steps from wherever the run folder's newest checkpoint left off.

    A run is a pure function of its options: killed at any moment and started again, it ends with the same bits (on the
    same machine and number of threads), because the checkpoint holds weights, optimizer, moving average, counters and
    the place in the data, and metrics of later steps are cut off on resume.

    Whatever ends it, a signal or an error in the data, the disk or the memory, finished steps are written down and
    saved before it leaves. Only a step that an error tore in the middle is not: then the newest checkpoint stands.

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
        evaluate_first: whether it is evaluated before its first step, too.
        keep: keeps the model as it is when an evaluation finds it the best so far.
        best_by: the number of an evaluation that decides which is the best; see `best.Best`.
        patience: evaluations in a row without a better one after which the run ends early; None for no end.
        config: the plain configuration of the run, for its checkpoints to know.
        checkpoint_every: steps between checkpoints; None for one every `checkpoint_seconds`.
        log_every: steps between rows of metrics.
        turns: steps after which examples of another kind follow, each with a line about it.
        tensorboard: whether metrics also go into TensorBoard files.
        trackers: names of the trackers of experiments that are told the metrics, too.
        placement: of several processes one alone writes and talks; all of them stop and save after the same step.
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
    evaluate_first: bool = False
    keep: Callable[[], None] | None = None
    best_by: str = LOSS
    patience: int | None = None
    config: object = None
    checkpoint_every: int | None = None
    checkpoint_seconds: float = 60.0
    log_every: int = 1
    turns: Mapping[int, str] = field(default_factory=dict)
    tensorboard: bool = False
    trackers: tuple[str, ...] = ()
    placement: Placement = ALONE
    flops_per_step: float | None = None
    peak_flops_per_second: float | None = None
    max_skipped_in_a_row: int = 10
    say: Callable[[str], None] = print
    steps_done: int = field(init=False)
    updates_done: int = field(default=0, init=False)
    skipped_steps: int = field(default=0, init=False)
    seconds: float = field(default=0.0, init=False)
    best: Best | None = field(default=None, init=False)

    def __post_init__(self):
        self.steps_done = self.first_step
        self._skipped_examples: dict[str, int] = {}
        self._examples_read = 0
        self._skipped_in_a_row: list[tuple[int, tuple[str, ...]]] = []
        self._unrecorded: deque[tuple[int, int, tuple[str, ...], list[dict]]] = deque()
        self._waiting_rows: list[str] = []
        self._evaluation_due, self._torn = self.evaluate_first, False
        self._together = Together(self.placement, self.checkpoint_seconds)

    @property
    def finished(self) -> bool:
        """Whether all steps have been taken, or nothing has become better for as long as there was patience."""
        return self.steps_done >= self.total_steps or self.stopped_early

    @property
    def stopped_early(self) -> bool:
        """Whether there is no patience for more steps."""
        return self.patience is not None and self.best is not None and self.best.evaluations_since >= self.patience

    @property
    def examples_trained(self) -> int:
        """Examples of the steps that have been taken, counting repetitions."""
        return (self.steps_done - self.first_step) * self.batch_size

    @property
    def complete(self) -> bool:
        """Whether nothing is left to do: all steps have been taken, and evaluated where they were to be."""
        return self.finished and not self._evaluation_due

    @property
    def next_rate(self) -> float:
        """The learning rate of the next update."""
        return self.optimizer.rate_at(self.first_update + self.updates_done - self.skipped_steps)

    @property
    def skipped_examples(self) -> dict[str, int]:
        """Bad examples replaced so far, by reason; of other processes, up to the last checkpoint."""
        return self._together.skipped(self._skipped_examples)

    @property
    def examples_read(self) -> int:
        """Examples met so far, with those that were skipped; of other processes, up to the last checkpoint."""
        return self._together.read(self._examples_read)

    def restore(self) -> int:
        """Takes up the newest good checkpoint of the folder and returns the step it was saved at; 0 where there is
        none.
        """
        saved = checkpoint.restore_latest(self.folder.checkpoints)
        self.placement.check_same(saved.step if saved else 0, f"the newest checkpoint in {self.folder.checkpoints}")
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
            assign_all(group, variables, slots_as_now(arrays, variables) if group == "optimizer" else arrays)
        self.steps_done, self.skipped_steps = saved.step, saved.state["skipped_steps"]
        self.updates_done = saved.state.get("updates_done", saved.step - self.first_step)
        self.seconds = saved.state["seconds"]
        if self.placement.writes:
            self._skipped_examples = dict(saved.state["skipped_examples"])
            self._examples_read = saved.state["examples_read"]
        self._waiting_rows = saved.state.get("waiting_rows", [])
        self._evaluation_due = saved.state.get("evaluation_due", False)
        self.best = Best(**best) if (best := saved.state.get("best")) else None
        return saved.step

    def train(self, stop: StopSignals) -> None:
        """Runs to the end, or until `stop` asks to; either way a checkpoint holds the last finished step."""
        start = self.steps_done
        if self.placement.processes > 1:
            self.placement.check_same(checksum(self.groups()["weights"]), "the weights that they begin with")
        log = RunLog(
            self.folder,
            total_steps=self.total_steps,
            start=start,
            batch_size=self.batch_size,
            log_every=self.log_every,
            turns=self.turns,
            writes=self.placement.writes,
            tensorboard=self.tensorboard,
            trackers=self.trackers,
            config=self.config if isinstance(self.config, Mapping) else {},
            waiting=self._waiting_rows,
            say=self.say,
        )
        self._last_saved: int | None = start
        self._last_tick = time.monotonic()
        self._together.saved()
        self._saving = BackgroundSaving(self.folder.checkpoints, self.placement)
        with stop.finishing_first(), log, closing(self.loader.batches(start)) as batches:
            try:
                self._steps(batches, log, stop)
            except Stopped:
                self._leave(log)
            except checkpoint.CheckpointError:  # saving is what failed
                raise
            except BaseException:
                self._save_after_error(log)
                raise
        if self.finished:
            self.step.synchronize()
        self._together.leave(stop, self.finished)

    def _steps(self, batches, log, stop) -> None:
        if self._evaluation_due:
            self._write_evaluation(log, stop)
            self._save(log)
        # A step is under way while the one before it is written down, or the device would wait for the host. After a
        # step that was not finite the next is written down at once, so that the run stops exactly at the last of a row
        # of them.
        while not self.finished and not self._together.stops(self.steps_done, stop):
            with self._together.leaving(stop):
                batch = next(batches)
            before = len(self._unrecorded)
            self._take(batch, self._asks(stop))
            self._record(before, log)
            if self._saving.failed(self.steps_done):
                self._settle()
            evaluates, saves = self._evaluates(), self._saves() or self.finished
            self._evaluation_due = evaluates
            if evaluates or saves or self._skipped_in_a_row:
                self._record(len(self._unrecorded), log)
            if evaluates:
                self._write_evaluation(log, stop)
            if evaluates or saves:
                self._save(log)
        self._leave(log)

    def _asks(self, stop: StopSignals) -> tuple[float, ...]:
        """What this process asks the others along with a step; one alone asks nothing."""
        return (*self._together.asks(stop), *self._saving.asks) if self.placement.processes > 1 else ()

    def _hear(self, step: int, answers: Sequence[np.ndarray]) -> None:
        own = len(Together.ASKED)
        self._together.hear(step, [answer[:own] for answer in answers])
        if answers:
            self._saving.hear(step, [answer[own:] for answer in answers])

    def _take(self, batch: Batch, asks: Sequence[float]) -> None:
        """One batch, trained on; what a checkpoint says of it changes with the weights."""
        logs: list[dict] = []
        self._torn = True
        try:
            for piece in batch.pieces(self.pieces(batch) if self.pieces else 1):
                logs.append(self.step(piece.arrays(), asks))
        except BaseException:
            self._torn = bool(logs) or self.step.torn
            raise
        self._count(batch)
        self.steps_done += 1
        self.updates_done += len(logs)
        self._unrecorded.append((self.steps_done, self.updates_done, batch.keys, logs))
        self._torn = False

    def _leave(self, log) -> None:
        """Writes down and saves all that is finished, at the end of whatever kind."""
        self._record(len(self._unrecorded), log)
        self._settle()
        if self.steps_done != self._last_saved:
            self._save(log, leaving=True)

    def _save_after_error(self, log) -> None:
        """As `_leave`, after an error, which stays the one that is raised."""
        if self.placement.processes > 1:  # saving takes all processes, and the others know nothing of an error here
            self._saving.leave()
            log.message(f"An error ends process {self.placement.process}: the newest checkpoint stands.")
            return
        if self._torn:
            self._settle()
            log.message(f"The step after {self.steps_done} broke off in the middle: the newest checkpoint stands.")
            return
        try:
            self._leave(log)
        except Exception as error:
            log.message(f"Steps up to {self.steps_done} could not be saved, the newest checkpoint stands: {error}")
        else:
            log.message(f"Steps up to {self.steps_done} are saved.")

    def _record(self, count: int, log) -> None:
        """Writes down the first `count` finished steps that are not yet; from here on their numbers are on the host."""
        for _ in range(count):
            self._record_step(*self._unrecorded[0], log)

    def _record_step(self, number, updates, keys, logs, log) -> None:
        asked = [log.pop("asked") for log in logs if "asked" in log]
        self._hear(number, [keras.ops.convert_to_numpy(answer) for answer in asked])
        values = _means(logs)
        now = time.monotonic()
        self.seconds += now - self._last_tick
        self._last_tick = now
        if values.pop("finite") == 1:
            self._skipped_in_a_row.clear()
        else:
            self.skipped_steps += 1
            self._skipped_in_a_row.append((number, keys))
            log.message(
                f"Step {number}: the loss is {values['loss']} and the gradient norm {values['gradient_norm']}; the "
                f"step was skipped ({self.skipped_steps} so far, {len(self._skipped_in_a_row)} in a row)."
            )
        values["learning_rate"] = self.optimizer.rate_at(self.first_update + max(0, updates - 1 - self.skipped_steps))
        speed = log.examples_per_second
        if speed and self.flops_per_step and self.peak_flops_per_second:
            values["utilisation"] = self.flops_per_step * speed / self.batch_size / self.peak_flops_per_second
        log.step(number, values, skipped_steps=self.skipped_steps, seconds=self.seconds)
        self._unrecorded.popleft()
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
        return self._together.saves(self.steps_done)

    def _write_evaluation(self, log, stop) -> None:
        started = time.monotonic()
        self.step.synchronize()
        with self.ema.applied() if self.ema else nullcontext():
            with self._together.leaving(stop):
                numbers = self.placement.told(self.evaluate() if self.evaluate else {})[0]
            better = self._keep_if_best(numbers)
        self._last_tick += time.monotonic() - started
        log.evaluation(self.steps_done, numbers, best=better)
        self._evaluation_due = False
        if self.stopped_early and self.steps_done < self.total_steps:
            log.message(f"None of the last {self.patience} evaluations was better: training ends here (--patience).")

    def _keep_if_best(self, numbers: dict[str, float]) -> bool:
        """Whether an evaluation is the best so far, whose model is kept then."""
        if self.keep is None:
            return False
        best = best_of(self.best, self.steps_done, numbers, self.best_by)
        better = best is not None and best.evaluations_since == 0
        if better and self.placement.writes:
            try:
                self.keep()
            except OSError as error:
                if self.finished:
                    raise
                self.say(f"The best model so far could not be kept: {error}. Training goes on.")
                return False
        self.best = best
        return better

    def _save(self, log, *, leaving: bool = False) -> None:
        """Begins a checkpoint of what has been recorded; at the end, waits for it."""
        self._settle()
        self._together.count(self._skipped_examples, self._examples_read)
        failed = None
        try:
            log.sync()
        except OSError as error:
            failed = error
        groups = {group: self.step.held(variables) for group, variables in self.groups().items()}
        pieces = own_pieces(groups, self.placement.process, self.placement.processes)
        self._saving.begin(self.steps_done, pieces, self._state(log), failed)
        self._last_saved = self.steps_done
        if self.finished or leaving:
            self._settle(last=True)
        self._together.saved()

    def _settle(self, *, last: bool = False) -> None:
        """Waits for the checkpoint under way; one that could not be written is told, and where it is the last raised.

        Raises: CheckpointError
        """
        failed = self._saving.settle()
        if failed is None:
            return
        self._last_saved = None
        if last:
            raise checkpoint.CheckpointError(failed)
        self.say(f"{failed} Training goes on; the next checkpoint will be tried as usual.")

    def _state(self, log) -> dict:
        """What a checkpoint holds beside arrays."""
        return {
            "examples_seen": self.steps_done * self.batch_size,
            "skipped_steps": self.skipped_steps,
            "updates_done": self.updates_done,
            "skipped_examples": self.skipped_examples,
            "examples_read": self.examples_read,
            "seconds": self.seconds,
            "data": self.loader.fingerprint(),
            "config": self.config,
            "evaluation_due": self._evaluation_due,
            "waiting_rows": log.waiting,
            "best": asdict(self.best) if self.best else None,
        }

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
