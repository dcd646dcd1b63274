"""Processes that make rows of batches, so that decoding does not compete with training for one interpreter.

A worker is a plain child process that runs nothing but this file: it does not import the program that started it (and
with it a deep-learning framework) unless the source is defined there. It serves requests on its standard input and ends
when that closes.
"""

import contextlib
import faulthandler
import os
import pickle
import queue
import runpy
import signal
import struct
import subprocess
import sys
import threading
import time
import traceback
import types
from concurrent.futures import Future
from pathlib import Path

from diptych.core.data.loading.examples import Examples, Rows
from diptych.core.data.loading.threads import DaemonThreads
from diptych.core.files.errors import Failure

_START = "from diptych.core.data.loading.worker import serve; serve()"
_REQUEST = struct.Struct("<qqq")
_PARENT_POLL_SECONDS = 1.0
_STACK_SECONDS = 0.5
_END_SECONDS = 2.0
_STACK_SIGNAL = getattr(signal, "SIGUSR1", None)


class WorkerDied(Failure):
    """A worker process ended without being asked to."""


class WorkerPool:
    """As many worker processes as wanted, each waited for by one thread of this process."""

    def __init__(self, examples: Examples, workers: int):
        payload = pickle.dumps(examples, protocol=5)
        self.workers = [Worker(number, payload) for number in range(workers)]
        self._idle: queue.SimpleQueue[Worker] = queue.SimpleQueue()
        for worker in self.workers:
            self._idle.put(worker)
        self._threads = DaemonThreads(workers, "diptych-loader")

    def submit(self, batch: int, first: int, last: int) -> Future[Rows]:
        """Rows first..last-1 of a batch, made by whichever worker is free."""
        return self._threads.submit(self._rows, batch, first, last)

    def check(self) -> None:
        """Raise `WorkerDied` if any worker has ended, even one that had nothing to do."""
        for worker in self.workers:
            if worker.process.poll() is not None:
                raise worker.obituary()

    def dump_stacks(self) -> None:
        """Have every worker print where it is to the standard error."""
        for worker in self.workers:
            if _STACK_SIGNAL is not None and worker.process.poll() is None:
                worker.process.send_signal(_STACK_SIGNAL)
        time.sleep(_STACK_SECONDS)

    def close(self) -> None:
        """End the workers at once: they hold nothing that could be lost."""
        self._threads.cancel()
        for worker in self.workers:
            worker.end()
        self._threads.close()

    def _rows(self, batch: int, first: int, last: int) -> Rows:
        worker = self._idle.get()
        try:
            return worker.rows(batch, first, last)
        finally:
            self._idle.put(worker)


class Worker:
    """One worker process, seen from the process that started it."""

    def __init__(self, number: int, payload: bytes):
        self.number = number
        paths = [path or os.getcwd() for path in sys.path]
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-c", _START],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(paths), "OPENBLAS_NUM_THREADS": "1"},
            # Ctrl-C in a terminal goes to the whole process group; what to do about it is for the parent to decide.
            process_group=0,
        )
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self._requests, self._answers = self.process.stdin, self.process.stdout
        self._send(pickle.dumps((os.getpid(), _main_script(payload), payload)))

    def rows(self, batch: int, first: int, last: int) -> Rows:
        """Rows first..last-1 of a batch; raises what the worker raised, or `WorkerDied`."""
        self._send(_REQUEST.pack(batch, first, last))
        try:
            answer = pickle.load(self._answers)
        except (EOFError, pickle.UnpicklingError, ValueError):
            raise self.obituary() from None
        if isinstance(answer, BaseException):
            raise answer
        return answer

    def obituary(self) -> WorkerDied:
        """Who ended and how, for the person in front of the screen."""
        code = self.process.wait()
        if code >= 0:
            how = f"ended with exit code {code}; what it printed is above"
        else:
            how = f"was killed by signal {-code} ({signal.Signals(-code).name})"
            how += "; the system's out-of-memory killer does this" if -code == 9 else ""
        return WorkerDied(
            f"data worker {self.number} (process {self.process.pid}) {how}. Start again to resume; "
            "fewer --workers need less memory."
        )

    def end(self) -> None:
        """Kill the process and wait for it."""
        self.process.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):  # in a read that the system cannot interrupt
            self.process.wait(_END_SECONDS)
        for stream in (self._requests, self._answers):
            with contextlib.suppress(OSError):
                stream.close()

    def _send(self, message: bytes) -> None:
        try:
            self._requests.write(message)
            self._requests.flush()
        except (BrokenPipeError, ValueError):
            raise self.obituary() from None


def serve() -> None:
    """The life of a worker process: take the examples to make, then answer requests until the input closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if _STACK_SIGNAL is not None:
        faulthandler.register(_STACK_SIGNAL)
    requests = os.fdopen(os.dup(0), "rb")
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a source prints belongs on the screen, not among the answers
    parent, main_script, payload = pickle.load(requests)
    threading.Thread(target=_end_with_parent, args=(parent,), daemon=True).start()
    if main_script:
        _import_main(main_script)
    examples = pickle.loads(payload)
    while len(request := requests.read(_REQUEST.size)) == _REQUEST.size:
        try:
            answer = examples.rows(*_REQUEST.unpack(request))
        except Exception as error:
            answer = _portable(error)
        pickle.dump(answer, answers, protocol=5)
        answers.flush()


def _end_with_parent(parent: int) -> None:
    # The input closes when the parent dies, but a worker stuck in a read or a decode would not notice.
    # Linux could send a signal (PR_SET_PDEATHSIG), but it does so already when the parent's *thread* that started us
    # ends.
    while os.getppid() == parent:
        time.sleep(_PARENT_POLL_SECONDS)
    os._exit(1)


def _main_script(payload: bytes) -> str | None:
    """The running script, if pickled objects are defined there: only then do workers have to import it."""
    if b"__main__" not in payload:
        return None
    path = getattr(sys.modules["__main__"], "__file__", None)
    if path is None:
        raise ValueError(
            "the data source is defined in an interactive session, where worker processes cannot find it: "
            "move it into a module, or use workers=0"
        )
    return str(Path(path).resolve())


def _import_main(path: str) -> None:
    main = types.ModuleType("__mp_main__")
    main.__dict__.update(runpy.run_path(path, run_name="__mp_main__"))
    sys.modules["__main__"] = sys.modules["__mp_main__"] = main


def _portable(error: Exception) -> Exception:
    """The error itself where it survives pickling, with the worker's traceback as a note."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        error = RuntimeError(f"{type(error).__name__}: {error}").with_traceback(error.__traceback__)
    error.add_note("In the worker process:\n" + "".join(traceback.format_exception(error)))
    return error
