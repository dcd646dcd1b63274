"""One training step on tensorflow: one graph that reads a batch and updates the Keras variables in place."""

import tensorflow as tf


class TrainStep:
    """See `diptych.backends.train_step` for the contract."""

    def __init__(self, model, objective, optimizer, *, clip_norm=None, ema=None, teacher=None, micro_batches=1):
        self._model, self._objective, self._optimizer = model, objective, optimizer
        self._clip_norm, self._micro_batches = clip_norm, micro_batches
        self._followers = [follower for follower in (ema, teacher) if follower]
        self._variables = model.trainable_variables
        optimizer.build(self._variables)
        self._weights = [v.value for v in self._variables]
        self._graph = tf.function(self._step, autograph=False)

    def __call__(self, batch):
        return self._graph({name: tf.convert_to_tensor(array) for name, array in batch.items()})

    @property
    def compilations(self) -> int:
        """How many shapes of batches the step has been traced for."""
        return self._graph.experimental_get_tracing_count()

    def synchronize(self):
        """Nothing to do: the Keras variables hold the state."""

    def gradients(self, batch):
        """-> (loss, logs, updates of the objective's variables), gradients in the order of the weights."""
        objective, model = self._objective, self._model
        batch = objective.prepare(model, batch)
        if self._micro_batches == 1:
            with tf.GradientTape() as tape:
                parts = objective.embed(model, batch)
                loss, logs = objective.loss_of(model, parts)
            return (loss, logs, objective.updates(model, parts)), _dense(tape, loss, self._weights)

        pieces = [dict(zip(batch, split, strict=True)) for split in zip(*map(self._split, batch.values()), strict=True)]
        embedded = [objective.embed(model, piece) for piece in pieces]
        parts = [tf.concat(part, axis=0) for part in zip(*embedded, strict=True)]
        with tf.GradientTape() as tape:
            tape.watch(parts)
            loss, logs = objective.loss_of(model, parts)
        direct = _dense(tape, loss, [*parts, *self._weights])
        cotangents, total = direct[: len(parts)], direct[len(parts) :]
        for piece, cotangent in zip(pieces, zip(*map(self._split, cotangents), strict=True), strict=True):
            # Pieces replay one after another, so that only one's activations are alive at a time.
            with tf.control_dependencies(total), tf.GradientTape() as tape:
                outputs = objective.embed(model, tf.nest.map_structure(tf.identity, piece))
            replayed = _dense(tape, list(outputs), self._weights, list(cotangent))
            total = [t + g for t, g in zip(total, replayed, strict=True)]
        return (loss, logs, objective.updates(model, parts)), total

    def _split(self, x):
        return tf.split(x, self._micro_batches)

    def _step(self, batch):
        (loss, logs, updates), gradients = self.gradients(batch)
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
            for variable, value in zip(self._objective.variables, updates, strict=True):
                variable.value.assign(value)
            return tf.constant(0)

        tf.cond(finite, advance, lambda: tf.constant(0))
        return {"loss": loss, "gradient_norm": norm, "finite": finite, **logs}


def _dense(tape, target, sources, cotangents=None):
    gradients = tape.gradient(target, sources, cotangents, unconnected_gradients=tf.UnconnectedGradients.ZERO)
    return [tf.convert_to_tensor(g) for g in gradients]
