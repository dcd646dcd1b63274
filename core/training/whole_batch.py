"""The whole of a batch of which a process holds some rows, for what must look beyond its own."""

from collections.abc import Iterator
from contextlib import contextmanager

from keras import ops


class WholeBatch:
    """The batch of a step in which the rows at hand are all: on one process, and on jax on any number of them.

    Where a process of several knows its own rows alone, its step lets another with these methods be seen
    (`seen_through`). All processes hold equally many rows, and call the same methods in the same order.

    Attributes:
        parts: among how many processes the rows are shared.
    """

    parts = 1

    def mean(self, x):
        """The mean over the processes of what each computed of its rows, such as a mean over them; differentiable."""
        return x

    def gathered(self, x):
        """The rows of all processes, one process after the other.

        Differentiable, where all processes make the same of it: a loss of the whole batch.
        """
        return x

    def first(self, x):
        """What the first process has; without a gradient."""
        return x

    def rolled(self, x):
        """The row before each, and the last of all before the first; without a gradient."""
        return ops.roll(x, 1, axis=0)

    def taken(self, rows, places):
        """Some rows of the batch, by their places in `gathered`: on each of several processes an equal part of them.

        Args:
            rows: arrays by name, whose first axis counts the rows at hand.
            places: int32, the same on all processes; their number divides among the processes.
        """
        return {name: ops.take(x, places, axis=0) for name, x in rows.items()}


_seen = [WholeBatch()]


def whole_batch() -> WholeBatch:
    """That of the step which is being taken."""
    return _seen[-1]


@contextmanager
def seen_through(other) -> Iterator[None]:
    """Within the block `whole_batch` is another, on every thread: a backward pass that computes a part of the forward
    pass again may do so on one of its own.
    """
    _seen.append(other)
    try:
        yield
    finally:
        _seen.pop()
