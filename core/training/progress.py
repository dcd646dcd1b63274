"""Progress of a run for the person watching: a live bar on a terminal, one plain line every few seconds in a pipe or a
CI log.
"""

import contextlib
import os
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, Self, TextIO

WINDOW_S = 30.0
MIN_WINDOW_STEPS = 5
MIN_BAR_WIDTH = 8


class Progress:
    """Shows step, loss, examples a second, learning rate, utilisation and the time left.

    The speed is that of the last 30 s (at least 5 steps) of this process; the first step, which compiles, is not
    counted, and neither are steps done before a resume. A closed or broken output stops the display and never the run.
    """

    def __init__(
        self,
        total_steps: int,
        start_step: int = 0,
        batch_size: int = 1,
        *,
        interval_s: float = 10.0,
        stream: TextIO | None = None,
        live: bool | None = None,
        clock: Callable[[], float] = time.monotonic,
    ):
        self.total_steps, self.batch_size = total_steps, batch_size
        self._stream = sys.stdout if stream is None else stream
        self._interval_s, self._clock = interval_s, clock
        self._step = start_step
        self._logs: Mapping[str, Any] = {}
        self._window: deque[tuple[float, int]] = deque()
        self._last_shown: float | None = None
        self._shown_step: int | None = None
        live = shows_live(self._stream) if live is None else live
        self._bar = _bar(self._stream, total_steps, start_step) if live else None

    @property
    def examples_per_second(self) -> float | None:
        """Speed over the window; None until two steps have been seen."""
        if len(self._window) < 2:
            return None
        (first_time, first_step), (last_time, last_step) = self._window[0], self._window[-1]
        return (last_step - first_step) * self.batch_size / max(last_time - first_time, 1e-9)

    @property
    def seconds_left(self) -> float | None:
        """Estimate from the speed over the window; None until it is known."""
        speed = self.examples_per_second
        return None if not speed else (self.total_steps - self._step) * self.batch_size / speed

    def update(self, step: int, logs: Mapping[str, Any]) -> None:
        """Say that `step` steps are done. `logs` may hold loss, learning_rate, utilisation (0..1) and anything else of
        one number.

        Values become Python floats only when they are shown, so arrays still being computed on a device are not waited
        for each step.
        """
        now = self._clock()
        self._step, self._logs = step, logs
        self._window.append((now, step))
        while len(self._window) > MIN_WINDOW_STEPS and now - self._window[1][0] > WINDOW_S:
            self._window.popleft()
        interval_s = 0.2 if self._bar else self._interval_s
        if self._last_shown is None or now - self._last_shown >= interval_s or step >= self.total_steps:
            self._show(now)

    def message(self, text: str) -> None:
        """Print a line of text, above the bar where there is one."""
        with self._guarded():
            if self._bar:
                self._bar.console.print(text, markup=False, highlight=False, soft_wrap=True)
            else:
                self._print(text)

    def close(self) -> None:
        """Show the last state and leave the terminal as it was; a second call does nothing."""
        if self._shown_step != self._step and self._window:
            self._show(self._clock())
        if self._bar:
            with self._guarded():
                self._bar.stop()
            self._bar = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _show(self, now: float) -> None:
        self._last_shown, self._shown_step = now, self._step
        parts = self._parts()
        with self._guarded():
            if self._bar:
                width = self._bar.console.width - len(f"step {self.total_steps:,}/{self.total_steps:,}") - MIN_BAR_WIDTH
                figures = _fitting(parts, width)
                self._bar.update(self._bar.task_ids[0], completed=self._step, figures=figures, refresh=True)
            else:
                share = self._step / max(self.total_steps, 1)
                self._print("  ".join([f"step {self._step:,}/{self.total_steps:,}", f"{share:.1%}", *parts]))

    def _parts(self) -> list[str]:
        parts = []
        if "loss" in self._logs:
            parts.append(f"loss {float(self._logs['loss']):.4f}")
        if (speed := self.examples_per_second) is not None:
            parts.append(f"{speed:,.0f} examples/s" if speed >= 10 else f"{speed:.2g} examples/s")
        if (seconds := self.seconds_left) is not None:
            parts.append(f"{format_duration(seconds)} left")
        if "learning_rate" in self._logs:
            parts.append(f"lr {float(self._logs['learning_rate']):.2e}")
        if self._logs.get("utilisation") is not None:
            parts.append(f"utilisation {float(self._logs['utilisation']):.0%}")
        return parts

    def _print(self, text: str) -> None:
        if self._stream is not None:
            self._stream.write(text + "\n")
            self._stream.flush()

    @contextlib.contextmanager
    def _guarded(self):
        """Stop showing anything when the reader of the output has gone (a closed pipe or terminal)."""
        try:
            yield
        except (OSError, ValueError) as error:
            if isinstance(error, ValueError) and not getattr(self._stream, "closed", False):
                raise
            bar, self._stream, self._bar, stream = self._bar, None, None, self._stream
            _silence(stream)
            if bar:
                with contextlib.suppress(OSError, ValueError):
                    bar.stop()


def shows_live(stream: TextIO | None) -> bool:
    """Whether `stream` is a terminal that redraws a line; false for pipes, files, TERM=dumb and CI services."""
    if stream is None or getattr(stream, "closed", False) or os.environ.get("TERM") == "dumb" or os.environ.get("CI"):
        return False
    return stream.isatty()


def format_duration(seconds: float) -> str:
    """``59 s``, ``12:05``, ``3:04:05`` or ``2 d 03:04``."""
    seconds = max(0, round(seconds))
    minutes, hours, days = seconds // 60, seconds // 3600, seconds // 86400
    if minutes == 0:
        return f"{seconds} s"
    if hours == 0:
        return f"{minutes}:{seconds % 60:02d}"
    if days == 0:
        return f"{hours}:{minutes % 60:02d}:{seconds % 60:02d}"
    return f"{days} d {hours % 24:02d}:{minutes % 60:02d}"


def _bar(stream: TextIO, total_steps: int, start_step: int):
    from rich import progress
    from rich.console import Console
    from rich.table import Column

    steps_width = len(f"step {start_step:,}/{total_steps:,}")
    bar = progress.Progress(
        progress.TextColumn(
            "step {task.completed:,.0f}/{task.total:,.0f}", table_column=Column(no_wrap=True, min_width=steps_width)
        ),
        progress.BarColumn(bar_width=None, table_column=Column(ratio=1)),
        progress.TextColumn("{task.fields[figures]}", table_column=Column(no_wrap=True)),
        console=Console(file=stream),
        expand=True,
        refresh_per_second=4,
    )
    bar.add_task("training", total=total_steps, completed=start_step, figures="first step (compiles)")
    bar.start()
    return bar


def _fitting(parts: list[str], width: int) -> str:
    """The parts joined, without those at the end that a narrow terminal has no room for."""
    while len(parts) > 1 and len("  ".join(parts)) > width:
        parts = parts[:-1]
    return "  ".join(parts)


def _silence(stream: TextIO | None) -> None:
    """Point a broken standard output at nothing, else Python complains once more when it flushes at exit."""
    if stream is not None and stream in (sys.stdout, sys.__stdout__):
        with contextlib.suppress(OSError, ValueError):
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, stream.fileno())
            os.close(null)
