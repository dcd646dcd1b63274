"""Places of the tokens of a batch, and who sees whom: one definition for training, prefixes, padding and caches."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from keras import ops


@dataclass(frozen=True, kw_only=True)
class Places:
    """Of each token, `[batch, length]`:

    Attributes:
        positions: int32, the angle that queries and keys are turned by: how many tokens that count stand before it.
        ranks: int32; a token sees those of its own rank and of lower ones. Tokens of a prefix share one rank, those
            behind it have one each.
        count: bool, False for padding, which nobody sees.
    """

    positions: Any
    ranks: Any
    count: Any

    @classmethod
    def of(cls, count, causal) -> "Places":
        """The places of tokens in a row.

        Args:
            count: bool `[batch, length]`, False for padding, wherever it stands.
            causal: bool, of the same shape, False for tokens of a prefix, who all see each other.
        """
        before = ops.cumsum(ops.cast(count, "int32"), axis=1) - 1
        return cls(positions=ops.maximum(before, 0), ranks=ops.cumsum(ops.cast(causal, "int32"), axis=1), count=count)

    def seen_from(self, queries: "Places", *, window: int | None = None):
        """Which of these a query sees, bool `[batch, 1, queries, keys]`.

        Padding sees everything, so that no row is empty, and is itself seen by nobody.

        Args:
            window: a token sees itself and the `window - 1` before it, and all of its own rank; None for all before it.
        """
        rank, own_rank = self.ranks[:, None, :], queries.ranks[:, :, None]
        sees = rank <= own_rank
        if window is not None:
            near = queries.positions[:, :, None] - self.positions[:, None, :] < window
            sees = ops.logical_and(sees, ops.logical_or(near, rank == own_rank))
        sees = ops.logical_and(sees, self.count[:, None, :])
        return ops.logical_or(sees, ops.logical_not(queries.count)[:, :, None])[:, None]

    def followed_by(self, other: "Places") -> "Places":
        """These places with those of another behind them."""
        return Places(
            positions=ops.concatenate([self.positions, other.positions], axis=1),
            ranks=ops.concatenate([self.ranks, other.ranks], axis=1),
            count=ops.concatenate([self.count, other.count], axis=1),
        )

    def at(self, place) -> "Places":
        """One place of all texts, by its number, an int32 scalar."""
        return self.mapped(lambda x: ops.take(x, ops.reshape(place, (1,)), axis=1))

    def mapped(self, function: Callable) -> "Places":
        """The same of what a function makes of each of the three."""
        return Places(positions=function(self.positions), ranks=function(self.ranks), count=function(self.count))
