"""Training steps over the devices of this machine, each with rows of the batch and all of the state."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import cache, partial

import keras
import numpy as np
import tensorflow as tf

from diptych.backends.tensorflow.device import devices_here


class Spread:
    """The first `devices` devices as the replicas of a `MirroredStrategy`.

    The Keras variables are the state of the first replica, and the others have variables of their own beside them.
    All replicas make the same update of the same mean gradients, so that a step sends no weight.

    Args:
        devices: how many.
        variables: all that a step reads or writes.
        pieces: into which each replica cuts its rows; it gets its part of each piece of the batch.

    Raises:
        ValueError: there are fewer devices.
    """

    def __init__(self, devices: int, variables: Sequence[keras.Variable], pieces: int = 1):
        present = devices_here()
        if not 1 <= devices <= len(present):
            raise ValueError(
                f"A step was to be spread over {devices} devices, and tensorflow has {len(present)} here "
                f"({present[0].device_type})."
            )
        self.count, self._pieces, self._devices = devices, pieces, [device.name for device in present[:devices]]
        self._strategy = mirrored(tuple(self._devices))
        self._variables = list({id(variable): variable for variable in variables}.values())
        self._copies = [[_copy(variable.value, device) for variable in self._variables] for device in self._devices[1:]]
        self._stale = True

    def batch(self, batch: Mapping) -> dict:
        """A batch's fields, an equal part of each piece of them on each device.

        Raises:
            ValueError: the rows cannot be dealt out evenly.
        """
        among = self.count * self._pieces
        for name, array in batch.items():
            if array.shape[0] % among:
                cut = f", in {self._pieces} pieces," if self._pieces > 1 else ""
                raise ValueError(
                    f"{array.shape[0]} examples ({name}) cannot be dealt out evenly{cut} over {self.count} devices: "
                    f"choose a batch size that is a multiple of {among}, in every piece of it."
                )

        def part(array, number):
            rows = np.asarray(array).reshape(self._pieces, self.count, -1, *array.shape[1:])[:, number]
            with tf.device(self._devices[number]):
                return tf.convert_to_tensor(rows.reshape(-1, *array.shape[1:]))

        return {
            name: self._strategy.experimental_distribute_values_from_function(
                lambda context, array=array: part(array, number_of(context))
            )
            for name, array in batch.items()
        }

    def on_each(self, step: Callable, batch: dict) -> dict:
        """What a step gives on the first replica; each takes it with its own rows and variables."""

        def on_this(batch):
            with self.scope()():
                return step(batch)

        logs = self._strategy.run(on_this, args=(batch,))
        return {name: self._strategy.experimental_local_results(log)[0] for name, log in logs.items()}

    def scope(self) -> Callable[..., AbstractContextManager]:
        """Of the replica that asks: makes scopes in which the variables of the state are its own."""
        number = number_of(tf.distribute.get_replica_context())
        own = [variable.value for variable in self._variables] if number == 0 else self._copies[number - 1]
        return partial(ReplicaScope, dict(zip(map(id, self._variables), own, strict=True)))

    def change(self) -> None:
        """Says that the Keras variables may be given other values before the next step."""
        self._stale = True

    def refresh(self) -> None:
        """Gives the other replicas what the Keras variables hold, where these may have changed."""
        if not self._stale:
            return
        for copies in self._copies:
            for variable, copy in zip(self._variables, copies, strict=True):
                copy.assign(variable.value)
        self._stale = False


@cache
def mirrored(devices: tuple[str, ...]) -> tf.distribute.MirroredStrategy:
    """The strategy of all steps over the same devices in this process: what a second one gathers, tensorflow would take
    for what the first has gathered.
    """
    return tf.distribute.MirroredStrategy(list(devices))


class ReplicaScope(keras.StatelessScope):
    """A scope in which variables are those of one replica, and assigned to in place; a variable of `state_mapping` has
    the given value there instead, until the scope ends.
    """

    def __init__(self, own: Mapping[int, tf.Variable], state_mapping=None):
        super().__init__(state_mapping, initialize_variables=False)
        self._own = own

    def get_current_value(self, variable):
        value = super().get_current_value(variable)
        return self._own.get(id(variable)) if value is None else value

    def add_update(self, update):
        variable, value = update
        if id(variable) in self.state_mapping or id(variable) not in self._own:
            super().add_update(update)
        else:
            self._own[id(variable)].assign(value)


class ReplicaBatch:
    """See `diptych.core.training.whole_batch.WholeBatch`; of whichever replica asks."""

    def __init__(self, replicas: int):
        self.parts = replicas

    def mean(self, x):
        return mean_over_replicas(x)

    def gathered(self, x):
        # In a graph its shape is unknown; all replicas have as many rows.
        return tf.ensure_shape(_context().all_gather(x, axis=0), [self.parts * x.shape[0], *x.shape[1:]])

    def first(self, x):
        return tf.stop_gradient(self.gathered(x)[: x.shape[0]])

    def rolled(self, x):
        return tf.stop_gradient(self._own(tf.roll(self.gathered(x), 1, axis=0)))

    def taken(self, rows, places):
        raise ValueError("Curated batches are not dealt out over replicas of tensorflow: train on one device.")

    def _own(self, rows):
        """This replica's part of rows that all replicas have."""
        share = rows.shape[0] // self.parts
        first = number_of(_context()) * share
        return rows[first : first + share]


def apply_updates(optimizer, gradients, variables) -> None:
    """As `optimizer.apply`, of one replica by itself: that of Keras would add up the gradients of all replicas again,
    and knows weights by the variables of the first.

    Args:
        optimizer: one of `diptych.core.training.optimizers`, built for these variables.
    """
    rate = optimizer.learning_rate
    for index, (gradient, variable) in enumerate(zip(gradients, variables, strict=True)):
        optimizer.update_weight(index, gradient, variable, rate)
        if variable.constraint is not None:
            variable.assign(variable.constraint(variable))
    optimizer.iterations.assign_add(1)


def mean_over_replicas(values):
    """The means over the replicas of tensors, or of a structure of them; differentiable."""
    flat = keras.tree.flatten(values)
    means = _context().all_reduce(tf.distribute.ReduceOp.MEAN, flat) if flat else []
    return keras.tree.pack_sequence_as(values, means)


def number_of(context: tf.distribute.ReplicaContext) -> int:
    """Of a replica, from 0."""
    number = context.replica_id_in_sync_group
    return int(tf.get_static_value(number) if tf.is_tensor(number) else number)


def _context() -> tf.distribute.ReplicaContext:
    return tf.distribute.get_replica_context()


def _copy(variable: tf.Variable, device: str) -> tf.Variable:
    with tf.device(device):
        return tf.Variable(variable, trainable=variable.trainable, dtype=variable.dtype)
