"""One training step on tensorflow: one graph that reads a batch and updates the Keras variables in place."""

from functools import partial

import keras
import numpy as np
import tensorflow as tf

from diptych.backends.shares import whole
from diptych.backends.tensorflow.spread import ReplicaBatch, Spread, apply_updates, mean_over_replicas
from diptych.backends.untrained import carried


class TrainStep:
    """See `diptych.backends.train_step` for the contract.

    The Keras variables hold the state; over several devices they are the first one's.
    """

    def __init__(
        self, model, objective, optimizer, *, clip_norm=None, ema=None, teacher=None, micro_batches=1, devices=1
    ):
        self._model, self._objective, self._optimizer = model, objective, optimizer
        self._clip_norm, self._micro_batches = clip_norm, micro_batches
        self._followers = [follower for follower in (ema, teacher) if follower]
        self._variables = model.trainable_variables
        optimizer.build(self._variables)
        self._untrained = model.non_trainable_variables
        self._spread, self._apply = None, optimizer.apply
        if devices > 1:
            self._spread, self._apply = Spread(devices, self._state(), micro_batches), partial(apply_updates, optimizer)
        self._graph = tf.function(self._spread_step if self._spread else self._step, autograph=False)
        self.torn = False

    def __call__(self, batch, asks=()):
        if self._spread:
            self._spread.refresh()
            batch = self._spread.batch(batch)
        else:
            batch = {name: tf.convert_to_tensor(array) for name, array in batch.items()}
        self.torn = True  # a graph that fails does not tell how far it came
        logs = self._graph(batch)
        self.torn = False
        return logs

    @property
    def compilations(self) -> int:
        """How many shapes of batches the step has been traced for."""
        return self._graph.experimental_get_tracing_count()

    def synchronize(self):
        """The Keras variables hold the state; what they are given now the other devices take up in the next step."""
        if self._spread:
            self._spread.change()

    def held(self, variables):
        def held(value):
            def numbers(start, stop):
                return np.array(value.numpy().reshape(-1)[start:stop])

            return [whole(value.shape, value.dtype.size, numbers)]

        return {name: held(variable.value) for name, variable in variables.items()}

    def gradients(self, batch):
        """-> the objective's loss, gradients in the order of the weights, and the untrained weights as the model leaves
        them; of a whole batch, of which each of several devices has its rows.
        """
        objective, model = self._objective, self._model
        weights = [variable.value for variable in self._variables]
        untrained = [tf.convert_to_tensor(variable.value) for variable in self._untrained]
        batch = objective.prepare(model, batch)
        if self._micro_batches == 1:
            with tf.GradientTape() as tape:
                (embedded, own), moved = self._carried(objective.forward, batch, untrained)
                losses = objective.losses(model, embedded)
                value = objective.total(losses | own).value
            return self._met(losses, own, _dense(tape, value, weights), moved)

        pieces = [dict(zip(batch, split, strict=True)) for split in zip(*map(self._split, batch.values()), strict=True)]
        losses, cotangents, gradients = {}, [{} for _ in pieces], [tf.zeros_like(weight) for weight in weights]
        if objective.compares:
            embedded = [self._carried(objective.embed, piece, untrained)[0] for piece in pieces]
            joined = {name: tf.concat([part[name] for part in embedded], axis=0) for name in embedded[0]}
            with tf.GradientTape() as tape:
                tape.watch(joined)
                losses = objective.losses(model, joined)
                value = objective.total(losses).value
            direct = _dense(tape, value, [*joined.values(), *weights])
            gradients = direct[len(joined) :]
            split = zip(*map(self._split, direct[: len(joined)]), strict=True)
            cotangents = [dict(zip(joined, cotangent, strict=True)) for cotangent in split]
        owns = []
        for piece, cotangent in zip(pieces, cotangents, strict=True):
            # Pieces replay one after another, so that only one's activations are alive at a time.
            with tf.control_dependencies(gradients), tf.GradientTape() as tape:
                piece = tf.nest.map_structure(tf.identity, piece)
                (embedded, own), untrained = self._carried(objective.forward, piece, untrained)
                outputs = [(embedded[name], cotangent[name]) for name in embedded]
                if own:
                    value = objective.total(own).value
                    outputs.append((value, tf.fill(tf.shape(value), 1 / self._micro_batches)))
            carried = _dense(tape, [o for o, _ in outputs], weights, [c for _, c in outputs])
            gradients = [total + gradient for total, gradient in zip(gradients, carried, strict=True)]
            owns.append(own)
        mean = keras.tree.map_structure(lambda *values: tf.reduce_mean(tf.stack(values), axis=0), *owns)
        return self._met(losses, mean, gradients, untrained)

    def _met(self, losses, own, gradients, untrained):
        """What `gradients` gives, from the losses of the terms that compare examples, which are those of the whole
        batch, from the others and from the gradients, of which several devices take the means.
        """
        if self._spread:
            own, gradients = mean_over_replicas((own, gradients))
        return self._objective.total(losses | own), gradients, untrained

    def _carried(self, function, argument, untrained):
        scope = {"scope": self._spread.scope()} if self._spread else {}
        return carried(function, self._model, argument, self._untrained, untrained, **scope)

    def _split(self, x):
        return tf.split(x, self._micro_batches)

    def _state(self):
        """All that a step reads or writes."""
        averages = [average for follower in self._followers for average in follower.averages]
        objective = self._objective
        return [
            *self._variables,
            *self._untrained,
            *self._optimizer.variables,
            *averages,
            *objective.variables.values(),
            *objective.fixed,
        ]

    def _spread_step(self, batch):
        with self._objective.seeing(ReplicaBatch(self._spread.count)):
            return self._spread.on_each(self._step, batch)

    def _step(self, batch):
        total, gradients, moved = self.gradients(batch)
        loss = total.value
        # Read now: a log may be a weight itself, such as the bias of the loss, which is assigned to below.
        logs = {name: tf.identity(log) for name, log in total.logs.items()}
        norm = tf.linalg.global_norm(gradients)
        finite = tf.math.is_finite(loss) & tf.math.is_finite(norm)

        def advance():
            clipped = gradients
            if self._clip_norm is not None:
                clipped = [g * tf.minimum(1.0, self._clip_norm / norm) for g in gradients]
            self._apply(clipped, self._variables)
            for follower in self._followers:
                for average, weight in zip(follower.averages, follower.weights, strict=True):
                    average.value.assign(follower.decay * average.value + (1 - follower.decay) * weight.value)
            for name, variable in self._objective.variables.items():
                variable.value.assign(total.updates[name])
            for variable, value in zip(self._untrained, moved, strict=True):
                variable.value.assign(value)
            return tf.constant(0)

        tf.cond(finite, advance, lambda: tf.constant(0))
        return {"loss": loss, "gradient_norm": norm, "finite": finite, **logs}


def _dense(tape, target, sources, cotangents=None):
    gradients = tape.gradient(target, sources, cotangents, unconnected_gradients=tf.UnconnectedGradients.ZERO)
    return [tf.convert_to_tensor(g) for g in gradients]
