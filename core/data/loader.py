"""Batches without end, in an order that depends on nothing but the seed: not on workers, restarts or luck."""

import hashlib
from collections import Counter, deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

from diptych.core.data.batch import Batch
from diptych.core.data.examples import Examples, TooManySkipped, listed
from diptych.core.data.records import Source
from diptych.core.data.sampling import Order

_EXAMPLES_BEFORE_JUDGING = 200


class Loader:
    """Makes batch number b from (source, preprocess, seed, b) alone, some batches ahead of who asks.

    workers=0 makes them in one background thread. Bad examples are replaced and counted in `skipped` (by reason); when more
    than `max_skip_fraction` of the examples met are bad, `TooManySkipped` says which and why. To resume, ask for
    `batches(start)` with the number of batches already used: `position`.
    """

    def __init__(
        self,
        source: Source,
        preprocess: Callable,
        *,
        batch_size: int,
        seed: int,
        workers: int = 0,
        prefetch: int = 4,
        max_skip_fraction: float = 0.05,
        stage: int = 0,
    ):
        if len(source) < batch_size:
            raise ValueError(
                f"the source holds {len(source)} records and a batch needs {batch_size} different ones: "
                f"lower batch_size to at most {len(source)}"
            )
        if workers < 0 or prefetch < 1:
            raise ValueError(f"Loader needs workers >= 0 and prefetch >= 1, got {workers} and {prefetch}")
        order = Order(len(source), batch_size, seed, stage)
        self.examples = Examples(source, preprocess, order)
        self.workers = workers
        self.prefetch = prefetch
        self.max_skip_fraction = max_skip_fraction
        self.position = 0
        self.skipped: Counter[str] = Counter()
        self._examples_met = 0

    def batches(self, start: int = 0) -> Iterator[Batch]:
        """Batches start, start + 1, ... without end; closing the iterator stops the work ahead."""
        self.position = start
        executor = ThreadPoolExecutor(1, thread_name_prefix="diptych-loader")
        ahead: deque[Future[Batch]] = deque()
        try:
            while True:
                while len(ahead) < self.prefetch:
                    ahead.append(executor.submit(self.batch, self.position + len(ahead)))
                batch = ahead.popleft().result()
                self._count(batch)
                self.position += 1
                yield batch
        finally:
            executor.shutdown(wait=True, cancel_futures=True)

    def batch(self, number: int) -> Batch:
        """One batch alone, made here and now: to look at, to replay, to compare with."""
        order = self.examples.order
        rows = self.examples.rows(number, 0, order.batch_size)
        return Batch(
            image=rows.image,
            text=rows.text,
            index=order.indices(number),
            keys=rows.keys,
            languages=rows.languages,
            skipped=rows.skipped,
        )

    def fingerprint(self) -> str:
        """A hash of all that decides the batches; a checkpoint that stores it can refuse to resume on other data."""
        examples = self.examples
        parts = (examples.source.fingerprint(), examples.preprocess.fingerprint(), examples.order)
        return hashlib.sha256(repr(parts).encode()).hexdigest()

    def close(self) -> None:
        """End what `batches` started."""

    def _count(self, batch: Batch) -> None:
        self.skipped.update(reason for _, reason in batch.skipped)
        self._examples_met += len(batch) + len(batch.skipped)
        bad = self.skipped.total()
        enough = self._examples_met >= _EXAMPLES_BEFORE_JUDGING or len(batch.skipped) >= len(batch)
        if enough and bad > self.max_skip_fraction * self._examples_met:
            worst = ", ".join(key for key, _ in batch.skipped[:5])
            raise TooManySkipped(
                f"{bad} of {self._examples_met} examples are bad ({bad / self._examples_met:.1%}, at most "
                f"{self.max_skip_fraction:.1%} allowed): {listed(self.skipped)}. Lately: {worst}. "
                "Repair or remove them, or raise max_skip_fraction.",
                self.skipped,
            )
