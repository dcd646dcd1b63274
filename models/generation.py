"""Text from a decoder, token by token: the likeliest, or drawn from the nucleus (Holtzman et al. 2020).

What the decoder knows of earlier tokens is kept in arrays of fixed size. All rows are at the same place at the same
time: while a row is still in its prompt its next token is given, from then on it is chosen. So prompts may differ in
length, shapes are static, and one loop of Keras does for all backends.
"""

from collections.abc import Callable
from typing import Any, Protocol

import keras
import numpy as np
from keras import ops

from diptych.models.parts.initializers import generator

NextLogits = Callable[[Any, Any, Any], tuple[Any, Any]]
"""(tokens int32 `[batch]`, place int32 scalar, caches) -> (float32 logits `[batch, vocabulary]` of the token behind
them, the caches with this place added).
"""


class Decoder(Protocol):
    """What `continue_prompts` asks of a model that predicts one token after the other.

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

    def begin(self, batch, length: int) -> tuple[NextLogits, Any]:
        """A function to be asked for one place after the other, up to `length` of them, and the caches to start with:
        any structure of tensors whose shapes stay.
        """


def continue_prompts(
    decoder: Decoder,
    prompt_ids,
    *,
    steps: int,
    prompt_lengths=None,
    eos_id: int | None = 1,
    temperature: float | None = None,
    top_p: float = 1.0,
    seed: int = 0,
    noise=None,
):
    """The next tokens of each row, int32 `[batch, steps]`, with 0 behind the end.

    Args:
        prompt_ids: int `[batch, prompt]`, tokens to go on from; may have no columns where the decoder has a `start_id`.
        steps: tokens to add; prompt + steps ≤ context_length.
        prompt_lengths: int `[batch]`, how many tokens of a row are its prompt; None for all.
        eos_id: the token after which a row has ended; None for rows that go on.
        temperature: None for the likeliest token; else logits are divided by it and a token is drawn.
        top_p: share of the probability from which tokens are drawn, see `sample_nucleus`.
        seed, noise: draws come from noise `[batch, steps]`, uniform in [0, 1), by default NumPy's for the seed; the
            same noise gives the same tokens on every backend, up to ties.

    On jax each call compiles the loop anew, unless it is part of what is compiled.

    Raises:
        ValueError: for more tokens than there are positions, no token to begin with, and a temperature or top_p that
            is not positive.
    """
    _check(decoder, prompt_ids, steps, temperature, top_p)
    batch, prompt = ops.shape(prompt_ids)[0], prompt_ids.shape[1]
    front = 0 if decoder.start_id is None else 1
    places = front + prompt + steps - 1
    if prompt_lengths is None:
        prompt_lengths = ops.full((batch,), prompt, dtype="int32")
    prompt_lengths = ops.cast(prompt_lengths, "int32")
    if noise is None:
        noise = uniform_noise(prompt_ids.shape[0], steps, seed) if temperature else np.zeros((1, steps), np.float32)
    noise = ops.broadcast_to(ops.convert_to_tensor(noise, "float32"), (batch, steps))

    def choose(logits, number):
        if not temperature:
            return ops.cast(ops.argmax(logits, axis=-1), "int32")
        uniform = ops.take_along_axis(noise, ops.clip(number, 0, steps - 1)[:, None], axis=1)[:, 0]
        return sample_nucleus(logits, uniform, temperature=temperature, top_p=top_p)

    def goes_on(place, tokens, ended, caches):
        return ops.logical_and(place < places, ops.logical_not(ops.all(ended)))

    def step(place, tokens, ended, caches):
        logits, caches = next_logits(ops.take(tokens, place, axis=1), place, caches)
        number = place + 1 - front - prompt_lengths
        given = number < 0
        chosen = ops.where(ended, 0, choose(logits, number))
        token = ops.where(given, ops.take(tokens, place + 1, axis=1), chosen)
        last = number == steps - 1
        if eos_id is not None:
            last = ops.logical_or(last, ops.logical_and(ops.logical_not(given), token == eos_id))
        tokens = ops.slice_update(tokens, (0, place + 1), token[:, None])
        return place + 1, tokens, ops.logical_or(ended, last), caches

    # Nothing of a prompt behind its end, and a column in front for the token that stands before the first.
    known = ops.arange(prompt, dtype="int32")[None, :] < prompt_lengths[:, None]
    tokens = ops.where(known, ops.cast(prompt_ids, "int32"), 0)
    tokens = ops.pad(tokens, ((0, 0), (0, steps)))
    if decoder.start_id is not None:
        tokens = ops.pad(tokens, ((0, 0), (1, 0)), constant_values=decoder.start_id)
    with _constant(decoder.variables):
        next_logits, caches = decoder.begin(batch, places)
        start = (ops.zeros((), "int32"), tokens, ops.zeros((batch,), "bool"), caches)
        _, tokens, _, _ = ops.while_loop(goes_on, step, start)
    columns = prompt_lengths[:, None] + ops.arange(front, front + steps, dtype="int32")[None, :]
    return ops.take_along_axis(tokens, columns, axis=1)


def sample_nucleus(logits, uniform, *, temperature: float, top_p: float):
    """Draws from the most probable tokens: logits `[batch, vocabulary]`, uniform in [0, 1) `[batch]` -> int32
    `[batch]`.

    The nucleus is the smallest set of likeliest tokens whose probabilities reach `top_p` together; there is always one.
    With its probabilities p_1 ≥ p_2 ≥ ... the token drawn is the first k with p_1 + ... + p_k > uniform · Σ p.
    """
    probabilities = ops.softmax(ops.cast(logits, "float32") / temperature, axis=-1)
    uniform = ops.expand_dims(ops.cast(uniform, "float32"), 1)
    order = ops.argsort(-probabilities, axis=-1)
    probabilities = ops.take_along_axis(probabilities, order, axis=1)
    reached = ops.cumsum(probabilities, axis=1)
    inside = ops.cast(reached - probabilities < top_p, "float32")
    mass = ops.sum(probabilities * inside, axis=1, keepdims=True)
    passed = inside * ops.cast(reached <= uniform * mass, "float32")
    size = ops.sum(ops.cast(inside, "int32"), axis=1)
    place = ops.minimum(ops.sum(ops.cast(passed, "int32"), axis=1), size - 1)
    return ops.cast(ops.take_along_axis(order, place[:, None], axis=1)[:, 0], "int32")


def uniform_noise(batch: int, steps: int, seed: int) -> np.ndarray:
    """float32 `[batch, steps]`, uniform in [0, 1), the same on every backend."""
    return generator(f"{seed}/generation").random((batch, steps), dtype="float32")


def _constant(variables) -> keras.StatelessScope:
    """Inside, the weights are constants: eager torch would remember every step for a gradient."""
    return keras.StatelessScope(state_mapping=[(variable, ops.stop_gradient(variable.value)) for variable in variables])


def _check(decoder: Decoder, prompt_ids, steps: int, temperature: float | None, top_p: float) -> None:
    if prompt_ids.shape[1] + steps > decoder.context_length:
        raise ValueError(
            f"There are positions for {decoder.context_length} tokens; a prompt of {prompt_ids.shape[1]} and {steps} "
            "steps need more."
        )
    if decoder.start_id is None and not prompt_ids.shape[1]:
        raise ValueError("This decoder needs a prompt of at least one token: nothing stands in front of its texts.")
    if steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps}.")
    if temperature is not None and not temperature > 0:
        raise ValueError(f"temperature must be positive, or None for the likeliest tokens, got {temperature}.")
    if not 0 < top_p <= 1:
        raise ValueError(f"top_p must be in (0, 1], got {top_p}.")
