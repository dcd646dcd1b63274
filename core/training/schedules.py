"""Learning-rate schedules over examples seen, so that a change of batch size leaves them where they were.

Each is a Keras `LearningRateSchedule` called with the optimizer's step; examples = step x batch_size. As in big_vision,
the warm-up multiplies the schedule by min(1, examples / warmup_examples): with a warm-up the very first update has rate
zero.
"""

import math

import keras
from keras import ops


class Schedule(keras.optimizers.schedules.LearningRateSchedule):
    """What the schedules share: the peak rate, the length, the warm-up.

    Args:
        learning_rate: the peak rate, also the unit of the paper's decoupled weight decay (see `optimizers`).
        batch_size: examples a step.
        total_examples: where the schedule ends.
        warmup_examples: length of the linear warm-up; 0 for none.
    """

    def __init__(
        self,
        learning_rate: float,
        *,
        batch_size: int,
        total_examples: int,
        warmup_examples: int = 0,
        name: str | None = None,
    ):
        if not 0 <= warmup_examples < total_examples:
            raise ValueError(
                f"warmup_examples must be at least 0 and less than total_examples, got {warmup_examples} of "
                f"{total_examples}. Shorten the warm-up or train on more examples."
            )
        self.learning_rate, self.batch_size = learning_rate, batch_size
        self.total_examples, self.warmup_examples = total_examples, warmup_examples
        self.name = name or type(self).__name__

    def shape(self, examples):
        """The schedule without peak rate and warm-up: a float32 scalar in [0, 1]."""
        raise NotImplementedError

    def __call__(self, step):
        examples = ops.cast(step, "float32") * float(self.batch_size)
        rate = self.learning_rate * self.shape(examples)
        if self.warmup_examples:
            rate = rate * ops.minimum(1.0, examples / float(self.warmup_examples))
        return rate

    def progress(self, examples):
        """Share of the examples after the warm-up, in [0, 1]."""
        length = float(self.total_examples - self.warmup_examples)
        return ops.clip((examples - float(self.warmup_examples)) / length, 0.0, 1.0)

    def get_config(self):
        names = ("learning_rate", "batch_size", "total_examples", "warmup_examples", "name")
        return {name: getattr(self, name) for name in names}


@keras.saving.register_keras_serializable("diptych")
class Cosine(Schedule):
    """½ (1 + cos(π · progress)): from the peak to zero (SigLIP and SigLIP 2)."""

    def shape(self, examples):
        return 0.5 * (1.0 + ops.cos(math.pi * self.progress(examples)))


@keras.saving.register_keras_serializable("diptych")
class Linear(Schedule):
    """1 - progress: from the peak to zero in a straight line."""

    def shape(self, examples):
        return 1.0 - self.progress(examples)


@keras.saving.register_keras_serializable("diptych")
class Part(keras.optimizers.schedules.LearningRateSchedule):
    """The part of a schedule from one place to another, in a number of steps of its own.

    At `first_step` the rate is the whole schedule's at `examples[0]`, `steps` later at `examples[1]`; in between and
    beyond it goes straight through the schedule's examples. So a fork continues a schedule, takes its last part in more
    steps (SigLIP 2's NaFlex models take the last tenth in 3.75 times the examples), or takes smaller batches on the
    way.

    Args:
        whole: a schedule of this module.
        first_step: the optimizer's step at which the part begins.
        steps: optimizer steps that the part takes.
        examples: (begin, end), places in the whole schedule.
    """

    def __init__(self, whole: Schedule, *, first_step: int, steps: int, examples: tuple[float, float]):
        if steps < 1:
            raise ValueError(f"A part of a schedule takes at least one step, got {steps}.")
        self.whole, self.first_step, self.steps = whole, first_step, steps
        self.examples = tuple(examples)

    @property
    def learning_rate(self) -> float:
        """The peak rate."""
        return self.whole.learning_rate

    def __call__(self, step):
        begin, end = self.examples
        batches = ops.cast(step, "float32") - float(self.first_step)
        place = begin / self.whole.batch_size + batches * ((end - begin) / self.whole.batch_size / self.steps)
        return self.whole(place)

    def get_config(self):
        return {
            "whole": keras.optimizers.schedules.serialize(self.whole),
            "first_step": self.first_step,
            "steps": self.steps,
            "examples": list(self.examples),
        }

    @classmethod
    def from_config(cls, config):
        return cls(**{**config, "whole": keras.optimizers.schedules.deserialize(config["whole"])})


@keras.saving.register_keras_serializable("diptych")
class OpenAICosine(Schedule):
    """½ (1 + cos(π x)) of the share x of all examples, after a warm-up that takes its place (OpenAI's `opt.py`): where
    it begins, the cosine has fallen a little already.
    """

    def __call__(self, step):
        examples = ops.cast(step, "float32") * float(self.batch_size)
        falling = 0.5 * (1.0 + ops.cos(math.pi * self._share(examples)))
        if not self.warmup_examples:
            return self.learning_rate * falling
        rising = examples / float(self.warmup_examples)
        return self.learning_rate * ops.where(rising <= 1.0, rising, falling)

    def _share(self, examples):
        return ops.clip(examples / float(self.total_examples), 0.0, 1.0)


@keras.saving.register_keras_serializable("diptych")
class OpenAILinear(Schedule):
    """1 - x of the share x of all examples, times min(1, examples / warmup_examples) (OpenAI's `opt.py`)."""

    def shape(self, examples):
        return 1.0 - ops.clip(examples / float(self.total_examples), 0.0, 1.0)


SCHEDULES = {"cosine": Cosine, "linear": Linear, "openai_cosine": OpenAICosine, "openai_linear": OpenAILinear}
