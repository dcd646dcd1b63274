"""A training command that is killed again and again, and what must not depend on it: metrics and weights.

The command is a list such as ``[sys.executable, "-m", "recipes.siglip", "--run-dir", folder, ...]`` that resumes when
it is given again and writes the run folder of `diptych.core.training.run_folder`.
"""

import contextlib
import hashlib
import math
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
    life: "Life"  # the last start

    def by_step(self, name: str = "loss") -> dict[int, str]:
        """The metric at each step as hexadecimal digits, which are equal only when every bit is; a step written twice
        is an error.
        """
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
    undisturbed: Outcome,
    environment: Mapping[str, str] = {},
    timeout_s: float = 600,
) -> Outcome:
    """Run the command again and again, with SIGKILL at seeded random moments, and after `kills` of them leave it alone.

    Most moments lie a random part of a step after a random row of the metrics that the start adds: on average the
    kills-th part of the rows, so that the kills spread over the run and some come after a new checkpoint. The others
    lie before the first row. How long a row and a start take is what they took `undisturbed`. Rows are counted rather
    than seconds, so that kills meet the run, however much faster or slower it is now. `Outcome.kills` says how many
    did.
    """
    rng, life = random.Random(seed), undisturbed.life
    rows = sum("loss" in row for row in undisturbed.rows)
    most = max(1, min(2 * rows // kills, rows // 2 - 1))
    for done in range(kills):
        if rng.random() < EARLY_KILLS:
            moment = Moment(rows=0, seconds=rng.uniform(0, life.seconds_to_first_row))
        else:
            moment = Moment(rng.randint(1, most), rng.uniform(0, life.seconds_of_training / rows))
        start = _live(command, run_dir, environment, timeout_s, kill_at=moment)
        if not start.killed:  # it was at its end before its rows were seen
            return _outcome(run_dir, start, done)
    return _outcome(run_dir, _live(command, run_dir, environment, timeout_s), kills)


def run_with_kills_inside(
    command: Sequence[str],
    stage_dirs: Sequence[str | Path],
    *,
    seed: int,
    environment: Mapping[str, str] = {},
    timeout_s: float = 600,
) -> int:
    """Run a command of several stages, with one SIGKILL inside each of the given folders of stages, in their order, and
    then to its end; returns how many kills met their stage.

    The moment is a random part of some tenths of a second after one of the first rows that the start adds to the
    stage's metrics.
    """
    rng, met = random.Random(seed), 0
    for stage_dir in stage_dirs:
        moment = Moment(rng.randint(1, 4), rng.uniform(0, 0.2))
        met += _live(command, stage_dir, environment, timeout_s, kill_at=moment).killed
    assert not _live(command, stage_dirs[-1], environment, timeout_s).killed
    return met


def run_with_fault(
    command: Sequence[str],
    run_dir: str | Path,
    *,
    fault: str,
    environment: Mapping[str, str] = {},
    timeout_s: float = 600,
) -> Outcome:
    """Run the command until it exits at a named place in saving (``"before_rename:2"``), then again without the fault
    to its end.
    """
    life = _live(command, run_dir, {**environment, FAULT_VARIABLE: fault}, timeout_s, accepted=(FAULT_STATUS,))
    assert life.status == FAULT_STATUS, f"the command ended without reaching {fault}"
    return _outcome(run_dir, _live(command, run_dir, environment, timeout_s), kills=1)


@dataclass(frozen=True)
class Moment:
    """When to kill: seconds after so many new rows of the metrics, or, for no rows, after the start, but not after the
    first row.
    """

    rows: int
    seconds: float


@dataclass(frozen=True)
class Life:
    """One start of the command."""

    status: int
    killed: bool
    seconds_to_first_row: float
    seconds_of_training: float  # from the first row to the end


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
            rows = _new_rows(metrics)
            if kill_at and not kill_at.rows:
                _wait(process, rows, 1, start + timeout_s, seconds=kill_at.seconds)
                process.kill()
            _wait(process, rows, 1, start + timeout_s)
            first_row = time.monotonic()
            if kill_at:
                _wait(process, rows, kill_at.rows, start + timeout_s)
                time.sleep(kill_at.seconds)
                process.kill()
            status = process.wait(timeout=max(0.0, start + timeout_s - time.monotonic()))
        except subprocess.TimeoutExpired as error:
            raise CommandFailed(f"{command} still runs after {timeout_s} s:\n{_tail(output)}") from error
        finally:
            process.kill()
            process.wait()
            orphans = _end_group(process.pid)
        end = time.monotonic()
    killed = status == -signal.SIGKILL and kill_at is not None
    if orphans:
        raise CommandFailed(f"{command} left processes {orphans} that still ran {ORPHAN_GRACE_S:.0f} s after its end")
    if not killed and status not in accepted:
        raise CommandFailed(f"{command} ended with status {status}, expected {accepted[0]}:\n{_tail(output)}")
    return Life(status, killed, first_row - start, end - first_row)


def _wait(
    process: subprocess.Popen, rows: Callable[[], int], wanted: int, give_up_at: float, *, seconds: float = math.inf
) -> None:
    """Wait for so many rows, for the end of the process, or for some seconds, whichever comes first."""
    until = time.monotonic() + seconds
    while process.poll() is None and rows() < wanted and time.monotonic() < until:
        if time.monotonic() > give_up_at:
            raise subprocess.TimeoutExpired(process.args, give_up_at)
        time.sleep(POLL_S)


def _new_rows(metrics: Path) -> Callable[[], int]:
    """A question for the number of rows that were added since now; a file that is cut back on resume counts from
    there.
    """

    def rows() -> int:
        return metrics.read_bytes().count(b"\n") if metrics.exists() else 0

    fewest = rows()

    def added() -> int:
        nonlocal fewest
        now = rows()
        fewest = min(fewest, now)
        return now - fewest

    return added


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
    return Outcome(read_metrics(folder.metrics), digest, kills, life)


def _tail(output: Path) -> str:
    return "\n".join(output.read_text(errors="replace").splitlines()[-40:])
