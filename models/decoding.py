"""The interface of models that predict one token after the other, and prompts as generation goes through them."""

from collections.abc import Callable
from copy import copy
from typing import Any, NamedTuple, Protocol

import keras
from keras import ops

NextLogits = Callable[[Any, Any, Any], tuple[Any, Any]]
"""(tokens int32 `[batch]`, place int32 scalar, caches) -> (float32 logits `[batch, vocabulary]` of the token behind
them, the caches with this place added).
"""


class Begun(NamedTuple):
    """What generation goes on from.

    Attributes:
        next_logits: to be asked for one place after the other.
        caches: to start with: any structure of tensors whose shapes stay, and whose first axis is that of the texts.
        first: float32 logits `[batch, vocabulary]` of what follows the first place, where they are known already; None
            where `next_logits` is asked for them.
    """

    next_logits: NextLogits
    caches: Any
    first: Any = None


class Decoder(Protocol):
    """What `diptych.models.generation` asks of a model that predicts one token after the other.

    Attributes:
        context_length: the number of places that it has positions for.
        start_id: of the token that stands in front of every text; None where a prompt's first token is the first.
        variables: its weights, constants while tokens are chosen.
    """

    @property
    def context_length(self) -> int: ...

    @property
    def start_id(self) -> int | None: ...

    @property
    def variables(self) -> list[keras.Variable]: ...

    def begin(self, batch, length: int) -> Begun:
        """What up to `length` places of `batch` texts are asked for with. Where the decoder looks at something, `batch`
        may be a multiple of what it looks at, whose texts then follow each other.
        """


def in_precision(function: Callable, layer: keras.layers.Layer) -> Callable:
    """The function, called with a layer's mixed precision as the layer's own call is; itself where there is none, which
    saves eager torch the way through Keras.
    """
    return function if layer.compute_dtype == layer.variable_dtype else InPrecision(function, layer)


class InPrecision(keras.layers.Layer):
    """A function of tensors, called with a layer's mixed precision as the layer's own call is."""

    def __init__(self, function: Callable, layer: keras.layers.Layer):
        super().__init__(dtype=layer.dtype_policy)
        self.function = function

    def call(self, *tensors):
        return self.function(*tensors)


def constant(variables) -> keras.StatelessScope:
    """Inside, the weights are constants: eager torch would remember every step for a gradient."""
    return keras.StatelessScope(state_mapping=[(variable, ops.stop_gradient(variable.value)) for variable in variables])


class Prompts:
    """Texts to go on with, all at the same place at the same time.

    While a text is still in its prompt its next token is given, from then on it is chosen.

    Args:
        prompt_ids, prompt_lengths, steps: of `diptych.models.generation.continue_prompts`.

    Attributes:
        tokens: int32 `[batch, front + prompt + steps]`: nothing of a prompt behind its end, zeros where tokens are to
            be chosen, and a column in front for the token that stands before the first.
        places: how many places are asked for what comes next.

    Raises:
        ValueError: for more tokens than there are positions, and for no token to begin with.
    """

    def __init__(self, decoder: Decoder, prompt_ids, prompt_lengths, steps: int):
        batch, prompt = ops.shape(prompt_ids)[0], prompt_ids.shape[1]
        check_places(decoder, prompt, steps)
        if prompt_lengths is None:
            prompt_lengths = ops.full((batch,), prompt, dtype="int32")
        self._lengths, self._steps = ops.cast(prompt_lengths, "int32"), steps
        self._front = 0 if decoder.start_id is None else 1
        self.places = self._front + prompt + steps - 1
        known = ops.arange(prompt, dtype="int32")[None, :] < self._lengths[:, None]
        tokens = ops.where(known, ops.cast(prompt_ids, "int32"), 0)
        self.tokens = ops.pad(tokens, ((0, 0), (0, steps)))
        if decoder.start_id is not None:
            self.tokens = ops.pad(self.tokens, ((0, 0), (1, 0)), constant_values=decoder.start_id)

    def of_beams(self, beams: int) -> "Prompts":
        """The same with each text several times, one behind the other."""
        repeated = copy(self)
        repeated.tokens, repeated._lengths = (ops.repeat(x, beams, axis=0) for x in (self.tokens, self._lengths))
        return repeated

    def number(self, place):
        """Which of its new tokens each text gets behind a place, int32 `[batch]`; negative where it is given."""
        return place + 1 - self._front - self._lengths

    def chosen(self, tokens):
        """The new tokens of each text, int32 `[batch, steps]`."""
        columns = self._lengths[:, None] + ops.arange(self._front, self._front + self._steps, dtype="int32")[None, :]
        return ops.take_along_axis(tokens, columns, axis=1)


def check_places(decoder: Decoder, prompt: int, steps: int) -> None:
    """ValueError for more tokens than there are positions, and for no token to begin with."""
    if prompt + steps > decoder.context_length:
        raise ValueError(
            f"There are positions for {decoder.context_length} tokens; a prompt of {prompt} and {steps} steps need "
            "more."
        )
    if decoder.start_id is None and not prompt:
        raise ValueError("This decoder needs a prompt of at least one token: nothing stands in front of its texts.")
    if steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps}.")
