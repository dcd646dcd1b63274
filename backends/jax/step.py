"""One training step on jax: a pure function of the state, compiled once, the old state's memory reused for the new."""

from functools import partial

import jax
import jax.numpy as jnp
import keras


class TrainStep:
    """See `diptych.backends.train_step` for the contract.

    Between calls the state lives in this object: Keras variables are brought up to date by `synchronize`.
    """

    def __init__(self, model, objective, optimizer, *, clip_norm=None, ema=None, micro_batches=1):
        self._model, self._objective, self._optimizer = model, objective, optimizer
        self._clip_norm, self._micro_batches = clip_norm, micro_batches
        self._weights, self._fixed = model.trainable_variables, model.non_trainable_variables
        optimizer.build(self._weights)
        self._ema_decay = ema.decay if ema else None
        self._variables = (self._weights, optimizer.variables, ema.averages if ema else [])
        self._state = None
        self._compiled = jax.jit(self._step, donate_argnums=0)

    def __call__(self, batch):
        if self._state is None:
            self._state = tuple([v.value for v in group] for group in self._variables)
        self._state, logs = self._compiled(self._state, [v.value for v in self._fixed], batch)
        return logs

    def synchronize(self):
        if self._state is None:
            return
        for variables, values in zip(self._variables, self._state, strict=True):
            for variable, value in zip(variables, values, strict=True):
                variable.assign(value)
        self._state = None

    def gradients(self, weights, fixed, batch):
        """-> (loss, logs), gradients in the order of the weights."""
        embed = partial(self._in_scope, self._objective.embed, fixed=fixed)
        loss_of = partial(self._in_scope, self._objective.loss_of, fixed=fixed)
        if self._micro_batches == 1:
            return jax.value_and_grad(lambda w: loss_of(w, embed(w, batch)), has_aux=True)(weights)

        def split(x):
            return x.reshape(self._micro_batches, -1, *x.shape[1:])

        pieces = jax.tree.map(split, batch)
        embeddings = jax.lax.map(lambda piece: embed(weights, piece), pieces)
        joined = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), embeddings)
        value, (cotangents, direct) = jax.value_and_grad(lambda e, w: loss_of(w, e), argnums=(0, 1), has_aux=True)(
            joined, weights
        )

        def replay(total, piece_and_cotangent):
            piece, cotangent = piece_and_cotangent
            _, pullback = jax.vjp(lambda w: embed(w, piece), weights)
            return jax.tree.map(jnp.add, total, pullback(cotangent)[0]), None

        return value, jax.lax.scan(replay, direct, (pieces, jax.tree.map(split, cotangents)))[0]

    def _in_scope(self, function, weights, argument, *, fixed):
        values = [*zip(self._weights, weights, strict=True), *zip(self._fixed, fixed, strict=True)]
        with keras.StatelessScope(state_mapping=values):
            return function(self._model, argument)

    def _step(self, state, fixed, batch):
        weights, slots, averages = state
        (loss, logs), gradients = self.gradients(weights, fixed, batch)
        norm = jnp.sqrt(sum(jnp.sum(jnp.square(g)) for g in gradients))
        finite = jnp.isfinite(loss) & jnp.isfinite(norm)

        def advance(state):
            weights, slots, averages = state
            clipped = gradients
            if self._clip_norm is not None:
                clipped = [g * jnp.minimum(1.0, self._clip_norm / norm) for g in gradients]
            weights, slots = self._optimizer.stateless_apply(slots, clipped, weights)
            if averages:
                decay = self._ema_decay
                averages = [decay * a + (1 - decay) * w for a, w in zip(averages, weights, strict=True)]
            return weights, slots, averages

        state = jax.lax.cond(finite, advance, lambda state: state, (weights, slots, averages))
        return state, {"loss": loss, "gradient_norm": norm, "finite": finite, **logs}
