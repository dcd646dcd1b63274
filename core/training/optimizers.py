"""AdamW, Adafactor, Lion and SGD as the SigLIP papers and big_vision use them, and GPT-1's Adam, as Keras optimizers.

Weight decay follows big_vision (`optax.py`): with base rate η and schedule s(step) in [0, 1],

    p <- p - s(step) · (η · update + weight_decay · p)

so `weight_decay` is multiplied by the schedule but not by η. SigLIP's η = 1e-3 with weight_decay = 1e-4 is what PyTorch
and Keras write as AdamW(lr=1e-3, weight_decay=0.1). Only weights whose path ends in "kernel", and the low-rank adapters
of such, decay; biases, norms, embeddings, positions, the MAP probe, scale and bias of the logits do not.
"""

from collections.abc import Mapping, Sequence

import keras
import numpy as np
from keras import ops

from diptych.core.training.patterns import matching, multipliers
from diptych.core.weights.files import BFLOAT16

KERNELS = (".*kernel(-down|-up)?",)
KERNELS_AND_TABLES = (".*(kernel(-down|-up)?|embedding)",)


class PatternOptimizer(keras.optimizers.Optimizer):
    """A Keras optimizer with decoupled decay and rates that can differ by weight.

    Args:
        learning_rate: a number, or a schedule of `diptych.core.training.schedules`.
        weight_decay: decay a step at the peak of the schedule (see above); 0 for none.
        decayed: patterns of the weights that decay.
        learning_rate_multipliers: pattern -> factor on the rate of the weights it matches, first match first. Decay is
            not multiplied, as in big_vision.
        weight_decay_multipliers: pattern -> factor on the decay of the weights it matches.
        momentum_dtype: of the slot "momentum", "float32" or "bfloat16". In bfloat16 it is rounded when it is kept, not
            in the update that it gives, and the number that it decays by is the nearest of bfloat16, 0.8984375 for 0.9:
            so XLA compiles big_vision's optimizers, all of which keep it so.
        global_clipnorm: clip gradients by their global norm (for `fit`; the training loop clips by itself).
    """

    slot_names: tuple[str, ...] = ()
    """Of each weight's slots; "updates" counts, float32, how often the others were updated, which is less than the
    optimizer's own counter where a weight or its slots are younger than the run."""
    update_rule: str | None = (
        None  # the name under which a backend may know a faster kernel for exactly these equations
    )

    def __init__(
        self,
        learning_rate,
        *,
        weight_decay: float = 0.0,
        decayed: Sequence[str] = KERNELS,
        learning_rate_multipliers: Mapping[str, float] | None = None,
        weight_decay_multipliers: Mapping[str, float] | None = None,
        momentum_dtype: str = "float32",
        global_clipnorm: float | None = None,
        name: str | None = None,
    ):
        base = getattr(learning_rate, "learning_rate", learning_rate)
        if not base > 0:
            raise ValueError(f"learning_rate must be positive, got {base!r}.")
        if weight_decay < 0:
            raise ValueError(f"weight_decay must not be negative, got {weight_decay}.")
        if momentum_dtype not in ("float32", "bfloat16"):
            raise ValueError(f"momentum_dtype must be float32 or bfloat16, got {momentum_dtype!r}.")
        super().__init__(learning_rate, global_clipnorm=global_clipnorm, name=name or type(self).__name__.lower())
        self.base_learning_rate = float(base)
        self.decoupled_weight_decay = float(weight_decay)
        self.decayed = tuple(decayed)
        self.learning_rate_multipliers = dict(learning_rate_multipliers or {})
        self.weight_decay_multipliers = dict(weight_decay_multipliers or {})
        self.momentum_dtype = momentum_dtype
        if momentum_dtype != "float32":
            self.update_rule = None

    def build(self, variables):
        if self.built:
            return
        super().build(variables)
        paths = [variable.path for variable in variables]
        self.rates = multipliers(self.learning_rate_multipliers, paths)
        decays = multipliers(self.weight_decay_multipliers, paths)
        if self.decoupled_weight_decay:
            hits = matching(self.decayed, paths)
            self.decays = [self.decoupled_weight_decay * d * hit for d, hit in zip(decays, hits, strict=True)]
        else:
            self.decays = [0.0] * len(paths)
        self.slots = {name: [self.make_slot(name, variable) for variable in variables] for name in self.slot_names}
        self._paths = paths

    def make_slot(self, name: str, variable):
        """The variable that holds slot `name` for a weight."""
        if name == "updates":
            return self.add_variable(shape=(), dtype="float32", name=f"{variable.name}_updates")
        if name == "momentum" and self.momentum_dtype != "float32":
            return self.add_variable(shape=variable.shape, dtype=self.momentum_dtype, name=f"{variable.name}_momentum")
        return self.add_variable_from_reference(variable, name=name)

    def named_slots(self) -> dict[str, keras.Variable]:
        """ "path of the weight/slot" -> variable; with "iterations", all that a checkpoint needs."""
        named = {"iterations": self.iterations}
        for name, slots in self.slots.items():
            named |= {f"{path}/{name}": slot for path, slot in zip(self._paths, slots, strict=True)}
        return named

    def rate_at(self, iterations: int) -> float:
        """The learning rate of the update after `iterations` updates."""
        schedule = self._learning_rate
        if isinstance(schedule, keras.optimizers.schedules.LearningRateSchedule):
            return float(ops.convert_to_numpy(schedule(iterations)))
        return self.base_learning_rate

    def decayed_momentum(self, decay: float, index: int):
        """decay · momentum of weight `index`, float32."""
        share = decay if self.momentum_dtype == "float32" else nearest_bfloat16(decay)
        return share * ops.cast(self.slots["momentum"][index], "float32")

    def keep_momentum(self, momentum, index: int) -> None:
        """Stores the momentum of weight `index`."""
        slot = self.slots["momentum"][index]
        self.assign(slot, ops.cast(momentum, slot.dtype))

    def direction(self, gradient, index: int, step):
        """The update in units of the learning rate; also advances the slots of weight `index`, whose updates `step`
        counts from 1.
        """
        raise NotImplementedError

    def update_step(self, gradient, variable, learning_rate):
        self.update_weight(self._get_variable_index(variable), gradient, variable, learning_rate)

    def update_weight(self, index: int, gradient, variable, learning_rate):
        """Moves weight `index`, and its slots."""
        rate = ops.cast(learning_rate, "float32")
        if "updates" in self.slots:
            step = self.slots["updates"][index] + 1
            self.assign(self.slots["updates"][index], step)
        else:
            step = ops.cast(self.iterations + 1, "float32")
        delta = rate * self.rates[index] * self.direction(ops.cast(gradient, "float32"), index, step)
        if self.decays[index]:
            delta = delta + rate * (self.decays[index] / self.base_learning_rate) * ops.cast(variable, "float32")
        self.assign_sub(variable, ops.cast(delta, variable.dtype))

    def get_config(self):
        return {
            "learning_rate": self._serialized_learning_rate(),
            "weight_decay": self.decoupled_weight_decay,
            "decayed": list(self.decayed),
            "learning_rate_multipliers": self.learning_rate_multipliers,
            "weight_decay_multipliers": self.weight_decay_multipliers,
            "momentum_dtype": self.momentum_dtype,
            "global_clipnorm": self.global_clipnorm,
            "name": self.name,
        }

    def _serialized_learning_rate(self):
        schedule = self._learning_rate
        if isinstance(schedule, keras.optimizers.schedules.LearningRateSchedule):
            return keras.optimizers.schedules.serialize(schedule)
        return self.base_learning_rate

    @classmethod
    def from_config(cls, config, custom_objects=None):
        rate = config["learning_rate"]
        if isinstance(rate, Mapping):
            rate = keras.optimizers.schedules.deserialize(rate, custom_objects)
        return cls(**{**config, "learning_rate": rate})


@keras.saving.register_keras_serializable("diptych")
class AdamW(PatternOptimizer):
    """Adam (Kingma & Ba 2015) with decoupled decay: m̂ / (√v̂ + ε).

    β₂ = 0.95 is what SigLIP states for all its experiments; it removes loss spikes at large batches. ε = 1e-8 as in
    optax.
    """

    slot_names = ("momentum", "velocity", "updates")
    update_rule = "adamw"

    def __init__(self, learning_rate, *, beta_1: float = 0.9, beta_2: float = 0.95, epsilon: float = 1e-8, **arguments):
        super().__init__(learning_rate, **arguments)
        self.beta_1, self.beta_2, self.epsilon = beta_1, beta_2, epsilon

    def direction(self, gradient, index, step):
        velocity = self.slots["velocity"][index]
        m = self.decayed_momentum(self.beta_1, index) + (1 - self.beta_1) * gradient
        v = self.beta_2 * velocity + (1 - self.beta_2) * ops.square(gradient)
        self.keep_momentum(m, index)
        self.assign(velocity, v)
        m_hat = m / (1 - ops.power(self.beta_1, step))
        v_hat = v / (1 - ops.power(self.beta_2, step))
        return m_hat / (ops.sqrt(v_hat) + self.epsilon)

    def get_config(self):
        return {**super().get_config(), "beta_1": self.beta_1, "beta_2": self.beta_2, "epsilon": self.epsilon}


@keras.saving.register_keras_serializable("diptych")
class OpenAIAdam(PatternOptimizer):
    """GPT-1's Adam (OpenAI's `opt.py`): p <- p - rate · √(1 - β₂ᵗ) / (1 - β₁ᵗ) · (m / (√v + ε) + l2 · p).

    ε is added to the root of the uncorrected second moment, and the decay is multiplied by the corrected rate as well.
    `weight_decay` is rate · l2, in the convention of this module: the paper's 0.01 at a rate of 2.5e-4 is 2.5e-6. Token
    and position tables decay like kernels.
    """

    slot_names = ("momentum", "velocity", "updates")

    def __init__(
        self,
        learning_rate,
        *,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-8,
        decayed: Sequence[str] = KERNELS_AND_TABLES,
        **arguments,
    ):
        super().__init__(learning_rate, decayed=decayed, **arguments)
        self.beta_1, self.beta_2, self.epsilon = beta_1, beta_2, epsilon

    def direction(self, gradient, index, step):
        m = self.decayed_momentum(self.beta_1, index) + (1 - self.beta_1) * gradient
        v = self.beta_2 * self.slots["velocity"][index] + (1 - self.beta_2) * ops.square(gradient)
        self.keep_momentum(m, index)
        self.assign(self.slots["velocity"][index], v)
        return m / (ops.sqrt(v) + self.epsilon)

    def update_weight(self, index, gradient, variable, learning_rate):
        step = self.slots["updates"][index] + 1
        correction = ops.sqrt(1 - ops.power(self.beta_2, step)) / (1 - ops.power(self.beta_1, step))
        super().update_weight(index, gradient, variable, ops.cast(learning_rate, "float32") * correction)

    def get_config(self):
        return {**super().get_config(), "beta_1": self.beta_1, "beta_2": self.beta_2, "epsilon": self.epsilon}


@keras.saving.register_keras_serializable("diptych")
class Lion(PatternOptimizer):
    """sign(β₁ m + (1 - β₁) g), then m <- β₂ m + (1 - β₂) g (Chen et al. 2023); SigLIP's choice for SigLiT on four
    chips.
    """

    slot_names = ("momentum",)

    def __init__(self, learning_rate, *, beta_1: float = 0.9, beta_2: float = 0.99, **arguments):
        super().__init__(learning_rate, **arguments)
        self.beta_1, self.beta_2 = beta_1, beta_2

    def direction(self, gradient, index, step):
        update = ops.sign(self.decayed_momentum(self.beta_1, index) + (1 - self.beta_1) * gradient)
        self.keep_momentum(self.decayed_momentum(self.beta_2, index) + (1 - self.beta_2) * gradient, index)
        return update

    def get_config(self):
        return {**super().get_config(), "beta_1": self.beta_1, "beta_2": self.beta_2}


@keras.saving.register_keras_serializable("diptych")
class Adafactor(PatternOptimizer):
    """Adafactor as modified for vision transformers (Zhai et al. 2022, section 3.4; big_vision `scale_by_adafactor`).

    The second moment of a weight with two dimensions of at least `min_factored_dim` is kept as a row and a column mean,
    of an attention's kernel as those of each head's matrix (`Attention` says which they are):

        β = min(beta_2_cap, 1 - step^-decay_rate),   r, c <- β r + (1 - β) mean over columns, rows of (g² + ε)
        u = g · (r / mean(r))^-½ · c^-½,   m <- momentum · m + (1 - momentum) · u,   the update is m

    No update clipping, no scaling by the weight, no bias correction.
    """

    slot_names = ("momentum", "row_second_moment", "column_second_moment", "second_moment", "updates")

    def __init__(
        self,
        learning_rate,
        *,
        momentum: float = 0.9,
        beta_2_cap: float = 0.95,
        decay_rate: float = 0.8,
        epsilon: float = 1e-30,
        min_factored_dim: int = 32,
        **arguments,
    ):
        super().__init__(learning_rate, **arguments)
        self.momentum, self.beta_2_cap, self.decay_rate = momentum, beta_2_cap, decay_rate
        self.epsilon, self.min_factored_dim = epsilon, min_factored_dim

    def build(self, variables):
        self._layouts = [_layout(variable) for variable in variables]
        super().build(variables)

    def factored_axes(self, shape, heads_axis: int | None = None) -> tuple[int, int] | None:
        """(row axis, column axis): the second largest and the largest dimension beside that of the heads, or None where
        too small to factor.
        """
        order = [int(axis) for axis in np.argsort(shape, kind="stable") if axis != heads_axis]
        if len(order) < 2:
            return None
        row, column = order[-2:]
        return (row, column) if shape[row] >= self.min_factored_dim else None

    def make_slot(self, name, variable):
        if name in ("momentum", "updates"):
            return super().make_slot(name, variable)
        layout, heads_axis = _layout(variable)
        axes = self.factored_axes(layout, heads_axis)
        shape: tuple[int, ...] = ()
        if axes and name == "row_second_moment":
            shape = tuple(np.delete(layout, axes[1]).tolist())
        elif axes and name == "column_second_moment":
            shape = tuple(np.delete(layout, axes[0]).tolist())
        elif not axes and name == "second_moment":
            shape = tuple(variable.shape)
        return self.add_variable(shape=shape, dtype="float32", name=f"{variable.name}_{name}")

    def direction(self, gradient, index, step):
        beta = ops.minimum(self.beta_2_cap, 1.0 - ops.power(step, -self.decay_rate))
        layout, heads_axis = self._layouts[index]
        axes = self.factored_axes(layout, heads_axis)
        if axes:
            gradient = ops.reshape(gradient, layout)
        squared = ops.square(gradient) + self.epsilon
        if axes:
            row_axis, column_axis = axes
            row, column = self.slots["row_second_moment"][index], self.slots["column_second_moment"][index]
            r = beta * row + (1 - beta) * ops.mean(squared, axis=column_axis)
            c = beta * column + (1 - beta) * ops.mean(squared, axis=row_axis)
            self.assign(row, r)
            self.assign(column, c)
            remaining_row_axis = row_axis - 1 if row_axis > column_axis else row_axis
            r = ops.rsqrt(r / ops.mean(r, axis=remaining_row_axis, keepdims=True))
            update = gradient * ops.expand_dims(r, column_axis) * ops.expand_dims(ops.rsqrt(c), row_axis)
            update = ops.reshape(update, self.slots["momentum"][index].shape)
        else:
            second = self.slots["second_moment"][index]
            v = beta * second + (1 - beta) * squared
            self.assign(second, v)
            update = gradient * ops.rsqrt(v)
        m = self.decayed_momentum(self.momentum, index) + (1 - self.momentum) * update
        self.keep_momentum(m, index)
        return m

    def get_config(self):
        names = ("momentum", "beta_2_cap", "decay_rate", "epsilon", "min_factored_dim")
        return {**super().get_config(), **{name: getattr(self, name) for name in names}}


@keras.saving.register_keras_serializable("diptych")
class SGD(PatternOptimizer):
    """m <- momentum · m + g, the update is m (Polyak 1964), without dampening; big_vision's `momentum_hp`.

    With `momentum_dtype` bfloat16, a rate of 0.1 and a decay of 1e-4 for each 256 examples of a batch, and gradients
    clipped to norm 1, this is how its ResNets are trained (`bit_i1k.py`). A momentum of 0 keeps no slot.
    """

    def __init__(self, learning_rate, *, momentum: float = 0.9, **arguments):
        super().__init__(learning_rate, **arguments)
        self.momentum = momentum
        self.slot_names = ("momentum",) if momentum else ()

    def direction(self, gradient, index, step):
        if not self.momentum:
            return gradient
        m = self.decayed_momentum(self.momentum, index) + gradient
        self.keep_momentum(m, index)
        return m

    def get_config(self):
        return {**super().get_config(), "momentum": self.momentum}


def nearest_bfloat16(value: float) -> float:
    """The number of bfloat16 nearest to another."""
    return float(np.asarray(value, np.float32).astype(BFLOAT16))


def _layout(variable) -> tuple[tuple[int, ...], int | None]:
    """The shape in which a weight is factored, and its axis of heads, None for a weight without heads."""
    return getattr(variable, "heads_layout", None) or (tuple(variable.shape), None)


OPTIMIZERS = {"adamw": AdamW, "adafactor": Adafactor, "lion": Lion, "sgd": SGD, "openai_adam": OpenAIAdam}
