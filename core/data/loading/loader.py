"""Batches without end, in an order that depends on nothing but the seed: not on workers, restarts or luck."""

import faulthandler
import hashlib
from collections import Counter, deque
from collections.abc import Generator
from concurrent.futures import Future
from itertools import pairwise

import numpy as np

from diptych.core.data.batch import Batch, join_rows
from diptych.core.data.examples.preprocessing import Preprocessing
from diptych.core.data.ledger import MAX_SKIPPED, Skipped, check_skipped, ledger_of
from diptych.core.data.loading.examples import Examples, Rows
from diptych.core.data.loading.threads import DaemonThreads
from diptych.core.data.loading.worker import WorkerPool
from diptych.core.data.records import Source
from diptych.core.data.sampling import Order
from diptych.core.data.sources.cache import CachedSource
from diptych.core.placement import ALONE, Placement

_RECORDS_BEFORE_JUDGING = 200
_FEWEST_ROWS_A_PART = 8
_CHECK_SECONDS = 0.5


class Loader:
    """Makes batch number b from (source, preprocess, seed, b) alone, some batches ahead of who asks.

    placement: of each batch this process makes its own rows.   order: number of the data's order.
    micro_batches: pieces into which each process cuts its own rows, so that it has its part of each of the batch's.
    workers: processes that make examples; 0 makes them in one background thread of this process.
    prefetch: batches made or being made ahead.   cache_megabytes: memory for decoded pictures over all workers, None
        for none.
    Bad examples are replaced, counted by reason in `skipped`, and their records entered in the source's ledger, as are
    the bad parts of others. When more than the share `max_skipped` of the records met are bad, each counted once,
    `TooManySkipped` says which and why. The first batch of each shape is held to what the preprocessing declares. To
    resume, ask for `batches(start)` with the number of batches already used: `position`.
    """

    def __init__(
        self,
        source: Source,
        preprocess: Preprocessing,
        *,
        batch_size: int,
        seed: int,
        workers: int = 0,
        prefetch: int = 4,
        max_skipped: float = MAX_SKIPPED,
        order: int = 0,
        placement: Placement = ALONE,
        micro_batches: int = 1,
        cache_megabytes: float | None = 256,
        stall_seconds: float = 600,
    ):
        if len(source) < batch_size:
            raise ValueError(
                f"the source holds {len(source)} records and a batch needs {batch_size} different ones: "
                f"lower batch_size to at most {len(source)}"
            )
        if workers < 0 or prefetch < 1:
            raise ValueError(f"Loader needs workers >= 0 and prefetch >= 1, got {workers} and {prefetch}")
        preprocess.check_batch_size(batch_size)
        ordered = Order(len(source), batch_size, seed, order)
        if cache_megabytes and not isinstance(source, CachedSource):
            source = CachedSource(source, cache_megabytes / max(1, workers))
        self.examples = Examples(source, preprocess, ordered)
        self._placement, self._micro_batches = placement, micro_batches
        self.rows(0)
        self.workers = workers
        self.prefetch = prefetch
        self.max_skipped = max_skipped
        self.stall_seconds = stall_seconds
        self.position = 0
        self.skipped: Counter[str] = Counter()
        self._ledger = ledger_of(source)
        self._bad: dict[int | None, Skipped] = {}
        self._examples_met = 0
        self._fingerprint: str | None = None
        self._shapes_seen: set[tuple[tuple[str, tuple[int, ...]], ...]] = set()
        self._open_makers: list[WorkerPool | _BackgroundThread] = []

    def batches(self, start: int = 0) -> Generator[Batch, None, None]:
        """Batches start, start + 1, ... without end; closing the iterator ends the workers and the work ahead."""
        self.position = start
        makers = WorkerPool(self.examples, self.workers) if self.workers else _BackgroundThread(self.examples)
        self._open_makers.append(makers)
        ahead: deque[list[Future[Rows]]] = deque()
        try:
            while True:
                while len(ahead) < self.prefetch:
                    number = self.position + len(ahead)
                    ahead.append([makers.submit(number, first, last) for first, last in self._parts(number)])
                makers.check()
                batch = self._assemble(self.position, [self._wait(future, makers) for future in ahead.popleft()])
                self._count(batch)
                self.position += 1
                yield batch
        finally:
            makers.close()
            self._open_makers.remove(makers)

    def batch(self, number: int) -> Batch:
        """One batch alone, made here and now: to look at, to replay, to compare with."""
        return self._assemble(number, [self.examples.rows(number, own.start, own.stop) for own in self.rows(number)])

    def fingerprint(self) -> str:
        """A hash of all that decides the batches; a checkpoint that stores it can refuse to resume on other data. It is
        that of the data when it was first asked for.
        """
        if self._fingerprint is None:
            examples = self.examples
            parts = (examples.source.fingerprint(), examples.preprocess.fingerprint(), examples.order)
            self._fingerprint = hashlib.sha256(repr(parts).encode()).hexdigest()
        return self._fingerprint

    def close(self) -> None:
        """End the workers of every iterator that `batches` gave out."""
        for makers in list(self._open_makers):
            makers.close()

    def rows(self, number: int) -> tuple[range, ...]:
        """The rows of a batch that are made here, run by run.

        Raises:
            ValueError: where a batch cannot be dealt out evenly.
        """
        order = self.examples.order
        pieces = self.examples.preprocess.pieces(order, number)
        return self._placement.rows(order.batch_size, pieces * self._micro_batches)

    def _parts(self, number: int) -> list[tuple[int, int]]:
        """A batch's rows cut into one run a worker or so, so that the next batch is ready as early as can be."""
        runs = self.rows(number)
        size = len(runs[0])
        parts = max(1, min(self.workers // len(runs), size // _FEWEST_ROWS_A_PART))
        edges = [[own.start + size * part // parts for part in range(parts + 1)] for own in runs]
        return [part for of_run in edges for part in pairwise(of_run)]

    def _wait(self, future: "Future[Rows]", makers: "WorkerPool | _BackgroundThread") -> Rows:
        waited = 0.0
        while True:
            try:
                return future.result(timeout=_CHECK_SECONDS)
            except TimeoutError:
                if future.done():
                    raise
                makers.check()
                waited += _CHECK_SECONDS
                if waited > self.stall_seconds:
                    makers.dump_stacks()
                    raise TimeoutError(
                        f"batch {self.position} did not come within {self.stall_seconds:g} s: a source or a decoder "
                        "hangs (the stacks are printed above). Raise stall_seconds if the storage is just slow."
                    ) from None

    def _assemble(self, number: int, parts: list[Rows]) -> Batch:
        batch = Batch(
            fields=join_rows([part.fields for part in parts]),
            index=self.examples.order.indices(number)[np.concatenate(self.rows(number))],
            keys=tuple(key for part in parts for key in part.keys),
            languages=tuple(language for part in parts for language in part.languages),
            skipped=tuple(skipped for part in parts for skipped in part.skipped),
            left_out=tuple(record for part in parts for record in part.left_out),
        )
        shapes = tuple((name, array.shape) for name, array in batch.fields.items())
        if shapes not in self._shapes_seen:
            batch.validate(self.examples.preprocess.declared)
            self._shapes_seen.add(shapes)
        return batch

    def _count(self, batch: Batch) -> None:
        ledger = self._ledger
        ledger.enter(batch.skipped, batch.left_out)
        for one in batch.skipped:
            self._bad.setdefault(one.place, one)
            self.skipped[one.reason] += 1
        self._examples_met += len(batch) + len(batch.skipped)
        check_skipped(ledger.skipped.values(), of=ledger.size, max_skipped=self.max_skipped, name=ledger.name)
        met = min(self._examples_met, ledger.size)
        # Fewer say nothing yet of all the others, unless a whole batch had to be replaced.
        if met >= _RECORDS_BEFORE_JUDGING or len(batch.skipped) >= len(batch):
            check_skipped(self._bad.values(), of=met, max_skipped=self.max_skipped, name=ledger.name)


class _BackgroundThread:
    """Makes rows in this process, beside whatever uses them; the counterpart of `WorkerPool` without workers."""

    def __init__(self, examples: Examples):
        self._examples = examples
        self._thread = DaemonThreads(1, "diptych-loader")

    def submit(self, batch: int, first: int, last: int) -> Future[Rows]:
        return self._thread.submit(self._examples.rows, batch, first, last)

    def check(self) -> None:
        """A thread does not die alone."""

    def dump_stacks(self) -> None:
        faulthandler.dump_traceback()

    def close(self) -> None:
        self._thread.close()
