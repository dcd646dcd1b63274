"""One worker process for each backend, kept up for the whole session."""

import contextlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from diptych.backends.selection import BACKENDS, installed_backends
from tests.agreement.worker import read_message, write_message
from tests.tree import ROOT


class WorkerFailed(RuntimeError):
    """A worker raised; the message holds its traceback. The worker is still up."""


class WorkerDied(RuntimeError):
    """A worker ended without a reply; the message holds the end of its standard error."""


class Worker:
    """A process that runs one backend.

    Args:
        backend: "jax", "torch" or "tensorflow".
        device: "cpu" or "gpu".
        quick: let XLA spend less time on machine code; jax then compiles twice as fast, and computes the same
            operations.
    """

    def __init__(self, backend: str, *, device: str = "cpu", quick: bool = False):
        self.backend, self.device, self.quick = backend, device, quick
        self._folder = tempfile.TemporaryDirectory(prefix=f"worker-{backend}-")
        self._process: subprocess.Popen | None = None

    def start(self) -> None:
        """Start the process where it is not running; `send` does so by itself."""
        if self._process is None:
            with self._stderr.open("wb") as stderr:
                self._process = subprocess.Popen(
                    [sys.executable, "-m", "tests.agreement.worker"],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=stderr,
                    cwd=ROOT,
                    env=self._environment(),
                )

    def send(self, name: str, **arguments) -> None:
        self.start()
        with contextlib.suppress(BrokenPipeError):  # it has died; `receive` says how
            write_message(self._process.stdin, (name, arguments))

    def receive(self):
        """The reply to the oldest request that has none yet."""
        message = read_message(self._process.stdout)
        if message is None:
            self._process.stdin.close()
            code = self._process.wait(timeout=60)
            self._process = None  # the next request starts a new one
            raise WorkerDied(
                f"The {self.backend} worker ended with code {code}. The end of its output:\n{self.output()}"
            )
        kind, value = message
        if kind == "error":
            raise WorkerFailed(f"The {self.backend} worker raised:\n{value}")
        return value

    def output(self) -> str:
        """The last lines of what the worker has printed."""
        text = self._stderr.read_text(encoding="utf-8", errors="replace") if self._stderr.exists() else ""
        return text[-4000:]

    def stop(self) -> None:
        if self._process is not None:
            self._process.stdin.close()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(timeout=20)
        self.kill()
        self._folder.cleanup()

    def kill(self) -> None:
        """End the process at once, whatever it computes; the next request starts a new one."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process.stdout.close()
            with contextlib.suppress(BrokenPipeError):  # of a request that was not read
                self._process.stdin.close()
            self._process = None

    @property
    def _stderr(self) -> Path:
        return Path(self._folder.name, "stderr.txt")

    def _environment(self) -> dict[str, str]:
        environment = os.environ | {
            "KERAS_BACKEND": self.backend,
            "KERAS_HOME": self._folder.name,
            "DIPTYCH_DEVICE": self.device,
            "PYTHONPATH": str(ROOT),
            "TF_CPP_MIN_LOG_LEVEL": "2",
            "OMP_NUM_THREADS": "1",
            "OPENBLAS_NUM_THREADS": "1",
            "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
            "TF_FORCE_GPU_ALLOW_GROWTH": "true",
        }
        if self.device == "cpu":
            environment |= {
                "CUDA_VISIBLE_DEVICES": "",
                "JAX_PLATFORMS": "cpu",
                "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false" + " --xla_backend_optimization_level=0" * self.quick,
            }
        return environment


class Pool:
    """Workers that answer the same request side by side."""

    def __init__(self, backends: Sequence[str], *, device: str = "cpu", quick: bool = False):
        self.device = device
        self.workers = {backend: Worker(backend, device=device, quick=quick) for backend in backends}

    @property
    def backends(self) -> tuple[str, ...]:
        return tuple(self.workers)

    def ask(
        self, name: str, *, backends: Sequence[str] | None = None, own: Mapping[str, dict] | None = None, **arguments
    ) -> dict:
        """{backend: its reply}; `own` holds arguments that differ by backend.

        All requests are sent before any reply is read, so the workers compute at the same time.
        """
        asked = {backend: self.workers[backend] for backend in (backends or self.workers)}
        replies, failures = {}, []
        try:
            for backend, worker in asked.items():
                worker.send(name, **arguments, **(own or {}).get(backend, {}))
            for backend, worker in asked.items():
                try:
                    replies[backend] = worker.receive()
                except (WorkerFailed, WorkerDied) as failure:
                    failures.append(failure)  # the others' replies are read all the same
        except BaseException:  # a time limit: a reply still on its way would be taken for that to the next request
            for worker in asked.values():
                worker.kill()
            raise
        if failures:
            raise failures[0]
        return replies

    def stop(self) -> None:
        for worker in self.workers.values():
            worker.stop()


def required_backends() -> tuple[str, ...]:
    """The backends that must take part: those of DIPTYCH_REQUIRE_BACKENDS, such as "jax,torch,tensorflow"."""
    return tuple(name for name in os.environ.get("DIPTYCH_REQUIRE_BACKENDS", "").replace(" ", "").split(",") if name)


def start_pool(device: str = "cpu", *, quick: bool = False) -> tuple[Pool, dict[str, dict], dict[str, str]]:
    """A pool of all backends that can compute on the device, what they say of themselves, and why the others are
    missing.

    Raises RuntimeError where a backend is missing that `required_backends` names.
    """
    installed = installed_backends()
    missing = {name: f"{name} is not installed" for name in BACKENDS if name not in installed}
    pool = Pool(installed, device=device, quick=quick)
    facts = pool.ask("describe")
    for name in installed:
        if facts[name]["device"] != device:
            missing[name] = f"{name} finds no {device} here; it would compute on the {facts.pop(name)['device']}"
            pool.workers.pop(name).stop()
    absent = [f"{name} ({missing[name]})" for name in required_backends() if name in missing]
    if absent:
        pool.stop()
        raise RuntimeError(f"DIPTYCH_REQUIRE_BACKENDS asks for backends that cannot take part: {', '.join(absent)}.")
    return pool, facts, missing
