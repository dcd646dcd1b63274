"""The loop: what it writes, what it restores, when it gives up, and that it keeps what is done whatever ends it."""

import errno
import math
import os
import signal
import threading
import time

import keras
import numpy as np
import pytest

from diptych.backends.shares import whole
from diptych.core.data.batch import Batch
from diptych.core.data.ledger import Skipped
from diptych.core.data.loading.worker import WorkerDied
from diptych.core.placement import Placement
from diptych.core.training import checkpoint
from diptych.core.training.best import Best
from diptych.core.training.ema import Ema
from diptych.core.training.learner import Learner, TrainingDiverged
from diptych.core.training.metrics import read_metrics
from diptych.core.training.optimizers import AdamW
from diptych.core.training.run_folder import RunFolder
from diptych.core.training.schedules import Cosine
from diptych.core.training.signals import StopSignals


class Numbers:
    """A loader of batches that hold nothing but their number."""

    def batches(self, start=0):
        number = start
        while True:
            yield self.batch(number)
            number += 1

    def batch(self, number):
        return Batch(
            fields={
                "image": np.full((2, 1, 1, 3), number % 256, np.uint8),
                "text": np.full((2, 1), number, np.int32),
            },
            index=np.arange(2, dtype=np.int64) + 2 * number,
            keys=(f"left {number}", f"right {number}"),
            languages=("und", "und"),
            skipped=(Skipped(f"broken {number}", "image_truncated"),) if number % 2 else (),
        )

    def fingerprint(self):
        return "numbers"


class Counting:
    """A step that adds the batch's number to the model's one weight, and is not finite on the numbers in `bad`."""

    def __init__(self, model, bad=()):
        self.weight, self.bad = model.weights[0], set(bad)
        self.torn = False

    def __call__(self, batch, asks):
        number = int(batch["text"][0, 0])
        finite = number not in self.bad
        if finite:
            self.weight.assign(self.weight.value + float(number))
        loss = float(number) if finite else float("nan")
        logs = {"loss": np.float32(loss), "gradient_norm": np.float32(1), "finite": np.bool_(finite)}
        return logs | ({"asked": np.asarray(asks)} if asks else {})

    def synchronize(self):
        pass

    def held(self, variables):
        def numbers_of(variable):
            return lambda start, stop: np.array(keras.ops.convert_to_numpy(variable.value).reshape(-1)[start:stop])

        return {name: [whole(v.shape, 4, numbers_of(v))] for name, v in variables.items()}


def learner(folder, total_steps=20, bad=(), **arguments):
    inputs = keras.Input((1,))
    model = keras.Model(inputs, keras.layers.Dense(1, use_bias=False, kernel_initializer="zeros", name="sum")(inputs))
    optimizer = AdamW(1e-3)
    optimizer.build(model.trainable_variables)
    return Learner(
        model=model,
        optimizer=optimizer,
        step=Counting(model, bad),
        loader=Numbers(),
        folder=folder,
        total_steps=total_steps,
        batch_size=2,
        **arguments,
    )


def weight(of: Learner) -> float:
    return float(keras.ops.convert_to_numpy(of.model.weights[0].value).item())


@pytest.fixture
def folder(tmp_path):
    with RunFolder(tmp_path / "run") as opened:
        yield opened


def test_every_batch_is_trained_on_once_and_every_step_has_its_row(folder):
    made = learner(folder)
    made.train(StopSignals())
    rows = read_metrics(folder.metrics)
    assert weight(made) == sum(range(20))
    assert [row["step"] for row in rows] == list(range(1, 21))
    assert [row["loss"] for row in rows] == list(range(20))
    assert [row["examples"] for row in rows] == list(range(2, 42, 2))
    assert made.skipped_examples == {"image_truncated": 10}
    assert made.examples_read == 50


@pytest.mark.parametrize("done", [0, 3, 12])
def test_examples_of_another_kind_are_announced_once_behind_the_last_of_the_old_kind(folder, capsys, done):
    if done:
        learner(folder, done).train(StopSignals())
        capsys.readouterr()
    made = learner(folder, 15, turns={10: "now they are other ones"})
    made.restore()
    made.train(StopSignals())
    lines = capsys.readouterr().out.splitlines()
    assert lines.count("now they are other ones") == (done < 10)


def test_a_run_that_stops_and_resumes_is_the_run_that_does_not(folder):
    stop = StopSignals()
    first = learner(folder, evaluate=lambda: stop.__dict__.update(received="SIGTERM") or {"x": 1.0}, evaluate_every=7)
    first.train(stop)
    assert first.steps_done == 7
    second = learner(folder)
    assert second.restore() == 7
    second.train(StopSignals())
    assert weight(second) == sum(range(20))
    assert second.skipped_examples == {"image_truncated": 10}
    assert [row["step"] for row in read_metrics(folder.metrics) if "loss" in row] == list(range(1, 21))


def test_steps_that_are_not_finite_are_skipped_and_counted(folder):
    made = learner(folder, bad=[3, 4, 11])
    made.train(StopSignals())
    assert made.skipped_steps == 3
    assert weight(made) == sum(range(20)) - 3 - 4 - 11
    assert read_metrics(folder.metrics)[-1]["skipped_steps"] == 3
    assert checkpoint.restore_latest(folder.checkpoints).state["skipped_steps"] == 3


def test_ten_in_a_row_stop_the_run_with_their_examples(folder):
    made = learner(folder, total_steps=40, bad=range(5, 40))
    with pytest.raises(TrainingDiverged, match=r"10 steps in a row.*Weights are those of step 5") as raised:
        made.train(StopSignals())
    assert "step 6: left 5, right 5" in str(raised.value)
    assert "step 15: left 14, right 14" in str(raised.value)
    saved = checkpoint.restore_latest(folder.checkpoints)
    assert saved.step == 15
    assert saved.groups["weights"]["sum/kernel"].item() == sum(range(5))


def test_nine_in_a_row_do_not_stop_it(folder):
    made = learner(folder, bad=range(5, 14))
    made.train(StopSignals())
    assert made.skipped_steps == 9
    assert made.finished


def test_other_data_are_refused_on_resume(folder):
    learner(folder, total_steps=4).train(StopSignals())
    other = learner(folder)
    other.loader.fingerprint = lambda: "letters"
    with pytest.raises(checkpoint.CheckpointError, match="data or its preprocessing changed.*--run-dir"):
        other.restore()


def test_a_checkpoint_of_another_model_is_refused_by_name(folder):
    learner(folder, total_steps=4).train(StopSignals())
    saved = checkpoint.restore_latest(folder.checkpoints)
    groups = saved.groups | {"weights": {"product/kernel": saved.groups["weights"]["sum/kernel"]}}
    checkpoint.save(folder.checkpoints, 5, groups, saved.state)
    with pytest.raises(checkpoint.CheckpointError, match=r"Missing: \['sum/kernel'\]. Unknown: \['product/kernel'\]"):
        learner(folder).restore()


def test_evaluations_come_when_they_are_due_and_at_the_end(folder):
    seen = []
    made = learner(folder, evaluate=lambda: seen.append(weight(made)) or {"recall": 0.5}, evaluate_every=8)
    made.train(StopSignals())
    assert seen == [sum(range(steps)) for steps in (8, 16, 20)]
    rows = [row for row in read_metrics(folder.metrics) if "evaluation" in row]
    assert [(row["step"], row["evaluation"]) for row in rows] == [(step, {"recall": 0.5}) for step in (8, 16, 20)]


def test_evaluations_see_the_moving_average_and_training_does_not(folder):
    made = learner(folder, total_steps=4, evaluate_every=2)
    made.ema = Ema(made.model.trainable_variables, decay=0.5)
    made.ema.averages[0].assign([[123.0]])
    seen = []
    made.evaluate = lambda: seen.append(weight(made)) or {}
    made.train(StopSignals())
    assert seen == [123.0, 123.0]
    assert weight(made) == sum(range(4))


def judged_by(values: dict[int, float], kept: list[float], made: list):
    """Options of a learner whose evaluations, every two steps, find the losses given, and whose best models are
    kept.
    """
    return {
        "evaluate": lambda: {"loss": values[made[-1].steps_done], "recall@1/en": -values[made[-1].steps_done]},
        "keep": lambda: kept.append(weight(made[-1])),
        "evaluate_every": 2,
    }


@pytest.mark.parametrize("by", ["loss", "recall@1"])
def test_the_best_model_is_kept_and_patience_ends_the_run(folder, capsys, by):
    values, kept, made = {2: 3.0, 4: 1.0, 6: math.nan, 8: 1.0, 10: 2.0, 12: 0.5, 20: 9.0}, [], []
    made.append(learner(folder, **judged_by(values, kept, made), patience=3, best_by=by))
    made[0].train(StopSignals())
    assert made[0].steps_done == 10
    assert made[0].complete
    assert kept == [sum(range(2)), sum(range(4))]
    assert made[0].best == Best(by=by, step=4, value=1.0 if by == "loss" else -1.0, evaluations_since=3)
    said = capsys.readouterr().out
    assert said.count("the best so far") == 2
    assert "None of the last 3 evaluations was better" in said
    again = learner(folder, **judged_by(values, kept, made), patience=3, best_by=by)
    again.restore()
    assert again.complete
    made.append(learner(folder, total_steps=12, **judged_by(values, kept, made), patience=4, best_by=by))
    made[1].restore()
    made[1].train(StopSignals())
    assert (made[1].steps_done, made[1].best.step, made[1].stopped_early) == (12, 12, False)
    assert kept[-1] == sum(range(12))


def test_what_was_best_by_another_number_does_not_count(folder):
    values, kept, made = dict.fromkeys(range(2, 22, 2), 1.0), [], []
    made.append(learner(folder, total_steps=4, **judged_by(values, kept, made)))
    made[0].train(StopSignals())
    made.append(learner(folder, total_steps=8, **judged_by(values, kept, made), best_by="recall@1/en"))
    made[1].restore()
    made[1].train(StopSignals())
    assert made[1].best == Best(by="recall@1/en", step=6, value=-1.0, evaluations_since=1)
    made.append(learner(folder, total_steps=10, **judged_by(values, kept, made), best_by="recal"))
    made[2].restore()
    with pytest.raises(ValueError, match=r"--best-by recal names no number .* loss, recall@1/en"):
        made[2].train(StopSignals())


def test_a_full_disk_for_the_best_model_is_told_and_training_goes_on(folder, capsys):
    values, made = dict.fromkeys(range(2, 22, 2), 1.0), []
    made.append(learner(folder, total_steps=4, **judged_by(values, [], made) | {"keep": full}))
    with pytest.raises(OSError, match="No space left"):
        made[0].train(StopSignals())
    assert "The best model so far could not be kept" in capsys.readouterr().out
    assert made[0].finished


def test_the_learning_rate_that_is_written_is_the_one_of_the_update(folder):
    """The first update of a warm-up has the rate zero; a step that was skipped takes no rate."""
    made = learner(folder, total_steps=6, bad=[3])
    rates = Cosine(1e-3, batch_size=2, total_examples=40, warmup_examples=20)
    made.optimizer = AdamW(rates)
    made.optimizer.build(made.model.trainable_variables)
    made.train(StopSignals())
    written = [row["learning_rate"] for row in read_metrics(folder.metrics)]
    assert written == pytest.approx([1e-4 * update for update in (0, 1, 2, 2, 3, 4)], rel=1e-5)


def test_a_process_that_does_not_write_trains_alike_and_leaves_nothing_but_its_part(folder, capsys):
    placement = Placement(process=1, processes=2, gather=lambda said: [said, said])
    made = learner(folder, evaluate=lambda: {"recall": 0.5}, evaluate_every=8, placement=placement)
    made.train(StopSignals())
    assert weight(made) == sum(range(20))
    assert made.examples_read == 2 * 50, "the other met as many"
    assert not folder.metrics.exists()
    assert all(path.name.startswith(".saving-") for path in folder.checkpoints.iterdir())
    assert capsys.readouterr().out == ""


def failing_at(number, error):
    """A loader's way to a batch, which breaks off before one of them."""

    class Broken(Numbers):
        def batch(self, wanted):
            if wanted == number:
                raise error
            return super().batch(wanted)

    return Broken()


@pytest.mark.parametrize(
    "error",
    [
        WorkerDied("data worker 0 was killed"),
        TimeoutError("a source or a decoder hangs"),
        MemoryError(),
        OSError(errno.EIO, os.strerror(errno.EIO)),
        KeyError("a fault"),
    ],
)
def test_whatever_breaks_the_data_off_the_finished_steps_are_saved(folder, capsys, error):
    made = learner(folder)
    made.loader = failing_at(7, error)
    with pytest.raises(type(error)):
        made.train(StopSignals())
    assert "Steps up to 7 are saved." in capsys.readouterr().out
    assert [row["step"] for row in read_metrics(folder.metrics)] == list(range(1, 8))
    resumed = learner(folder)
    assert resumed.restore() == 7
    resumed.train(StopSignals())
    assert weight(resumed) == sum(range(20))
    assert [row["step"] for row in read_metrics(folder.metrics)] == list(range(1, 21))


@pytest.mark.parametrize("torn", [False, True])
def test_a_step_that_breaks_off_is_saved_only_as_far_as_it_is_whole(folder, capsys, torn):
    made = learner(folder, checkpoint_every=4)
    step = made.step

    class Breaking:
        def __init__(self):
            self.torn = torn
            self.synchronize, self.held = step.synchronize, step.held

        def __call__(self, batch, asks):
            if int(batch["text"][0, 0]) == 6:
                raise MemoryError
            return step(batch, asks)

    made.step = Breaking()
    with pytest.raises(MemoryError):
        made.train(StopSignals())
    assert checkpoint.restore_latest(folder.checkpoints).step == (4 if torn else 6)
    assert ("broke off in the middle" in capsys.readouterr().out) == torn


def test_a_batch_of_which_a_piece_was_trained_on_is_not_saved(folder):
    made = learner(folder, pieces=lambda batch: 2, checkpoint_every=4)
    step, calls = made.step, []

    class Breaking:
        torn = False
        held = staticmethod(step.held)
        synchronize = step.synchronize

        def __call__(self, batch, asks):
            calls.append(batch)
            if len(calls) == 12:
                raise MemoryError
            return step(batch, asks)

    made.step = Breaking()
    with pytest.raises(MemoryError):
        made.train(StopSignals())
    assert checkpoint.restore_latest(folder.checkpoints).step == 4


def test_a_full_disk_for_metrics_ends_nothing_and_no_row_is_missing(folder, capsys):
    folder.metrics.symlink_to("/dev/full")
    made = learner(folder)
    made.train(StopSignals())
    assert weight(made) == sum(range(20))
    assert "No space left" in capsys.readouterr().out
    folder.metrics.unlink()
    resumed = learner(folder, total_steps=22)
    assert resumed.restore() == 20
    resumed.train(StopSignals())
    assert [row["step"] for row in read_metrics(folder.metrics)] == list(range(1, 23))


def full(*_, **__):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_full_disk_for_checkpoints_is_told_and_fails_at_the_end(folder, capsys, monkeypatch):
    monkeypatch.setattr(checkpoint, "write_safetensors", full)
    made = learner(folder, checkpoint_every=5)
    with pytest.raises(checkpoint.CheckpointError, match="No space left"):
        made.train(StopSignals())
    assert made.finished
    printed = capsys.readouterr().out
    assert printed.count("Training goes on") == 3
    assert "the newest checkpoint stands" not in printed, "the same failure is told once, by the error"
    assert [row["step"] for row in read_metrics(folder.metrics)] == list(range(1, 21))
    monkeypatch.undo()
    again = learner(folder)
    assert again.restore() == 0
    again.train(StopSignals())
    assert weight(again) == sum(range(20))


def test_a_signal_on_a_full_disk_does_not_claim_to_have_saved(folder, monkeypatch):
    made, stop = learner(folder), StopSignals()
    monkeypatch.setattr(checkpoint, "write_safetensors", full)
    made.step = SignalStep(made.step, stop, 3)
    with pytest.raises(checkpoint.CheckpointError, match="No space left"):
        made.train(stop)


class SignalStep:
    """A step during which a signal comes."""

    torn = False

    def __init__(self, step, stop, number):
        self.step, self.stop, self.number = step, stop, number
        self.synchronize, self.held = step.synchronize, step.held

    def __call__(self, batch, asks):
        if int(batch["text"][0, 0]) == self.number:
            self.stop.received = "SIGTERM"
        return self.step(batch, asks)


@pytest.fixture
def soon():
    """Sends this process a SIGTERM, some moments later."""
    timers = []

    def send(seconds=0.2):
        timers.append(threading.Timer(seconds, lambda: os.kill(os.getpid(), signal.SIGTERM)))
        timers[0].start()

    yield send
    for timer in timers:
        timer.cancel()


def test_a_signal_ends_the_wait_for_data(folder, soon):
    class Waiting(Numbers):
        def batch(self, number):
            if number == 5:
                soon()
                threading.Event().wait(60)
            return super().batch(number)

    made = learner(folder)
    made.loader = Waiting()
    started = time.monotonic()
    with StopSignals() as stop:
        made.train(stop)
    assert time.monotonic() - started < 10
    assert stop.exit_status == 143
    assert checkpoint.restore_latest(folder.checkpoints).step == 5


@pytest.mark.parametrize("evaluate_every", [8, None], ids=["on the way", "at the end"])
def test_a_signal_ends_an_evaluation_which_is_made_up_for(folder, soon, tmp_path, evaluate_every):
    def slow():
        soon()
        threading.Event().wait(60)

    made = learner(folder, evaluate=slow, evaluate_every=evaluate_every)
    with StopSignals() as stop:
        made.train(stop)
    assert made.steps_done == (evaluate_every or 20)
    assert not made.complete
    resumed = learner(folder, evaluate=lambda: {"recall": 0.5}, evaluate_every=evaluate_every)
    assert resumed.restore() == made.steps_done
    resumed.train(StopSignals())
    assert resumed.complete
    with RunFolder(tmp_path / "undisturbed") as other:
        learner(other, evaluate=lambda: {"recall": 0.5}, evaluate_every=evaluate_every).train(StopSignals())
        expected = [(row["step"], row.get("loss"), row.get("evaluation")) for row in read_metrics(other.metrics)]
    assert [(row["step"], row.get("loss"), row.get("evaluation")) for row in read_metrics(folder.metrics)] == expected


def test_a_signal_before_the_first_batch_leaves_no_checkpoint(folder):
    made, stop = learner(folder), StopSignals()
    stop.received = "SIGTERM"
    made.train(stop)
    assert list(folder.checkpoints.iterdir()) == []


def test_the_checkpoint_knows_the_options(folder):
    learner(folder, total_steps=2, config={"optimization": {"batch_size": 2}}).train(StopSignals())
    assert folder.stored_config() == {"optimization": {"batch_size": 2}}
