"""Worker processes stay light, end with their parent, and are named when they die."""

import os
import pickle
import signal
import subprocess
import sys
import time
from itertools import islice
from pathlib import Path

import pytest

from diptych.core.data.loading.loader import Loader
from diptych.core.data.loading.worker import WorkerDied
from diptych.core.data.records import Caption, Record
from tests.core.data.pictures import MemorySource, preprocess
from tests.tree import ROOT

HEAVY = ("keras", "jax", "torch", "tensorflow", "pyarrow", "matplotlib", "pandas")


class ModulesSource(MemorySource):
    """Its captions tell which of the heavy packages the process has imported that reads it."""

    def record(self, index: int) -> Record:
        found = [name for name in HEAVY if name in sys.modules]
        return Record(" ".join(found) or "none", (index,), (Caption("a"),))


class PrintingSource(MemorySource):
    """Prints, as libraries do."""

    def read(self, reference: int) -> bytes:
        print("reading", reference)
        os.write(1, b"straight to the descriptor\n")
        return super().read(reference)


def _alive(process: int) -> bool:
    try:
        state = Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def _wait_until_gone(processes: list[int], seconds: float) -> list[int]:
    end = time.monotonic() + seconds
    while time.monotonic() < end and any(map(_alive, processes)):
        time.sleep(0.05)
    return [process for process in processes if _alive(process)]


def _workers(loader: Loader) -> list[subprocess.Popen]:
    return [worker.process for makers in loader._open_makers for worker in makers.workers]


def test_workers_import_no_framework():
    sys.modules.setdefault("keras", sys)  # as in a training program; what the parent has is not what a worker has
    try:
        batches = Loader(ModulesSource(20), preprocess(), batch_size=8, seed=0, workers=1).batches(0)
        assert set(next(batches).keys) == {"none"}
        batches.close()
        here = Loader(ModulesSource(20), preprocess(), batch_size=8, seed=0).batch(0)
        assert all("keras" in key for key in here.keys), "a test that could not fail"
    finally:
        if sys.modules["keras"] is sys:
            del sys.modules["keras"]


def test_what_a_source_prints_does_not_disturb_the_answers():
    batches = Loader(PrintingSource(20), preprocess(), batch_size=8, seed=0, workers=1).batches(0)
    assert len(next(batches)) == 8
    batches.close()


def test_a_killed_worker_is_named_within_five_seconds():
    loader = Loader(MemorySource(60), preprocess(), batch_size=8, seed=0, workers=2)
    batches = loader.batches(0)
    next(batches)
    victim, other = _workers(loader)
    os.kill(victim.pid, signal.SIGKILL)
    start = time.monotonic()
    with pytest.raises(WorkerDied, match=rf"process {victim.pid}.*signal 9 \(SIGKILL\).*resume"):
        list(islice(batches, 1000))
    assert time.monotonic() - start < 5
    assert _wait_until_gone([other.pid], 2) == [], "the other worker was left behind"


def test_closing_ends_the_workers():
    loader = Loader(MemorySource(60), preprocess(), batch_size=8, seed=0, workers=2)
    batches = loader.batches(0)
    next(batches)
    processes = [process.pid for process in _workers(loader)]
    assert len(processes) == 2
    start = time.monotonic()
    loader.close()
    assert _wait_until_gone(processes, 2) == []
    assert time.monotonic() - start < 5


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks for processes in /proc, which this system has not")
@pytest.mark.parametrize("parent_signal", [signal.SIGKILL, signal.SIGINT])
def test_workers_end_with_their_parent(parent_signal):
    program = [sys.executable, "-m", "tests.core.data.loading.worker_parent", "60"]
    parent = subprocess.Popen(program, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        workers = [int(word) for word in parent.stdout.readline().split()]
        assert len(workers) == 2, parent.stderr.read()
        assert all(map(_alive, workers))
        assert parent.stdout.readline().startswith("batch")
        parent.send_signal(parent_signal)
        parent.wait(10)
        assert _wait_until_gone(workers, 5) == []
    finally:
        parent.kill()
        parent.communicate()


def test_a_program_ends_by_itself_with_its_iterator_still_open():
    program = [sys.executable, "-m", "tests.core.data.loading.worker_parent", "0.2"]
    done = subprocess.run(program, cwd=ROOT, capture_output=True, text=True, timeout=30, check=True)
    first = [int(word) for word in done.stdout.splitlines()[0].split()]
    assert "batch 8" in done.stdout
    assert done.stderr == ""
    assert _wait_until_gone(first, 5) == []


def test_ctrl_c_does_not_reach_the_workers():
    loader = Loader(MemorySource(60), preprocess(), batch_size=8, seed=0, workers=1)
    batches = loader.batches(0)
    next(batches)
    (worker,) = _workers(loader)
    assert os.getpgid(worker.pid) != os.getpgid(0)
    worker.send_signal(signal.SIGINT)
    for _ in range(10):
        next(batches)
    assert worker.poll() is None
    batches.close()


class UnpicklableError(RuntimeError):
    def __init__(self, first, second):
        super().__init__(f"{first} and {second}")


class UnpicklableSource(MemorySource):
    def read(self, reference: int) -> bytes:
        raise UnpicklableError("one thing", "another")


def test_an_error_that_cannot_travel_is_told_in_words():
    with pytest.raises(TypeError):
        pickle.loads(pickle.dumps(UnpicklableError("a", "b")))
    batches = Loader(UnpicklableSource(20), preprocess(), batch_size=8, seed=0, workers=1).batches(0)
    with pytest.raises(RuntimeError, match="one thing and another") as caught:
        next(batches)
    assert "in read" in "".join(caught.value.__notes__)
