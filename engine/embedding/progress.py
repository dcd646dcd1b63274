"""Progress of embedding for the person watching: a bar on a terminal, a plain line every few seconds elsewhere."""

import sys
import time
from typing import Self

from diptych.core.training.progress import format_duration, shows_live

INTERVAL_S = 5.0


class EmbeddingProgress:
    """Counts records towards their total, and items (a record may have several) for the speed.

    Speed and time left are of this process: what an earlier one did before a stop is not counted.
    """

    def __init__(self, items: str, *, records: int, start: int):
        self._items, self._records, self._start = items, records, start
        self._done, self._count, self._began = start, 0, time.monotonic()
        self._shown = self._began
        self._bar = _bar(items, records, start) if shows_live(sys.stdout) else None

    @property
    def seconds(self) -> float:
        """Since the beginning."""
        return max(time.monotonic() - self._began, 1e-9)

    @property
    def speed(self) -> float:
        """Items a second."""
        return self._count / self.seconds

    def update(self, record: int, items: int) -> None:
        """Say that the records before `record` are done, and that `items` more items are."""
        self._done, self._count = record, self._count + items
        now = time.monotonic()
        if self._bar:
            self._bar.update(self._bar.task_ids[0], completed=record, figures=self._figures())
        elif now - self._shown >= INTERVAL_S:
            self._shown = now
            print(f"record {record:,}/{self._records:,}  {record / self._records:.1%}  {self._figures()}", flush=True)

    def __enter__(self) -> Self:
        if self._bar:
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar:
            self._bar.stop()

    def _figures(self) -> str:
        left = (self._records - self._done) * self.seconds / max(self._done - self._start, 1)
        return f"{self.speed:,.0f} {self._items}/s  {format_duration(left)} left"


def _bar(items: str, records: int, start: int):
    from rich import progress
    from rich.table import Column

    bar = progress.Progress(
        progress.TextColumn(items),
        progress.BarColumn(bar_width=None, table_column=Column(ratio=1)),
        progress.TextColumn("{task.completed:,.0f}/{task.total:,.0f} records"),
        progress.TextColumn("{task.fields[figures]}", table_column=Column(no_wrap=True)),
        expand=True,
    )
    bar.add_task(items, total=records, completed=start, figures="first batch (compiles)")
    return bar
