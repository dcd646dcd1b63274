"""Checkpoints while training goes on: complete once all parts are, told once where one fails, waited for at the end.

The processes are threads here, which wait for each other as processes do.
"""

import errno
import json
import os
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from diptych.core.placement import Placement
from diptych.core.training import checkpoint
from diptych.core.training.checkpoint import CheckpointError, restore_latest
from diptych.core.training.metrics import read_metrics
from diptych.core.training.run_folder import RunFolder
from diptych.core.training.signals import StopSignals
from tests.core.training.test_learner import Counting, learner, weight
from tests.marks import ABOVE_THE_BACKENDS

pytestmark = ABOVE_THE_BACKENDS
LIMIT_S = 60.0


class Processes:
    """So many threads that tell each other things, and take each step together."""

    def __init__(self, count: int):
        self._barrier, self._said = threading.Barrier(count, timeout=LIMIT_S), [b""] * count
        self.placements = [
            Placement(process=number, processes=count, gather=lambda said, number=number: self._gather(number, said))
            for number in range(count)
        ]

    def _gather(self, number: int, said: bytes) -> list[bytes]:
        self._said[number] = said
        self._barrier.wait()
        told = list(self._said)
        self._barrier.wait()
        return told

    def train(self, learners) -> list[BaseException | None]:
        """How each learner ends."""

        def trained(one):
            try:
                one.train(StopSignals())
            except CheckpointError as error:
                return error
            except BaseException as error:
                self._barrier.abort()
                return error
            return None

        with ThreadPoolExecutor(len(learners)) as threads:
            ended = list(threads.map(trained, learners))
        for error in ended:
            if error is not None and not isinstance(error, (CheckpointError, threading.BrokenBarrierError)):
                raise error
        return ended


class Together(Counting):
    """A step whose answer is the largest of what all ask; before each, `before(number)` is called."""

    def __init__(self, model, placement, before=lambda number: None):
        super().__init__(model)
        self._placement, self._before = placement, before

    def __call__(self, batch, asks):
        self._before(int(batch["text"][0, 0]))
        told = self._placement.told(list(asks))
        return super().__call__(batch, tuple(np.max(told, axis=0)))


@pytest.fixture
def folder(tmp_path):
    with RunFolder(tmp_path / "run") as opened:
        yield opened


def several(folder, count=2, before=lambda number: None, **arguments):
    processes = Processes(count)
    made = [learner(folder, placement=placement, say=print, **arguments) for placement in processes.placements]
    for one in made:
        one.step = Together(one.model, one.placement, before if one.placement.writes else lambda number: None)
    return processes, made


def steps_in(folder: RunFolder) -> list[str]:
    return sorted(path.name for path in folder.checkpoints.iterdir())


@pytest.mark.parametrize("count", [2, 3])
def test_several_save_by_parts_what_one_alone_goes_on_from(folder, count):
    processes, made = several(folder, count, total_steps=10, checkpoint_every=4)
    assert processes.train(made) == [None] * count
    assert steps_in(folder) == ["step-00000008", "step-00000010"]
    manifest = json.loads((folder.checkpoints / "step-00000010" / "manifest.json").read_bytes())
    assert manifest["parts"] == count
    alone = learner(folder)
    assert alone.restore() == 10
    assert alone.examples_read == count * 25, "what all have met is counted"
    alone.train(StopSignals())
    assert weight(alone) == sum(range(20))


def test_training_goes_on_while_a_part_is_written_and_then_all_is_made_complete(folder, monkeypatch):
    """The second's part waits until step 9; some steps after that the checkpoint is there, long before the next."""
    go_on, completed, seen = threading.Event(), threading.Event(), {}
    write, complete = checkpoint.Saving.write, checkpoint.Saving.complete

    def slowly(saving, pieces, state):
        if saving._part == 2 and saving._step == 5:
            go_on.wait(LIMIT_S)
        write(saving, pieces, state)

    def completing(saving):
        complete(saving)
        completed.set()

    def before(number):
        seen[number] = steps_in(folder)
        if number == 9:
            go_on.set()
            assert all(one._saving._under_way.written.wait(LIMIT_S) for one in made)
        if number == 14:
            assert completed.wait(LIMIT_S)
            seen[number] = steps_in(folder)

    monkeypatch.setattr(checkpoint.Saving, "write", slowly)
    monkeypatch.setattr(checkpoint.Saving, "complete", completing)
    processes, made = several(folder, before=before, total_steps=16)
    for one in made:
        one._saves = lambda one=one: one.steps_done == 5
    assert processes.train(made) == [None, None]
    assert not any("step-00000005" in seen[number] for number in range(10))
    assert seen[14] == ["step-00000005"]
    assert [row["step"] for row in read_metrics(folder.metrics)] == list(range(1, 17))


def full(*_, **__):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.fixture
def full_for(monkeypatch):
    """Makes the disk of one process full for the checkpoints of some steps."""

    def fill(part: int, steps: range, what: str = "_write_groups"):
        original = getattr(checkpoint.Saving, what)

        def refusing(saving, *arguments):
            return full() if saving._part == part and saving._step in steps else original(saving, *arguments)

        monkeypatch.setattr(checkpoint.Saving, what, refusing)

    return fill


@pytest.mark.parametrize(("part", "what"), [(1, "_write_groups"), (2, "_write_groups"), (1, "_manifest")])
def test_a_full_disk_of_one_is_one_message_with_its_name_and_the_next_is_tried(folder, capsys, full_for, part, what):
    full_for(part, range(8, 9), what)
    processes, made = several(folder, total_steps=14, checkpoint_every=4)
    assert processes.train(made) == [None, None]
    said = [line for line in capsys.readouterr().out.splitlines() if "No space left" in line]
    assert len(said) == 2, "each of the two threads prints once; of processes one is silent"
    assert said[0] == said[1]
    assert f"Process {part - 1} on " in said[0]
    assert f"part {part} of 2 of the checkpoint" in said[0]
    assert steps_in(folder) == ["step-00000012", "step-00000014"], "nothing of what failed is left"


def test_a_full_disk_at_the_end_ends_all_and_the_newest_complete_one_stays(folder, full_for):
    full_for(2, range(5, 100))
    processes, made = several(folder, total_steps=14, checkpoint_every=4)
    ended = processes.train(made)
    assert [type(error) for error in ended] == [CheckpointError, CheckpointError]
    assert str(ended[0]) == str(ended[1])
    assert "Process 1 on " in str(ended[0])
    assert steps_in(folder) == ["step-00000004"]
    assert restore_latest(folder.checkpoints).step == 4


def test_a_signal_waits_for_what_is_under_way(folder, monkeypatch):
    """The last save is under way when all stop after its step: it is complete when they have left."""
    slow, write = threading.Event(), checkpoint.Saving.write

    def slowly(saving, pieces, state):
        slow.wait(0.3)
        write(saving, pieces, state)

    monkeypatch.setattr(checkpoint.Saving, "write", slowly)
    stop = StopSignals()
    made = learner(folder, total_steps=50)
    made._saves = lambda: made.steps_done == 7
    call = made.step

    class Signalled(Counting):
        def __init__(self):
            self.held, self.synchronize, self.torn = call.held, call.synchronize, False

        def __call__(self, batch, asks):
            if int(batch["text"][0, 0]) == 6:
                stop.received = "SIGTERM"
            return call(batch, asks)

    made.step = Signalled()
    made.train(stop)
    assert steps_in(folder) == ["step-00000007"]


def test_an_error_of_one_process_leaves_the_newest_complete_checkpoint(folder, monkeypatch):
    """Of several it cannot wait for the others, who know nothing of it."""
    waiting, write = threading.Event(), checkpoint.Saving.write

    def slowly(saving, pieces, state):
        if saving._step == 8:
            waiting.wait(LIMIT_S)
        write(saving, pieces, state)

    monkeypatch.setattr(checkpoint.Saving, "write", slowly)

    def before(number):
        if number == 9:
            raise MemoryError

    processes, made = several(folder, before=before, total_steps=20, checkpoint_every=4)
    try:
        with pytest.raises(MemoryError):
            processes.train(made)
    finally:
        waiting.set()
    assert restore_latest(folder.checkpoints).step == 4
