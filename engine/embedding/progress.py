"""Progress of embedding for the person watching: records, items a second, time left."""

import time
from typing import Self

from diptych.core.progress import ProgressDisplay, format_duration

INTERVAL_S = 5.0


class EmbeddingProgress:
    """Counts records towards their total, and items (a record may have several) for the speed.

    Speed and time left are of this process: what an earlier one did before a stop is not counted.
    """

    def __init__(self, items: str, *, records: int, start: int):
        self._items, self._records, self._start = items, records, start
        self._done, self._count, self._began = start, 0, time.monotonic()
        self._display = ProgressDisplay(
            "record", records, start, waiting="first batch (compiles)", interval_s=INTERVAL_S
        )

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
        if self._display.due(now):
            left = (self._records - self._done) * self.seconds / max(self._done - self._start, 1)
            figures = [f"{self.speed:,.0f} {self._items}/s", f"{format_duration(left)} left"]
            self._display.show(now, record, figures)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._display.close()
