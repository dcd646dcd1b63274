"""A training step on several devices, of one process or of many: each holds all of the state, and rows of the batch."""

from collections.abc import Sequence
from contextlib import AbstractContextManager

import jax
import keras
import numpy as np
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P


class Spread:
    """The first `devices` devices of each process as a mesh.

    Within `scope` Keras knows of them, so that the sigmoid loss goes round them in a ring; outside nothing has changed,
    and models are evaluated as on one device.

    Raises:
        ValueError: there are fewer devices.
    """

    def __init__(self, devices: int):
        present = jax.local_devices()
        if not 1 <= devices <= len(present):
            raise ValueError(
                f"A step was to be spread over {devices} devices, and jax has {len(present)} here "
                f"({present[0].platform})."
            )
        by_process: dict[int, list[jax.Device]] = {}
        for device in jax.devices():
            by_process.setdefault(device.process_index, []).append(device)
        used = [device for process in sorted(by_process) for device in by_process[process][:devices]]
        self.count, self._own = len(used), devices
        self._distribution = keras.distribution.DataParallel(devices=used)
        self._mesh = self._distribution.device_mesh.backend_mesh
        self.whole = NamedSharding(self._mesh, P())

    def scope(self) -> AbstractContextManager:
        return self._distribution.scope()

    def everywhere(self, tree):
        """Arrays that every process has, all of them on each device."""
        if jax.process_count() == 1:
            return jax.device_put(tree, self.whole)

        def whole(x):
            return jax.make_array_from_callback(x.shape, self.whole, np.asarray(x).__getitem__)

        return jax.tree.map(whole, tree)

    def on_one(self, array):
        """The first device's copy of an array that each has."""
        return array.addressable_data(0)

    def rows(self, axis: int = 0) -> NamedSharding:
        """An array whose examples are counted by an axis, a part of them on each device."""
        return NamedSharding(self._mesh, P(*[None] * axis, self._distribution.batch_dim_name))

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
