"""The display of progress: a live bar on a terminal, one plain line every few seconds in a pipe or a CI log."""

import contextlib
import os
import sys
from collections.abc import Sequence
from typing import TextIO

MIN_BAR_WIDTH = 8
LIVE_INTERVAL_S = 0.2


class ProgressDisplay:
    """Shows how much of a known amount of work is done, with figures beside it.

    A closed or broken output stops the display and never the work.

    Args:
        unit: what is counted, such as "step".
        total, done: how much there is, and how much of it was done before.
        waiting: the figures until there are some.
        interval_s: between two plain lines; a bar is drawn five times a second.
        stream: standard output by default.
        live: whether to draw a bar; None for where the stream is a terminal.
    """

    def __init__(
        self,
        unit: str,
        total: int,
        done: int = 0,
        *,
        waiting: str,
        interval_s: float,
        stream: TextIO | None = None,
        live: bool | None = None,
    ):
        self.unit, self.total = unit, total
        self._stream = sys.stdout if stream is None else stream
        self._interval_s = interval_s
        self._last_shown: float | None = None
        live = shows_live(self._stream) if live is None else live
        self._bar = _bar(self._stream, unit, total, done, waiting) if live else None

    def due(self, now: float) -> bool:
        """Whether so much time has passed since the last that something should be shown."""
        interval_s = LIVE_INTERVAL_S if self._bar else self._interval_s
        return self._last_shown is None or now - self._last_shown >= interval_s

    def show(self, now: float, done: int, figures: Sequence[str]) -> None:
        """Say that `done` units are done; of the figures, a narrow terminal leaves the last out."""
        self._last_shown = now
        counted = f"{self.unit} {done:,}/{self.total:,}"
        with self._guarded():
            if self._bar:
                room = self._bar.console.width - len(f"{self.unit} {self.total:,}/{self.total:,}") - MIN_BAR_WIDTH
                shown = _fitting(figures, room)
                self._bar.update(self._bar.task_ids[0], completed=done, figures=shown, refresh=True)
            else:
                self._print("  ".join([counted, f"{done / max(self.total, 1):.1%}", *figures]))

    def message(self, text: str) -> None:
        """Print a line of text, above the bar where there is one."""
        with self._guarded():
            if self._bar:
                self._bar.console.print(text, markup=False, highlight=False, soft_wrap=True)
            else:
                self._print(text)

    def close(self) -> None:
        """Leave the terminal as it was; a second call does nothing."""
        if self._bar:
            with self._guarded():
                self._bar.stop()
            self._bar = None

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


def _bar(stream: TextIO, unit: str, total: int, done: int, waiting: str):
    from rich import progress
    from rich.console import Console
    from rich.table import Column

    counted = progress.TextColumn(
        unit + " {task.completed:,.0f}/{task.total:,.0f}",
        table_column=Column(no_wrap=True, min_width=len(f"{unit} {done:,}/{total:,}")),
    )
    bar = progress.Progress(
        counted,
        progress.BarColumn(bar_width=None, table_column=Column(ratio=1)),
        progress.TextColumn("{task.fields[figures]}", table_column=Column(no_wrap=True)),
        console=Console(file=stream),
        expand=True,
        refresh_per_second=4,
    )
    bar.add_task(unit, total=total, completed=done, figures=waiting)
    bar.start()
    return bar


def _fitting(figures: Sequence[str], width: int) -> str:
    """The figures joined, without those at the end that a narrow terminal has no room for."""
    figures = list(figures)
    while len(figures) > 1 and len("  ".join(figures)) > width:
        figures.pop()
    return "  ".join(figures)


def _silence(stream: TextIO | None) -> None:
    """Point a broken standard output at nothing, else Python complains once more when it flushes at exit."""
    if stream is not None and stream in (sys.stdout, sys.__stdout__):
        with contextlib.suppress(OSError, ValueError):
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, stream.fileno())
            os.close(null)
