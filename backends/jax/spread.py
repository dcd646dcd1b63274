"""A training step on several devices of this machine: each holds all of the state, and its rows of the batch."""

from contextlib import AbstractContextManager

import jax
import keras
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P


class Spread:
    """The first `devices` local devices as a mesh.

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
        self.count = devices
        self._distribution = keras.distribution.DataParallel(devices=present[:devices])
        self._mesh = self._distribution.device_mesh.backend_mesh
        self.whole = NamedSharding(self._mesh, P())

    def scope(self) -> AbstractContextManager:
        return self._distribution.scope()

    def everywhere(self, tree):
        """Arrays, all of them on each device."""
        return jax.device_put(tree, self.whole)

    def on_one(self, array):
        """The first device's copy of an array that each has."""
        return array.addressable_data(0)

    def rows(self, axis: int = 0) -> NamedSharding:
        """An array whose examples are counted by an axis, a part of them on each device."""
        return NamedSharding(self._mesh, P(*[None] * axis, self._distribution.batch_dim_name))

    def batch(self, batch: dict) -> dict:
        """A batch's fields, a part of the examples on each device.

        Raises:
            ValueError: the examples cannot be dealt out evenly.
        """
        for name, array in batch.items():
            if array.shape[0] % self.count:
                raise ValueError(
                    f"{array.shape[0]} examples ({name}) cannot be dealt out evenly over {self.count} devices: choose "
                    f"a batch size that is a multiple of {self.count}, in every piece of it."
                )
        return {name: jax.device_put(array, self.rows()) for name, array in batch.items()}
