"""Several processes of this machine that carry out one command together, started as launchers start them."""

import os
import signal
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

from diptych.core.training.metrics import read_metrics

LIMIT_S = 900.0 if os.environ.get("DIPTYCH_THOROUGH") else 300.0  # machine code as in use takes longer to write


class Processes:
    """While entered, `count` processes of a command: on jax by a coordinator, on torch by what torchrun tells each.
    `variables` are of the environments of some, by their numbers.

    torchrun itself passes no signal to one process alone; here it is played, with the store that its agent holds.
    """

    def __init__(self, command: Sequence[str], count: int, variables: Mapping[int, Mapping[str, str]] = {}):
        self._command, self._count, self._variables = list(command), count, variables
        self._started: list[subprocess.Popen] = []
        self._store: object = None

    def __enter__(self) -> Self:
        port = self._open()
        for number in range(self._count):
            flags, variables = self._told(port, number)
            self._started.append(
                subprocess.Popen(
                    [*self._command, *flags],
                    env=os.environ | {"OMP_NUM_THREADS": "1"} | variables | self._variables.get(number, {}),
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    text=True,
                )
            )
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._started:
            process.kill()
            process.wait()

    def wait_for_steps(self, run_dir: Path, steps: int) -> None:
        """Returns once so many rows of metrics are written."""
        metrics, until = run_dir / "metrics.jsonl", time.monotonic() + LIMIT_S
        while not metrics.exists() or len(read_metrics(metrics)) < steps:
            assert time.monotonic() < until, self.ended()
            assert not any(process.poll() for process in self._started), self.ended()
            time.sleep(0.02)

    def signal(self, number: int, which: signal.Signals) -> None:
        """Send a signal to one process."""
        self._started[number].send_signal(which)

    def ended(self) -> list[int]:
        """The exit status of each; what they printed is shown where they do not end."""
        printed = []
        for process in self._started:
            try:
                printed.append(process.communicate(timeout=LIMIT_S)[0])
            except subprocess.TimeoutExpired:
                for other in self._started:
                    other.kill()
                printed.append(process.communicate()[0])
        for number, text in enumerate(printed):
            print(f"process {number}:\n{text[-3_000:]}")
        return [process.returncode for process in self._started]

    def _told(self, port: int, number: int) -> tuple[list[str], dict[str, str]]:
        """The flags and variables by which a process knows which one it is."""
        if os.environ["KERAS_BACKEND"] == "jax":
            address = ["--coordinator-address", f"localhost:{port}"]
            return [*address, "--num-processes", str(self._count), "--process-id", str(number)], {}
        numbers = {"RANK": number, "LOCAL_RANK": number, "WORLD_SIZE": self._count, "MASTER_PORT": port}
        return [], {"MASTER_ADDR": "localhost"} | {name: str(value) for name, value in numbers.items()}

    def _open(self) -> int:
        """A port for the processes to meet at; on torch with the store that they expect there."""
        if os.environ["KERAS_BACKEND"] == "jax":
            with socket.socket() as free:
                free.bind(("localhost", 0))
                return free.getsockname()[1]
        import torch.distributed as dist

        self._store = dist.TCPStore("localhost", 0, is_master=True, wait_for_workers=False)
        return self._store.port
