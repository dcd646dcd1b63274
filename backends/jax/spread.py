"""Training steps over devices of one process or of many, each with rows of the batch and a share of the state."""

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager

import jax
import keras
import numpy as np
from jax.experimental import multihost_utils
from jax.lax import with_sharding_constraint
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from diptych.backends.jax.contrastive import over
from diptych.backends.shares import Held, cut_axis, whole

AXES = ("data", "fsdp")
"""Of the mesh. A batch is spread over both, the state over the second, whose devices are neighbours."""


class Spread:
    """The first `devices` devices of each process as a mesh, over every `fsdp` of which the state is spread.

    Instead of a number, all of them may be named: such that are not here, to compile for.

    Within `scope` the contrastive losses know of them and go round them in a ring; outside nothing has changed, and
    models are evaluated as on one device.

    Raises:
        ValueError: there are fewer devices.
    """

    def __init__(self, devices: int | Sequence[jax.Device], fsdp: int = 1):
        used = _first_of_each_process(devices) if isinstance(devices, int) else devices
        self.count, self._fsdp = len(used), fsdp
        self._own = devices if isinstance(devices, int) else len(used)
        self._mesh = Mesh(np.array(used).reshape(-1, fsdp), AXES, axis_types=(AxisType.Auto, AxisType.Auto))
        self.whole = NamedSharding(self._mesh, P())
        self._holders: dict[tuple[int, ...], dict[int, tuple[int, ...]]] = {}

    def scope(self) -> AbstractContextManager:
        return over(self._mesh, AXES)

    def shares(self, shape: Sequence[int]) -> NamedSharding:
        """Where an array of the state is: in parts on `fsdp` neighbours each, or, if small, whole on every device."""
        axis = cut_axis(shape, self._fsdp)
        return self.whole if axis is None else NamedSharding(self._mesh, P(*[None] * axis, "fsdp"))

    def placed(self, array):
        """An array of the state that every process has, each device with its share."""
        if jax.process_count() == 1:
            return jax.device_put(array, self.shares(array.shape))
        return jax.make_array_from_callback(array.shape, self.shares(array.shape), np.array(array).__getitem__)

    def moved(self, array):
        """As `placed`, and the memory of the array itself is given back."""
        placed = self.placed(array)
        if jax.process_count() > 1 or not placed.is_fully_replicated:  # else the first device's copy may be the array
            array.delete()
        return placed

    def on_one(self, array):
        """An array of the state whole; where it is spread, in the memory of the host, gathered from all processes."""
        if array.is_fully_replicated:
            return array.addressable_data(0)
        return multihost_utils.process_allgather(array, tiled=True)

    def held(self, array) -> list[Held]:
        """What devices of this process hold of an array of the state, each part once."""
        shape, axis = tuple(array.shape), cut_axis(array.shape, self._fsdp)
        if axis is None:
            return [Held(shape, 1, 0, array.size, array.dtype.itemsize, (), _copier(array.addressable_data(0), 1))]
        rows, inner = math.prod(shape[:axis]), math.prod(shape[axis + 1 :])
        if shape not in self._holders:
            found: dict[int, set[int]] = {}
            for device, index in array.sharding.devices_indices_map(shape).items():
                found.setdefault((index[axis].start or 0) * inner, set()).add(device.process_index)
            self._holders[shape] = {start: tuple(sorted(processes)) for start, processes in found.items()}
        parts = {(shard.index[axis].start or 0) * inner: shard.data for shard in array.addressable_shards}
        return [
            Held(
                shape,
                rows,
                start,
                part.size // rows,
                part.dtype.itemsize,
                self._holders[shape][start],
                _copier(part, rows),
            )
            for start, part in sorted(parts.items())
        ]

    def gathered(self, array):
        """Within a step, a weight whole on every device, to compute with; its gradient is added up into shares."""
        shares = self.shares(array.shape)
        if shares == self.whole:
            return array

        @jax.custom_vjp
        def gather(share):
            return with_sharding_constraint(share, self.whole)

        gather.defvjp(
            lambda share: (gather(share), None), lambda _, gradient: (with_sharding_constraint(gradient, shares),)
        )
        return gather(array)

    def rows(self, axis: int = 0) -> NamedSharding:
        """An array whose examples are counted by an axis, a part of them on each device."""
        return NamedSharding(self._mesh, P(*[None] * axis, AXES))

    def batch(self, batch: dict) -> dict:
        """A batch's fields, of which this process has its own examples, a part of the examples on each device.

        Raises:
            ValueError: the examples cannot be dealt out evenly.
        """
        for name, array in batch.items():
            if array.shape[0] % self._own:
                raise ValueError(
                    f"{array.shape[0]} examples ({name}) cannot be dealt out evenly over {self._own} devices: choose "
                    f"a batch size that is a multiple of {self.count}, in every piece of it."
                )
        return {name: self._dealt(array) for name, array in batch.items()}

    def asked(self, asks: Sequence[float]):
        """What this process asks with, as rows beside those of the other processes, one a device."""
        return self._dealt(np.tile(np.asarray(asks, np.float32), (self._own, 1)))

    def _dealt(self, array):
        if jax.process_count() == 1:
            return jax.device_put(array, self.rows())
        return jax.make_array_from_process_local_data(self.rows(), np.asarray(array))


def held_whole(array) -> list[Held]:
    """An array that every process holds, whole on a device."""
    copied = _copier(array, 1)
    return [whole(array.shape, array.dtype.itemsize, copied)]


def _copier(array, rows: int):
    """See `Held.copied`."""

    def copied(start: int, stop: int) -> np.ndarray:
        columns = np.asarray(array).reshape(rows, -1)[:, start:stop]
        # On the CPU a NumPy view is the memory of the array itself, which a step gives away.
        return columns.copy() if next(iter(array.devices())).platform == "cpu" else columns

    return copied


def _first_of_each_process(count: int) -> list[jax.Device]:
    present = jax.local_devices()
    if not 1 <= count <= len(present):
        raise ValueError(
            f"A step was to be spread over {count} devices, and jax has {len(present)} here ({present[0].platform})."
        )
    by_process: dict[int, list[jax.Device]] = {}
    for device in jax.devices():
        by_process.setdefault(device.process_index, []).append(device)
    return [device for process in sorted(by_process) for device in by_process[process][:count]]


def at_rest() -> AbstractContextManager:
    """Within the block arrays are made in the host's memory.

    Raises:
        ValueError: jax was told to see accelerators alone.
    """
    try:
        return jax.default_device(jax.local_devices(backend="cpu")[0])
    except RuntimeError as error:
        raise ValueError(
            f"State that is spread rests in the host's memory between steps, which jax does not see here ({error}): "
            'let JAX_PLATFORMS name the CPU, too, as in "cuda,cpu".'
        ) from error


class GatheringScope(keras.StatelessScope):
    """A scope in which the value of a variable is gathered wherever it is asked for: a block that is computed again in
    the backward pass gathers its weights again, so that they are not kept in between.
    """

    def __init__(self, state_mapping, spread: Spread):
        super().__init__(state_mapping)
        self._spread = spread

    def get_current_value(self, variable):
        value = super().get_current_value(variable)
        return None if value is None else self._spread.gathered(value)
