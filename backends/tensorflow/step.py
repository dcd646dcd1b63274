"""One training step on tensorflow: one graph that reads a batch and updates the Keras variables in place."""

import keras
import tensorflow as tf

from diptych.backends.untrained import carried


class TrainStep:
    """See `diptych.backends.train_step` for the contract."""

    def __init__(self, model, objective, optimizer, *, clip_norm=None, ema=None, teacher=None, micro_batches=1):
        self._model, self._objective, self._optimizer = model, objective, optimizer
        self._clip_norm, self._micro_batches = clip_norm, micro_batches
        self._followers = [follower for follower in (ema, teacher) if follower]
        self._variables = model.trainable_variables
        optimizer.build(self._variables)
        self._weights = [v.value for v in self._variables]
        self._untrained = model.non_trainable_variables
        self._graph = tf.function(self._step, autograph=False)
        self.torn = False

    def __call__(self, batch, asks=()):
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
        """Nothing to do: the Keras variables hold the state."""

    def gradients(self, batch):
        """-> the objective's loss, gradients in the order of the weights, and the untrained weights as the model leaves
        them.
        """
        objective, model = self._objective, self._model
        untrained = [tf.convert_to_tensor(variable.value) for variable in self._untrained]
        batch = objective.prepare(model, batch)
        if self._micro_batches == 1:
            with tf.GradientTape() as tape:
                (embedded, own), moved = self._carried(objective.forward, batch, untrained)
                total = objective.total(objective.losses(model, embedded) | own)
            return total, _dense(tape, total.value, self._weights), moved

        pieces = [dict(zip(batch, split, strict=True)) for split in zip(*map(self._split, batch.values()), strict=True)]
        losses, cotangents, gradients = {}, [{} for _ in pieces], [tf.zeros_like(weight) for weight in self._weights]
        if objective.compares:
            embedded = [self._carried(objective.embed, piece, untrained)[0] for piece in pieces]
            joined = {name: tf.concat([part[name] for part in embedded], axis=0) for name in embedded[0]}
            with tf.GradientTape() as tape:
                tape.watch(joined)
                losses = objective.losses(model, joined)
                value = objective.total(losses).value
            direct = _dense(tape, value, [*joined.values(), *self._weights])
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
            carried = _dense(tape, [o for o, _ in outputs], self._weights, [c for _, c in outputs])
            gradients = [total + gradient for total, gradient in zip(gradients, carried, strict=True)]
            owns.append(own)
        mean = keras.tree.map_structure(lambda *values: tf.reduce_mean(tf.stack(values), axis=0), *owns)
        return objective.total(losses | mean), gradients, untrained

    def _carried(self, function, argument, untrained):
        return carried(function, self._model, argument, self._untrained, untrained)

    def _split(self, x):
        return tf.split(x, self._micro_batches)

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
            self._optimizer.apply(clipped, self._variables)
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
