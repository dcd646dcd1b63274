"""State of which each of several processes holds a part: slots, averages and teacher.

Reference: Rajbhandari et al. 2020, "ZeRO: Memory optimizations toward training trillion parameter models", section 5.1.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate, pairwise

import keras
import numpy as np
import torch
import torch.distributed as dist

from diptych.backends.shares import Held, whole
from diptych.backends.torch.optimizers import FusedAdamW, Updated, keep
from diptych.backends.torch.reduction import Bucket, buckets_of


@dataclass(frozen=True)
class Piece:
    """The numbers of a tensor that are this process's.

    Attributes:
        place: of the tensor in its list.
        numbers: of the tensor, as one row.
        bucket: the number of the bucket that the tensor lies in.
        start: in this process's part of the bucket.
    """

    place: int
    numbers: slice
    bucket: int
    start: int

    @property
    def count(self) -> int:
        return self.numbers.stop - self.numbers.start


class Spread:
    """Buckets of tensors, each cut into as many equal parts as there are processes, whichever tensors a cut goes
    through: every process holds as much as any other, also where one tensor is larger than all the rest.
    """

    def __init__(self, buckets: Sequence[Bucket]):
        self.buckets = buckets
        by_bucket = [list(_pieces(number, bucket)) for number, bucket in enumerate(buckets)]
        self.pieces = [piece for some in by_bucket for piece in some]
        ends = list(accumulate(map(len, by_bucket), initial=0))
        self._runs = [slice(first, end) for first, end in pairwise(ends)]

    def of_parts(self, parts: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """The pieces within this process's part of each bucket."""
        return [parts[piece.bucket][piece.start : piece.start + piece.count] for piece in self.pieces]

    def of_tensors(self, tensors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """The pieces within whole tensors."""
        return [tensors[piece.place].detach().view(-1)[piece.numbers] for piece in self.pieces]

    def whole(self, pieces: Sequence[torch.Tensor], *, among=None) -> Iterator[tuple[int, torch.Tensor]]:
        """The tensors, by their places, of the pieces of all processes; a bucket at a time, all or those `among`."""
        for number, bucket in enumerate(self.buckets):
            if among is not None and number not in among:
                continue
            part, run = bucket.empty(part=True), self._runs[number]
            for piece, tensor in zip(self.pieces[run], pieces[run], strict=True):
                part[piece.start : piece.start + piece.count] = tensor
            flat = bucket.empty()
            dist.all_gather_into_tensor(flat, part)
            yield from ((place, bucket.view(flat, index)) for index, place in enumerate(bucket.places))


def held_whole(tensor: torch.Tensor) -> list[Held]:
    """A tensor that every process holds whole, as a part of a checkpoint."""
    return [whole(tensor.shape, tensor.element_size(), _copier(tensor))]


def held_pieces(variables: Sequence[keras.Variable], spread: Spread, tensors) -> dict[int, list[Held]]:
    """What this process alone holds of variables that are spread, by their identity; of some it may be nothing.

    Args:
        tensors: the pieces of `spread`.
    """
    held: dict[int, list[Held]] = {id(variable): [] for variable in variables}
    own = (dist.get_rank(),)
    for piece, tensor in zip(spread.pieces, tensors, strict=True):
        variable, copy = variables[piece.place], _copier(tensor)
        shape, size = tuple(variable.shape), tensor.element_size()
        held[id(variable)].append(Held(shape, 1, piece.numbers.start, piece.count, size, own, copy))
    return held


def _copier(tensor: torch.Tensor):
    """See `Held.copied`; of one row."""

    def copied(start: int, stop: int) -> np.ndarray:
        numbers = tensor.detach().reshape(1, -1)[:, start:stop]
        return keras.ops.convert_to_numpy(numbers.to("cpu", copy=True))

    return copied


def by_rows(tensors: Sequence[torch.Tensor]) -> Spread:
    """Each tensor as a bucket, cut along its first axis; the last processes may have fewer rows, or none."""
    buckets, processes = [], dist.get_world_size()
    for place, tensor in enumerate(tensors):
        rows = len(tensor) if tensor.ndim else 1
        length = processes * -(-rows // processes) * (tensor.numel() // rows)
        buckets.append(Bucket((place,), (0,), (tensor.shape,), length, tensor.dtype, tensor.device))
    return Spread(buckets)


def _pieces(number: int, bucket: Bucket) -> Iterator[Piece]:
    part = bucket.length // dist.get_world_size()
    first = dist.get_rank() * part
    for place, start, shape in zip(bucket.places, bucket.starts, bucket.shapes, strict=True):
        begin, end = max(start, first), min(start + shape.numel(), first + part)
        if begin < end:
            yield Piece(place, slice(begin - start, end - start), number, begin - first)


class SpreadVariables:
    """Keras variables whose values are this process's pieces while steps are taken; they themselves hold nothing then.

    Args:
        spread: of tensors of their shapes.
        variables: which hold their values whole until `take`.
    """

    def __init__(self, spread: Spread, variables: Sequence[keras.Variable]):
        self._spread, self._variables = spread, variables
        self._devices = [variable.value.device for variable in variables]
        self.pieces = [piece.clone() for piece in spread.of_tensors([variable.value for variable in variables])]

    def take(self) -> None:
        """Takes the pieces from the variables, and the memory."""
        values = [variable.value for variable in self._variables]
        for piece, value in zip(self.pieces, self._spread.of_tensors(values), strict=True):
            piece.copy_(value)
        self.release()

    def give(self, device: torch.device | str) -> None:
        """Gives the variables their values, whole, on a device; all processes must."""
        for place, value in self._spread.whole(self.pieces):
            self._variables[place].value.data = value.to(device, copy=True)

    def held(self) -> dict[int, list[Held]]:
        """See `held_pieces`."""
        return held_pieces(self._variables, self._spread, self.pieces)

    def release(self) -> None:
        for variable, device in zip(self._variables, self._devices, strict=True):
            variable.value.data = torch.empty(0, dtype=variable.value.dtype, device=device)


class WholeWeights:
    """Weights that every process holds, of which each updates its part of each bucket.

    Attributes:
        spread: of the weights, and so of their slots.
        pieces: this process's, within the weights.
    """

    def __init__(self, variables: Sequence[keras.Variable], buckets: Sequence[Bucket]):
        self._values = [variable.value for variable in variables]
        self.spread = Spread(buckets)
        self.pieces = self.spread.of_tensors(self._values)

    def of_gradients(self, means: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """The pieces within this process's part of each bucket of gradients."""
        return self.spread.of_parts(means)

    def of_some(self, variables: Sequence[keras.Variable]) -> tuple[Spread, list[torch.Tensor]]:
        """How an average of some of the weights is spread, and the pieces of the weights that go with its own."""
        values = [variable.value for variable in variables]
        spread = Spread(buckets_of(values))
        return spread, spread.of_tensors(values)

    def gather(self) -> None:
        """Once all processes have updated their pieces: makes the weights of each those of all."""
        for place, value in self.spread.whole(self.pieces):
            self._values[place].detach().copy_(value)

    def held(self) -> dict[int, list[Held]]:
        """None of them is held by one process alone."""
        return {}

    def take(self) -> None:
        """Takes what the variables hold."""

    def give(self) -> None:
        """Makes the variables hold the weights."""


class SpreadState:
    """Slots, averages and teacher of AdamW's steps, spread.

    Between steps their variables hold nothing, until `give`; the next `take` reads what they hold then.

    Args:
        optimizer: built.
        variables: the trained weights.
        weights: the same, as this process holds them.
        ema, teacher: or None.
    """

    def __init__(self, optimizer, variables, weights, ema, teacher):
        self._weights, self._in_variables = weights, True
        self._device = variables[0].value.device
        self._slots = {name: SpreadVariables(weights.spread, optimizer.slots[name]) for name in _SLOTS}
        self._adamw = FusedAdamW(optimizer, variables, self._updated(optimizer), weights.gather)
        trained = {id(variable) for variable in variables}
        self._followers = [_Follower(follower, trained, weights) for follower in (ema, teacher) if follower]
        self._teacher = self._followers[-1] if teacher else None

    def of_gradients(self, means: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """This process's pieces of what the last backward pass gave."""
        return self._weights.of_gradients(means)

    def take(self) -> None:
        """Takes the state from the variables, where it is there."""
        if self._in_variables:
            for held in (self._weights, *self._spread_variables):
                held.take()
            self._in_variables = False

    def give(self) -> None:
        """Gives the variables their values: weights where they compute, and all else in the memory of the host."""
        if not self._in_variables:
            self._weights.give()
            for spread in self._spread_variables:
                spread.give("cpu")
            self._in_variables = True

    def held(self) -> dict[int, list[Held]]:
        """Of variables that do not hold their values now this process's pieces, by their identity."""
        if self._in_variables:
            return {}
        return {key: held for spread in (self._weights, *self._spread_variables) for key, held in spread.held().items()}

    @contextmanager
    def teaching(self) -> Iterator[None]:
        """Within the block the teacher's weights are whole."""
        if self._teacher is None:
            yield
            return
        self._teacher.averages.give(self._device)
        try:
            yield
        finally:
            self._teacher.averages.release()

    def apply(self, gradients: Sequence[torch.Tensor], finite: torch.Tensor) -> None:
        """One update by this process's pieces of the gradients, where `finite` is true, after which all weights are
        new; and the averages follow.
        """
        self._adamw(gradients, finite)
        for follower in self._followers:
            follower.follow(finite)

    @property
    def _spread_variables(self) -> list[SpreadVariables]:
        return [*self._slots.values(), *(follower.averages for follower in self._followers)]

    def _updated(self, optimizer) -> list[Updated]:
        updates, (momentum, velocity) = optimizer.slots["updates"], (self._slots[name].pieces for name in _SLOTS)
        own = zip(self._weights.spread.pieces, self._weights.pieces, momentum, velocity, strict=True)
        return [Updated(piece.place, weight, updates[piece.place].value, *slots) for piece, weight, *slots in own]


class _Follower:
    """An average or teacher, of which a process moves its own pieces; what follows a frozen weight stays as it is."""

    def __init__(self, follower, trained: set[int], weights):
        pairs = zip(follower.weights, follower.averages, strict=True)
        moving = [(weight, average) for weight, average in pairs if id(weight) in trained]
        spread, self._weights = weights.of_some([weight for weight, _ in moving])
        self.averages = SpreadVariables(spread, [average for _, average in moving])
        self._decay = follower.decay

    def follow(self, finite: torch.Tensor) -> None:
        if not self._weights:  # few rows for many processes
            return
        moved_on = torch._foreach_mul(self.averages.pieces, self._decay)
        torch._foreach_add_(moved_on, self._weights, alpha=1 - self._decay)
        keep(self.averages.pieces, moved_on, where=finite)


_SLOTS = ("momentum", "velocity")
