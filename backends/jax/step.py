"""One training step on jax: a pure function of the state, compiled once, the old state's memory reused for the new."""

from contextlib import nullcontext
from functools import partial

import jax
import jax.numpy as jnp
import keras

from diptych.backends.jax.spread import GatheringScope, Spread, at_rest, held_whole


class TrainStep:
    """See `diptych.backends.train_step` for the contract.

    Between calls the state lives in this object: Keras variables are brought up to date by `synchronize`. Where it is
    spread, that gathers it: weights on the first device, for models to compute with, all else in the host's memory.
    """

    def __init__(
        self,
        model,
        objective,
        optimizer,
        *,
        clip_norm=None,
        ema=None,
        teacher=None,
        micro_batches=1,
        devices=1,
        processes=1,
        fsdp=1,
    ):
        self._model, self._objective, self._optimizer = model, objective, optimizer
        self._clip_norm, self._micro_batches = clip_norm, micro_batches
        self._rests = fsdp > 1
        self._weights, self._untrained = model.trainable_variables, model.non_trainable_variables
        self._fixed = list(objective.fixed)
        with at_rest() if self._rests else nullcontext():
            optimizer.build(self._weights)
        followers = [follower for follower in (ema, teacher) if follower]
        self._averages = [average for follower in followers for average in follower.averages]
        places = {id(weight): place for place, weight in enumerate(self._weights)}
        # A frozen weight is not among the trained ones, and its average is already what it will stay.
        self._followed = [(f.decay, places.get(id(weight))) for f in followers for weight in f.weights]
        self._held = list(objective.variables.values())
        self._variables = (self._weights, optimizer.variables, self._averages, self._held, self._untrained)
        self._state = self._read = None
        alone = devices == 1 and processes == 1
        self._spread = None if alone else Spread(devices, fsdp)
        self._scope = partial(GatheringScope, spread=self._spread) if fsdp > 1 else keras.StatelessScope
        placement = {}
        if self._spread:
            state = tuple([self._spread.shares(variable.shape) for variable in group] for group in self._variables)
            placement = {"out_shardings": (state, self._spread.whole)}
        self._compiled = jax.jit(self._step, donate_argnums=0, **placement)

    def __call__(self, batch, asks=()):
        if self._state is None:
            self._state = tuple([v.value for v in group] for group in self._variables)
            self._read = [v.value for v in self._fixed]
            if self._spread:
                self._state = jax.tree.map(self._spread.moved, self._state)
                self._read = jax.tree.map(self._spread.placed, self._read)
        if self._spread:
            batch = self._spread.batch(batch)
        asked = (self._spread.asked(asks),) if self._spread and asks else ()
        with self._spread.scope() if self._spread else nullcontext():
            self._state, logs = self._compiled(self._state, self._read, batch, *asked)
        return logs

    def compiled_for(self, fields):
        """The program of a step for batches of these shapes, arrays or `jax.ShapeDtypeStruct`. Nothing is computed:
        neither the weights' values nor the devices need be there.
        """
        spread = self._spread

        def abstract(variable):
            place = {"sharding": spread.shares(variable.shape)} if spread else {}
            return jax.ShapeDtypeStruct(variable.shape, variable.dtype, **place)

        rows = {"sharding": spread.rows()} if spread else {}
        batch = {name: jax.ShapeDtypeStruct(x.shape, x.dtype, **rows) for name, x in fields.items()}
        state, read = jax.tree.map(abstract, (tuple(map(list, self._variables)), self._fixed))
        with spread.scope() if spread else nullcontext():
            return self._compiled.lower(state, read, batch).compile()

    @property
    def torn(self) -> bool:
        """Whether the memory of the old state was given away for a new one that did not come."""
        return self._state is not None and any(value.is_deleted() for value in jax.tree.leaves(self._state))

    @property
    def compilations(self) -> int:
        """How many shapes of batches the step has been compiled for."""
        return self._compiled._cache_size()

    def synchronize(self):
        if self._state is None:
            return
        for variables, values in zip(self._variables, self._state, strict=True):
            with at_rest() if self._rests and variables is not self._weights else nullcontext():
                for variable, value in zip(variables, values, strict=True):
                    variable.assign(self._spread.on_one(value) if self._spread else value)
        self._state = self._read = None

    def held(self, variables):
        if self._state is None:
            return {name: held_whole(variable.value) for name, variable in variables.items()}
        groups = zip(self._variables, self._state, strict=True)
        state = {id(v): value for group, values in groups for v, value in zip(group, values, strict=True)}
        held = self._spread.held if self._spread else held_whole
        return {name: held(state[id(v)]) if id(v) in state else held_whole(v.value) for name, v in variables.items()}

    def gradients(self, state, fixed, batch):
        """-> (loss, (logs, updates of the objective's variables, untrained weights)), gradients in the order of the
        weights.
        """
        weights, _, averages, held, untrained = state
        objective, pieces_a_batch = self._objective, self._micro_batches

        def in_scope(function, weights, argument, untrained=untrained):
            """What the function gives, and the untrained weights as it leaves them, such as moving statistics."""
            values = [
                *zip(self._weights, weights, strict=True),
                *zip(self._untrained, untrained, strict=True),
                *zip(self._fixed, fixed, strict=True),
                *zip(self._averages, averages, strict=True),
                *zip(self._held, held, strict=True),
            ]
            with self._scope(state_mapping=values) as scope:
                result = function(self._model, argument)
            return result, [scope.state_mapping[id(variable)] for variable in self._untrained]

        def losses_of(weights, embedded):
            return in_scope(objective.losses, weights, embedded)[0]

        def whole(weights, batch):
            (embedded, own), moved = in_scope(objective.forward, weights, batch)
            total = objective.total(losses_of(weights, embedded) | own)
            return total.value, (total.logs, total.updates, moved)

        batch, _ = in_scope(objective.prepare, weights, batch)
        if pieces_a_batch == 1:
            return jax.value_and_grad(whole, has_aux=True)(weights, batch)

        def split(x):
            x = x.reshape(pieces_a_batch, -1, *x.shape[1:])
            return jax.lax.with_sharding_constraint(x, self._spread.rows(1)) if self._spread else x

        def compared(embedded, weights):
            losses = losses_of(weights, embedded)
            return objective.total(losses).value, losses

        pieces = jax.tree.map(split, batch)
        losses, cotangents, direct = {}, {}, jax.tree.map(jnp.zeros_like, weights)
        if objective.compares:
            parts = jax.lax.map(lambda piece: in_scope(objective.embed, weights, piece)[0], pieces)
            joined = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), parts)
            (_, losses), (cotangents, direct) = jax.value_and_grad(compared, argnums=(0, 1), has_aux=True)(
                joined, weights
            )

        def carried(weights, piece, cotangent, untrained):
            # Its gradient is that of the pairs' loss by way of this piece, and of what the piece loses by itself.
            (embedded, own), moved = in_scope(objective.forward, weights, piece, untrained)
            value = sum(jnp.vdot(embedded[name], cotangent[name]) for name in embedded)
            if own:
                value = value + objective.total(own).value / pieces_a_batch
            return value, (own, moved)

        def replay(so_far, piece_and_cotangent):
            total, untrained = so_far
            gradient, (own, moved) = jax.grad(carried, has_aux=True)(weights, *piece_and_cotangent, untrained)
            return (jax.tree.map(jnp.add, total, gradient), moved), own

        (gradients, moved), own = jax.lax.scan(replay, (direct, untrained), (pieces, jax.tree.map(split, cotangents)))
        total = objective.total(losses | jax.tree.map(lambda x: jnp.mean(x, axis=0), own))
        return (total.value, (total.logs, total.updates, moved)), gradients

    def _step(self, state, fixed, batch, asked=None):
        (loss, (logs, updates, moved)), gradients = self.gradients(state, fixed, batch)
        norm = jnp.sqrt(sum(jnp.sum(jnp.square(g)) for g in gradients))
        finite = jnp.isfinite(loss) & jnp.isfinite(norm)

        def advance(state):
            weights, slots, averages, *_ = state
            clipped = gradients
            if self._clip_norm is not None:
                clipped = [g * jnp.minimum(1.0, self._clip_norm / norm) for g in gradients]
            weights, slots = self._optimizer.stateless_apply(slots, clipped, weights)
            averages = [
                average if place is None else decay * average + (1 - decay) * weights[place]
                for average, (decay, place) in zip(averages, self._followed, strict=True)
            ]
            return weights, slots, averages, [updates[name] for name in self._objective.variables], moved

        state = jax.lax.cond(finite, advance, lambda state: state, state)
        logs = {"loss": loss, "gradient_norm": norm, "finite": finite, **logs}
        return state, logs if asked is None else logs | {"asked": jnp.max(asked, axis=0)}
