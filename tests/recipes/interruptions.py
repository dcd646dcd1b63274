"""Runs a training command while killing it, and returns what must not depend on the kills: its metrics and its final weights.

The command is a list such as ``[sys.executable, "-m", "recipes.siglip", "--run-dir", folder, ...]`` that resumes when it is given again and
writes the run folder of `diptych.core.training.run_folder`.
"""

import contextlib
import hashlib
import os
import random
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from diptych.core.training.checkpoint import load
from diptych.core.training.faults import FAULT_STATUS, FAULT_VARIABLE
from diptych.core.training.metrics import read_metrics
from diptych.core.training.run_folder import RunFolder

POLL_S = 0.005
ORPHAN_GRACE_S = 10.0
EARLY_KILLS = 0.2  # share of the kills that come before the first step: while importing, restoring or compiling


@dataclass(frozen=True)
class Outcome:
    """What a command left behind once it had ended by itself with status 0."""

    rows: list[dict]
    weights_sha256: str
    kills: int
    seconds_to_first_row: float  # of the last start
    seconds_of_training: float  # of the last start, from its first row to its end

    def by_step(self, name: str = "loss") -> dict[int, str]:
        """The metric at each step as hexadecimal digits, which are equal only when every bit is; a step written twice is an error."""
        values: dict[int, str] = {}
        for row in self.rows:
            if name in row:
                assert row["step"] not in values, f"step {row['step']} stands twice in the metrics"
                values[row["step"]] = float(row[name]).hex()
        return values


class CommandFailed(AssertionError):
    """The command ended by itself with another status than 0, or left processes behind, or took too long."""


def run_undisturbed(
    command: Sequence[str], run_dir: str | Path, *, environment: Mapping[str, str] = {}, timeout_s: float = 600
) -> Outcome:
    """Run the command once to its end."""
    life = _live(command, run_dir, environment, timeout_s)
    return _outcome(run_dir, life, kills=0)


def run_with_kills(
    command: Sequence[str],
    run_dir: str | Path,
    *,
    kills: int,
    seed: int,
    seconds_of_training: float,
    seconds_to_first_row: float,
    environment: Mapping[str, str] = {},
    timeout_s: float = 600,
) -> Outcome:
    """Run the command again and again, with SIGKILL at seeded random moments, and after `kills` of them leave it alone.

    Most moments are uniform over ``seconds_of_training / kills`` after the first new row, so that the kills spread over the run; the others
    are uniform over the time before the first row. Both durations are those of an undisturbed run. `Outcome.kills` says how many there were.
    """
    rng, done = random.Random(seed), 0
    while done < kills:
        if rng.random() < EARLY_KILLS:
            moment = Moment(rng.uniform(0, seconds_to_first_row), after_first_row=False)
        else:
            moment = Moment(rng.uniform(0, seconds_of_training / kills), after_first_row=True)
        life = _live(command, run_dir, environment, timeout_s, kill_at=moment)
        if not life.killed:
            return _outcome(run_dir, life, done)
        done += 1
    return _outcome(run_dir, _live(command, run_dir, environment, timeout_s), done)


def run_with_fault(
    command: Sequence[str],
    run_dir: str | Path,
    *,
    fault: str,
    environment: Mapping[str, str] = {},
    timeout_s: float = 600,
) -> Outcome:
    """Run the command until it exits at a named place in saving (``"before_rename:2"``), then again without the fault to its end."""
    life = _live(command, run_dir, {**environment, FAULT_VARIABLE: fault}, timeout_s, accepted=(FAULT_STATUS,))
    assert life.status == FAULT_STATUS, f"the command ended without reaching {fault}"
    return _outcome(run_dir, _live(command, run_dir, environment, timeout_s), kills=1)


@dataclass(frozen=True)
class Moment:
    """When to kill: seconds after the start, or after the first row that this start adds to the metrics."""

    seconds: float
    after_first_row: bool


@dataclass(frozen=True)
class Life:
    """One start of the command."""

    status: int
    killed: bool
    seconds_to_first_row: float
    seconds: float


def _live(
    command: Sequence[str],
    run_dir: str | Path,
    environment: Mapping[str, str],
    timeout_s: float,
    *,
    kill_at: Moment | None = None,
    accepted: Sequence[int] = (0,),
) -> Life:
    metrics = RunFolder(run_dir).metrics
    output = Path(run_dir).with_name(Path(run_dir).name + ".output")
    with open(output, "wb") as stream:
        start = time.monotonic()
        process = subprocess.Popen(
            command, env={**os.environ, **environment}, stdout=stream, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            early = start + kill_at.seconds if kill_at and not kill_at.after_first_row else None
            _wait(process, _row_added(metrics), start + timeout_s, early)
            first_row = time.monotonic()
            if kill_at:
                _wait(process, lambda: False, start + timeout_s, early or first_row + kill_at.seconds)
            status = process.wait(timeout=max(0.0, start + timeout_s - time.monotonic()))
        except subprocess.TimeoutExpired as error:
            raise CommandFailed(f"{command} still runs after {timeout_s} s:\n{_tail(output)}") from error
        finally:
            process.kill()
            process.wait()
            orphans = _end_group(process.pid)
        seconds = time.monotonic() - start
    killed = status == -signal.SIGKILL and kill_at is not None
    if orphans:
        raise CommandFailed(f"{command} left processes {orphans} that still ran {ORPHAN_GRACE_S:.0f} s after its end")
    if not killed and status not in accepted:
        raise CommandFailed(f"{command} ended with status {status}, expected {accepted[0]}:\n{_tail(output)}")
    return Life(status, killed, first_row - start, seconds)


def _wait(process: subprocess.Popen, reached: Callable[[], bool], give_up_at: float, kill_at: float | None) -> None:
    """Wait until `reached` or the end of the process, which is killed at the time `kill_at`; times are those of the monotonic clock."""
    while process.poll() is None and not reached():
        now = time.monotonic()
        if kill_at is not None and now >= kill_at:
            process.kill()
            process.wait()
        elif now > give_up_at:
            raise subprocess.TimeoutExpired(process.args, give_up_at)
        else:
            time.sleep(POLL_S if kill_at is None else min(POLL_S, kill_at - now))


def _row_added(metrics: Path) -> Callable[[], bool]:
    """A question that is answered yes once the file has grown between two polls; being cut back on resume is no growth."""
    size = metrics.stat().st_size if metrics.exists() else 0

    def grown() -> bool:
        nonlocal size
        before, size = size, metrics.stat().st_size if metrics.exists() else 0
        return size > before

    return grown


def _end_group(group: int) -> list[int]:
    """The processes of the command that outlive it by more than the grace; they are ended."""
    deadline = time.monotonic() + ORPHAN_GRACE_S
    while (alive := _running(group)) and time.monotonic() < deadline:
        time.sleep(POLL_S)
    for pid in alive:
        os.kill(pid, signal.SIGKILL)
    return alive


def _running(group: int) -> list[int]:
    """Processes of a process group that run; one that has ended and only waits to be collected does not count."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, _, its_group = path.read_text().rpartition(")")[2].split()[:3]
            if int(its_group) == group and state not in "ZX":
                found.append(int(path.parent.name))
    return found


def _outcome(run_dir: str | Path, life: Life, kills: int) -> Outcome:
    folder = RunFolder(run_dir)
    newest = max(folder.checkpoints.glob("step-*"), key=lambda path: int(path.name.removeprefix("step-")))
    load(newest)
    leftovers = [path.name for path in folder.checkpoints.iterdir() if not path.name.startswith("step-")]
    assert not leftovers, f"{folder.checkpoints} still holds {leftovers}"
    digest = hashlib.sha256((newest / "weights.safetensors").read_bytes()).hexdigest()
    return Outcome(
        read_metrics(folder.metrics), digest, kills, life.seconds_to_first_row, life.seconds - life.seconds_to_first_row
    )


def _tail(output: Path) -> str:
    return "\n".join(output.read_text(errors="replace").splitlines()[-40:])
