"""Progress: honest about speed and time left, plain in a pipe, live on a terminal, and never a run's end."""

import io
import os
import pty
import re
import subprocess
import sys
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diptych.core.progress import format_duration, shows_live
from diptych.core.training.progress import Progress

RUN = """
import sys
from diptych.core.training.progress import Progress
with Progress(1000, 600, 32, interval_s=0.0) as progress:
    progress.message("resuming [bold]")
    for step in range(601, 1001):
        progress.update(step, {"loss": 1 / step, "learning_rate": 1e-3})
print("still running")
print("finished", file=sys.stderr)
"""


class Clock:
    """A clock that moves only when told to, in seconds."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


class Value:
    """A number on a device: turning it into a float waits for it."""

    def __init__(self):
        self.waited_for = 0

    def __float__(self):
        self.waited_for += 1
        return 1.5


def progress_in_a_pipe(total, start=0, batch=32, **options):
    clock, stream = Clock(), io.StringIO()
    return Progress(total, start, batch, stream=stream, clock=clock, **options), clock, stream


def test_a_pipe_gets_one_plain_line_every_interval_and_the_last_step():
    progress, clock, stream = progress_in_a_pipe(100, interval_s=10)
    for step in range(1, 101):
        clock.now = float(step)
        progress.update(step, {"loss": 2.0, "learning_rate": 5e-4, "utilisation": 0.25})
    progress.close()
    progress.close()
    lines = stream.getvalue().splitlines()
    assert [int(re.match(r"step ([\d,]+)/100", line)[1]) for line in lines] == [*range(1, 100, 10), 100]
    assert lines[-1] == "step 100/100  100.0%  loss 2.0000  32 examples/s  0 s left  lr 5.00e-04  utilisation 25%"
    assert "\x1b" not in stream.getvalue()
    assert "\r" not in stream.getvalue()


def test_the_last_state_is_shown_when_a_run_stops_early():
    progress, clock, stream = progress_in_a_pipe(100)
    for step in (1, 2, 3):
        clock.now += 1
        progress.update(step, {"loss": step})
    progress.close()
    assert stream.getvalue().splitlines()[-1].startswith("step 3/100  3.0%  loss 3.0000")


@given(
    start=st.integers(0, 10_000),
    compile_s=st.floats(0, 1000),
    step_s=st.floats(0.01, 100),
    steps=st.integers(2, 100),
    batch=st.integers(1, 4096),
)
def test_a_steady_run_is_predicted_exactly_after_any_resume_and_compilation(start, compile_s, step_s, steps, batch):
    progress, clock, _ = progress_in_a_pipe(start + steps + 500, start, batch)
    clock.now = compile_s
    for step in range(start + 1, start + steps + 1):
        clock.now += step_s
        progress.update(step, {})
    assert progress.examples_per_second == pytest.approx(batch / step_s, rel=1e-6)
    assert progress.seconds_left == pytest.approx(500 * step_s, rel=1e-6)


def test_before_two_steps_no_speed_is_claimed():
    progress, clock, stream = progress_in_a_pipe(100, 50)
    assert progress.examples_per_second is None
    clock.now = 60
    progress.update(51, {"loss": 1.0})
    assert progress.seconds_left is None
    assert "examples/s" not in stream.getvalue()


def test_the_speed_follows_a_change_within_the_window():
    progress, clock, _ = progress_in_a_pipe(10_000, batch=1)
    for step in range(1, 1001):
        clock.now += 0.1 if step <= 500 else 1.0
        progress.update(step, {})
    assert progress.examples_per_second == pytest.approx(1.0)


def test_a_compilation_on_the_way_is_not_counted_where_the_speed_is_measured_anew():
    progress, clock, _ = progress_in_a_pipe(1_000, batch=1)
    for step in range(1, 101):
        if step == 50:
            clock.now += 600.0
            progress.restart()
        clock.now += 0.1 if step < 50 else 0.5
        progress.update(step, {})
        assert step not in (1, 50) or progress.seconds_left is None
    assert progress.seconds_left == pytest.approx(900 * 0.5)


def test_values_on_a_device_are_waited_for_only_when_shown():
    progress, clock, _ = progress_in_a_pipe(1000, interval_s=10)
    loss = Value()
    for step in range(1, 101):
        clock.now += 0.1
        progress.update(step, {"loss": loss})
    assert loss.waited_for == 1


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (59.4, "59 s"),
        (59.6, "1:00"),
        (725, "12:05"),
        (11_045, "3:04:05"),
        (2 * 86_400 + 3 * 3600 + 240, "2 d 03:04"),
        (-1, "0 s"),
    ],
)
def test_durations_read_well(seconds, text):
    assert format_duration(seconds) == text


def test_a_process_in_a_pipe_writes_no_control_codes():
    done = subprocess.run([sys.executable, "-c", RUN], capture_output=True, text=True, check=True)
    assert "resuming [bold]\n" in done.stdout
    assert done.stdout.endswith("still running\n")
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f]", done.stdout)
    assert len(done.stdout.splitlines()) == 402


def test_a_reader_that_leaves_does_not_end_the_run():
    process = subprocess.Popen([sys.executable, "-c", RUN], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    process.stdout.readline()
    process.stdout.close()
    errors = process.stderr.read()
    assert process.wait() == 0
    assert errors == "finished\n"


def test_a_closed_output_does_not_end_the_run():
    done = subprocess.run(f"{sys.executable} -c '{RUN}' >&-", shell=True, capture_output=True, text=True)
    assert done.stderr == "finished\n"
    assert done.returncode == 0


def run_on_a_terminal(code: str, read_bytes: int | None = None, **environment: str) -> tuple[int, str, str]:
    """Status, what the terminal received and the standard error of a process; after `read_bytes` the terminal is
    closed.
    """
    master, slave = pty.openpty()
    clean = {name: value for name, value in os.environ.items() if name not in ("CI", "NO_COLOR", "COLUMNS")}
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=slave,
        stderr=subprocess.PIPE,
        env={**clean, "TERM": "xterm", "COLUMNS": "100", **environment},
    )
    os.close(slave)
    received = b""

    def read():
        nonlocal received
        while read_bytes is None or len(received) < read_bytes:
            try:
                chunk = os.read(master, 65536)
            except OSError:
                break
            if not chunk:
                break
            received += chunk
        os.close(master)

    reader = threading.Thread(target=read)
    reader.start()
    errors = process.stderr.read().decode()
    reader.join()
    return process.wait(), received.decode(), errors


def test_a_terminal_gets_a_bar_that_leaves_the_cursor_as_it_was():
    status, received, errors = run_on_a_terminal(RUN)
    assert (status, errors) == (0, "finished\n")
    assert "resuming [bold]\r\n" in received
    assert "step 1,000/1,000" in received
    assert "examples/s" in received
    assert received.count("\x1b[?25l") == received.count("\x1b[?25h") == 1
    assert received.index("\x1b[?25h") > received.index("\x1b[?25l")
    assert received.endswith("still running\r\n")


def test_a_terminal_that_is_closed_does_not_end_the_run():
    slow = RUN.replace("progress.update(", "__import__('time').sleep(0.002); progress.update(")
    status, received, errors = run_on_a_terminal(slow, read_bytes=50)
    assert received
    assert (status, errors) == (0, "finished\n")


@pytest.mark.parametrize("environment", [{"CI": "true"}, {"TERM": "dumb"}])
def test_a_terminal_that_cannot_redraw_gets_plain_lines(environment):
    status, received, _ = run_on_a_terminal(RUN, **environment)
    assert status == 0
    assert "\x1b" not in received
    assert received.count("step ") == 400


def test_streams_without_a_terminal_are_not_live():
    closed = io.StringIO()
    closed.close()
    assert not shows_live(None)
    assert not shows_live(closed)
    assert not shows_live(io.StringIO())
