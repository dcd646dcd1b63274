"""The whole of a batch whose rows lie on several processes: what one of them learns of the others'."""

from typing import Any

import torch
import torch.distributed as dist

Tensors = dict[str, torch.Tensor]


class SharedBatch:
    """See `diptych.core.training.whole_batch.WholeBatch`."""

    def __init__(self):
        self.parts, self._process = dist.get_world_size(), dist.get_rank()

    def mean(self, x: torch.Tensor) -> torch.Tensor:
        return _Mean.apply(x)

    def gathered(self, x: torch.Tensor) -> torch.Tensor:
        return _Gathered.apply(x)

    @torch.no_grad()
    def first(self, x: torch.Tensor) -> torch.Tensor:
        told = x.detach().clone()
        dist.broadcast(told, src=0)
        return told

    @torch.no_grad()
    def rolled(self, x: torch.Tensor) -> torch.Tensor:
        last, before = x[-1:].contiguous(), torch.empty_like(x[-1:])
        following, previous = ((self._process + step) % self.parts for step in (1, -1))
        _exchange([(last, following)], [(before, previous)])
        return torch.cat([before, x[:-1]])

    @torch.no_grad()
    def taken(self, rows: Tensors, places: torch.Tensor) -> Tensors:
        """Waits for the device: who sends to whom depends on the places."""
        own = len(next(iter(rows.values())))
        kept, moves = dealt(places.tolist(), own, self.parts)
        mine = {name: x[torch.tensor(kept[self._process], device=x.device)] for name, x in rows.items()}
        sent, received = [], []
        for (source, target), moved in moves.items():
            for name, x in rows.items():
                if source == self._process:
                    sent.append((x[torch.tensor(moved, device=x.device)].contiguous(), target))
                elif target == self._process:
                    received.append((name, x.new_empty(len(moved), *x.shape[1:]), source))
        _exchange(sent, [(into, source) for _, into, source in received])
        return {name: torch.cat([x, *(into for to, into, _ in received if to == name)]) for name, x in mine.items()}


def dealt(places: list[int], own: int, parts: int) -> tuple[list[list[int]], dict[tuple[int, int], list[int]]]:
    """How rows, by their places in the whole batch, are dealt out evenly with as few moves as can be.

    Args:
        places: whose number divides by `parts`.
        own: how many rows each process holds.
        parts: how many processes there are.

    Returns:
        The rows that each process keeps, and those that move, by (from, to); each by its number on who holds it.

    Raises:
        ValueError: they cannot be dealt out evenly.
    """
    if len(places) % parts:
        raise ValueError(
            f"{len(places)} chosen examples cannot be dealt out evenly over {parts} processes: choose a batch size "
            f"that is a multiple of {parts}."
        )
    share = len(places) // parts
    held: list[list[int]] = [[] for _ in range(parts)]
    for place in places:
        held[place // own].append(place % own)
    lacking = [process for process, rows in enumerate(held) for _ in range(share - len(rows))]
    moves: dict[tuple[int, int], list[int]] = {}
    for source, rows in enumerate(held):
        for row in rows[share:]:
            moves.setdefault((source, lacking.pop(0)), []).append(row)
    return [rows[:share] for rows in held], moves


def _exchange(sent: list[tuple[torch.Tensor, int]], received: list[tuple[torch.Tensor, int]]) -> None:
    """Sends tensors to processes, and fills others with what processes send, in the order of the lists."""
    operations = [dist.P2POp(dist.isend, x, to) for x, to in sent]
    operations += [dist.P2POp(dist.irecv, into, source) for into, source in received]
    for request in dist.batch_isend_irecv(operations) if operations else ():
        request.wait()


class _Mean(torch.autograd.Function):
    """The mean over processes; a step minimises the mean of what their losses are, each of which has it."""

    @staticmethod
    def forward(ctx: Any, x):
        return _mean(x)

    @staticmethod
    def backward(ctx: Any, cotangent):
        return _mean(cotangent)


def _mean(x):
    total = x.detach().clone()
    dist.all_reduce(total)
    return total.div_(dist.get_world_size())


class _Gathered(torch.autograd.Function):
    """The rows of all. Every process makes the same loss of them and gradients are averaged, so that the gradient of
    its own rows counts as often as there are processes.
    """

    @staticmethod
    def forward(ctx: Any, x):
        ctx.rows = len(x)
        gathered = x.new_empty(dist.get_world_size() * len(x), *x.shape[1:])
        dist.all_gather_into_tensor(gathered, x.detach().contiguous())
        return gathered

    @staticmethod
    def backward(ctx: Any, cotangent):
        first = dist.get_rank() * ctx.rows
        return cotangent[first : first + ctx.rows] * dist.get_world_size()
