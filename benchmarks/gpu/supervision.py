"""A stage as a process group of its own: whatever it starts ends with it, at its limit at the latest."""

import os
import signal
import subprocess
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

UNKILLABLE_SECONDS, ORPHANS_SECONDS = 5.0, 2.0


def supervise(command: list[str], *, seconds: float, log: Path, folder: Path, environment: Mapping[str, str]) -> str:
    """Runs a command with its output in a file -> "passed", "failed with status N" or "out of time".

    Its process group is killed when the command ends, when its time is over, and when this process is interrupted.

    Args:
        seconds: at most.
        log: the file for both outputs.
        folder: where it runs.
        environment: the whole of its environment.
    """
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    in_time = False
    try:
        in_time = _has_ended(process.pid, time.monotonic() + seconds)
    finally:  # the leader is not reaped yet, so its number still means this group
        os.killpg(process.pid, signal.SIGKILL)
    try:
        status = process.wait(UNKILLABLE_SECONDS)
    except subprocess.TimeoutExpired:
        return "out of time, and cannot be killed"
    _await_the_end_of_group(process.pid)
    if not in_time:
        return "out of time"
    return "passed" if status == 0 else f"failed with status {status}"


def _await_the_end_of_group(group: int) -> None:
    """Gives what was killed the time to end, and to give the GPU's memory back; not to one that nobody waits for."""
    deadline = time.monotonic() + ORPHANS_SECONDS
    with suppress(ProcessLookupError):
        while time.monotonic() < deadline:
            os.killpg(group, 0)
            time.sleep(0.02)


def _has_ended(pid: int, deadline: float) -> bool:
    """Whether a child ends by then; it is left to be waited for."""
    while os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True
