"""Gradients of several processes, reduced once a step in few large messages, while the backward pass goes on."""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import keras
import torch
import torch.distributed as dist

BUCKET_BYTES = 25 * 1024**2
"""As in `DistributedDataParallel`: large enough for the network, small enough that several are under way."""


@dataclass(frozen=True)
class Bucket:
    """Weights of one dtype, one behind the other, that travel as one message.

    Attributes:
        places: of the weights in their list.
        starts: of the weights in the message.
        shapes: theirs.
        length: of the message in numbers, a multiple of the number of processes.
    """

    places: tuple[int, ...]
    starts: tuple[int, ...]
    shapes: tuple[torch.Size, ...]
    length: int
    dtype: torch.dtype
    device: torch.device

    def empty(self, *, part: bool = False) -> torch.Tensor:
        """A message to be filled, zero where it is padded; or a process's part of one."""
        length = self.length // dist.get_world_size() if part else self.length
        flat = torch.empty(length, dtype=self.dtype, device=self.device)
        if not part:
            flat[self.starts[-1] + self.shapes[-1].numel() :] = 0
        return flat

    def view(self, flat: torch.Tensor, number: int) -> torch.Tensor:
        """The part of a message that belongs to one of its weights, in the weight's shape."""
        start, shape = self.starts[number], self.shapes[number]
        return flat[start : start + shape.numel()].view(shape)


def buckets_of(weights: Sequence[torch.Tensor]) -> list[Bucket]:
    """The weights, the last first, in buckets of about `BUCKET_BYTES`; a larger weight has one of its own.

    The backward pass begins at the end of a model, so that the first buckets are full early.
    """
    groups: dict[torch.dtype, list[list[int]]] = {}
    sizes: dict[torch.dtype, int] = {}
    for place in reversed(range(len(weights))):
        dtype, size = weights[place].dtype, weights[place].nbytes
        if dtype not in groups or sizes[dtype] + size > BUCKET_BYTES:
            groups.setdefault(dtype, []).append([])
            sizes[dtype] = 0
        groups[dtype][-1].append(place)
        sizes[dtype] += size
    return [_bucket(places, weights) for every in groups.values() for places in every]


def _bucket(places: list[int], weights: Sequence[torch.Tensor]) -> Bucket:
    starts, length = [], 0
    for place in places:
        starts.append(length)
        length += weights[place].numel()
    first, processes = weights[places[0]], dist.get_world_size()
    shapes = tuple(weights[place].shape for place in places)
    padded = -(-length // processes) * processes
    return Bucket(tuple(places), tuple(starts), shapes, padded, first.dtype, first.device)


class Reduction:
    """The means of gradients over processes; each bucket is sent as soon as the backward pass has filled it.

    All processes send in one order: that in which the buckets of the first process were full in the first step.

    Args:
        weights: leaves, in the same order on every process.
        scattered: whether each process receives its own part of each bucket alone, instead of all of it.
    """

    def __init__(self, weights: Sequence[torch.Tensor], *, scattered: bool = False):
        self._weights, self._scattered = weights, scattered
        self.buckets = buckets_of(weights)
        self._order = list(range(len(self.buckets)))
        self._order_is_seen = False
        self._sending: _Sending | None = None
        for place, weight in enumerate(weights):
            weight.register_hook(partial(self._came, place))

    def means(self, outputs, cotangents=None, so_far: Sequence[torch.Tensor] | None = None) -> list[torch.Tensor]:
        """The last backward pass of a step, and with it what its earlier ones have added up.

        Returns:
            Of each bucket the mean over the processes, as one flat tensor: all of it, or this process's part.
        """
        self._sending = sending = _Sending(self.buckets, self._order, so_far, self._scattered)
        try:
            torch.autograd.grad(outputs, self._weights, cotangents, allow_unused=True)
        finally:
            self._sending = None
        sending.complete()
        if not self._order_is_seen:
            self._order = _told_by_the_first(sending.filled, self._weights[0].device)
            self._order_is_seen = True
        return sending.arrived()

    def _came(self, place: int, gradient: torch.Tensor):
        return None if self._sending is None else self._sending.put(place, gradient)


class _Sending:
    """The gradients of one step on their way."""

    def __init__(self, buckets, order, so_far, scattered):
        self._buckets, self._so_far, self._scattered = buckets, so_far, scattered
        self._flats: dict[int, torch.Tensor] = {}
        self._missing = [dict(zip(bucket.places, range(len(bucket.places)), strict=True)) for bucket in buckets]
        self._homes = {place: number for number, bucket in enumerate(buckets) for place in bucket.places}
        self._waiting, self._sent = deque(order), {}
        self.filled: list[int] = []

    @torch.no_grad()
    def put(self, place: int, gradient: torch.Tensor | None) -> torch.Tensor:
        """Lays a weight's part of the mean into its bucket, sends what is full, and returns where it lies now."""
        number = self._homes[place]
        bucket, missing = self._buckets[number], self._missing[number]
        if number not in self._flats:
            self._flats[number] = bucket.empty()
        view = bucket.view(self._flats[number], missing.pop(place))
        if self._so_far is not None:
            gradient = self._so_far[place] if gradient is None else gradient + self._so_far[place]
        if gradient is None:
            view.zero_()
        else:
            torch.div(gradient, dist.get_world_size(), out=view)
        if not missing:
            self.filled.append(number)
            while self._waiting and not self._missing[self._waiting[0]]:
                self._send(self._waiting.popleft())
        return view

    def complete(self) -> None:
        """Sends what the pass did not reach: weights on which nothing depends in it."""
        for missing in self._missing:
            for place in list(missing):
                self.put(place, None)

    def arrived(self) -> list[torch.Tensor]:
        """The means, once all have come."""
        means = [self._sent[number] for number in range(len(self._buckets))]
        for _, sent in means:
            sent.wait()
        return [flat for flat, _ in means]

    def _send(self, number: int) -> None:
        flat = self._flats.pop(number)
        if self._scattered:
            own = self._buckets[number].empty(part=True)
            self._sent[number] = own, dist.reduce_scatter_tensor(own, flat, async_op=True)
        else:
            self._sent[number] = flat, dist.all_reduce(flat, async_op=True)


def in_order(buckets: Sequence[Bucket], flats: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """What lies in messages by weight, in the order of the weights."""
    parts = {
        place: bucket.view(flat, number)
        for bucket, flat in zip(buckets, flats, strict=True)
        for number, place in enumerate(bucket.places)
    }
    return [parts[place] for place in range(len(parts))]


def mean_over_processes(tree):
    """The mean over the processes of each small tensor of a tree, by one message."""
    tensors = keras.tree.flatten(tree)
    if not tensors:
        return tree
    flat = torch.cat([tensor.detach().reshape(-1).to(torch.float32) for tensor in tensors])
    dist.all_reduce(flat)
    flat /= dist.get_world_size()
    parts = flat.split([tensor.numel() for tensor in tensors])
    means = [part.view_as(tensor).to(tensor.dtype) for part, tensor in zip(parts, tensors, strict=True)]
    return keras.tree.pack_sequence_as(tree, means)


def largest_of_processes(numbers: Sequence[float], device: torch.device) -> torch.Tensor:
    """The largest of each number over the processes."""
    largest = torch.tensor(numbers, dtype=torch.float32, device=device)
    dist.all_reduce(largest, op=dist.ReduceOp.MAX)
    return largest


def norm_over_processes(norm: torch.Tensor) -> torch.Tensor:
    """The norm of what the processes have together, of the norms of their parts."""
    squared = norm.square()
    dist.all_reduce(squared)
    return squared.sqrt()


def _told_by_the_first(numbers: Sequence[int], device: torch.device) -> list[int]:
    told = torch.tensor(numbers, device=device)
    dist.broadcast(told, src=0)
    return told.tolist()
