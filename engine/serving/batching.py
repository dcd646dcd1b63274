"""Calls of many threads joined to batches: what is asked at the same time of the same function is one call to it."""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from diptych.engine.serving.refusals import Refused

MOST_WAITING = 64
PAUSE_SECONDS = 0.004
RETRY_SECONDS = 1

Run = Callable[[list], Iterable]


@dataclass(eq=False)
class _Job:
    run: Run
    items: list
    largest: int
    arrived: float = field(default_factory=time.monotonic)
    done: threading.Event = field(default_factory=threading.Event)
    results: list | None = None
    error: BaseException | None = None


class Batcher:
    """One thread that carries calls out, one batch after the other.

    most_waiting: calls that wait at a time; one more is refused by 503 and told when to come again.
    pause_seconds: that the first call of a batch waits for others like it; one that fills the batch waits for none.

    Attributes:
        waiting: calls that wait now, the batch that is being worked on left out.
        batches: of how many items each of the last thousand batches was.
    """

    def __init__(self, *, most_waiting: int = MOST_WAITING, pause_seconds: float = PAUSE_SECONDS):
        self.most_waiting, self.pause_seconds = most_waiting, pause_seconds
        self.batches: deque[int] = deque(maxlen=1000)
        self._jobs: deque[_Job] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._work, name="batches", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        return len(self._jobs)

    def call(self, run: Run, items: Sequence[Any], *, largest: int) -> list:
        """What `run` returns for each item, in their order.

        Args:
            run: takes a list of items, not only those of this call, and returns a result for each.
            items: of this call, `largest` at most.
            largest: items of a batch, at most.

        Raises:
            Refused: 503 when too many calls wait, or the batcher has been closed.
            Exception: what `run` raises for these items.
        """
        job = _Job(run, list(items), largest)
        with self._changed:
            if self._closed:
                raise Refused(503, "The program is ending.", retry_after=RETRY_SECONDS)
            if len(self._jobs) >= self.most_waiting:
                raise Refused(
                    503,
                    f"{self.most_waiting} requests wait already, and no more can: ask again in a moment.",
                    retry_after=RETRY_SECONDS,
                )
            self._jobs.append(job)
            self._changed.notify()
        job.done.wait()
        if job.error is not None:
            raise job.error
        assert job.results is not None
        return job.results

    def close(self) -> None:
        """Waits for the batch that is being worked on, and refuses what waits and all that comes."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def _work(self) -> None:
        while batch := self._next():
            self._carry_out(batch)
        with self._changed:
            while self._jobs:
                job = self._jobs.popleft()
                job.error = Refused(503, "The program is ending.", retry_after=RETRY_SECONDS)
                job.done.set()

    def _next(self) -> list[_Job]:
        """The jobs of the next batch, taken from those that wait; none once closed."""
        with self._changed:
            while not self._jobs and not self._closed:
                self._changed.wait()
            while not self._closed:
                batch, full = self._alike()
                left = batch[0].arrived + self.pause_seconds - time.monotonic()
                if full or left <= 0:
                    for job in batch:
                        self._jobs.remove(job)
                    return batch
                self._changed.wait(left)
            return []

    def _alike(self) -> tuple[list[_Job], bool]:
        """The first job with those that can go with it, and whether the batch is full."""
        first = self._jobs[0]
        batch, count = [first], len(first.items)
        for job in list(self._jobs)[1:]:
            if job.run == first.run:
                if count + len(job.items) > first.largest:
                    return batch, True
                batch.append(job)
                count += len(job.items)
        return batch, count >= first.largest

    def _carry_out(self, batch: list[_Job]) -> None:
        try:
            items = [item for job in batch for item in job.items]
            self.batches.append(len(items))
            results = iter(batch[0].run(items))
            for job in batch:
                job.results = [next(results) for _ in job.items]
        except Exception as error:
            if len(batch) > 1:  # what is wrong with one of them is no other's fault
                for job in batch:
                    self._carry_out([job])
                return
            batch[0].error = error
        for job in batch:
            job.done.set()
