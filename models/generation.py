"""Text from a decoder, token by token: the likeliest, drawn from the nucleus (Holtzman et al. 2020), or by beams.

What the decoder knows of earlier tokens is kept in arrays of fixed size. All rows are at the same place at the same
time: while a row is still in its prompt its next token is given, from then on it is chosen. So prompts may differ in
length, shapes are static, and one loop of Keras does for all backends.
"""

import keras
import numpy as np
from keras import ops

from diptych.models.beam_search import search_beams
from diptych.models.decoding import Decoder, Prompts, constant
from diptych.models.parts.initializers import generator


def continue_prompts(
    decoder: Decoder,
    prompt_ids,
    *,
    steps: int,
    prompt_lengths=None,
    eos_id: int | None = 1,
    temperature: float | None = None,
    top_p: float = 1.0,
    top_k: int | None = None,
    seed: int = 0,
    noise=None,
    beams: int | None = None,
    length_penalty: float = 1.0,
):
    """The next tokens of each row, int32 `[batch, steps]`, with 0 behind the end.

    Args:
        prompt_ids: int `[batch, prompt]`, tokens to go on from; may have no columns where the decoder has a `start_id`.
        steps: tokens to add; prompt + steps ≤ context_length.
        prompt_lengths: int `[batch]`, how many tokens of a row are its prompt; None for all.
        eos_id: the token after which a row has ended; None for rows that go on.
        temperature: None for the likeliest token; else logits are divided by it and a token is drawn.
        top_p, top_k: share of the probability, and number of likeliest tokens, from which tokens are drawn, see
            `sample_nucleus`.
        seed, noise: draws come from noise `[batch, steps]`, uniform in [0, 1), by default NumPy's for the seed; the
            same noise gives the same tokens on every backend, up to ties.
        beams, length_penalty: of `search_beams`, whose best text is returned; None for no search.

    On jax each call compiles the loop anew, unless it is part of what is compiled.

    Raises:
        ValueError: for more tokens than there are positions, no token to begin with, a temperature, top_p, top_k or
            number of beams that is not positive, and for draws and beams at once.
    """
    _check(temperature, top_p, top_k, beams)
    if beams is not None:
        choices = {"prompt_lengths": prompt_lengths, "eos_id": eos_id, "length_penalty": length_penalty}
        return search_beams(decoder, prompt_ids, steps=steps, beams=beams, **choices)[0][:, 0]
    prompts = Prompts(decoder, prompt_ids, prompt_lengths, steps)
    batch = ops.shape(prompt_ids)[0]
    if noise is None:
        noise = uniform_noise(prompt_ids.shape[0], steps, seed) if temperature else np.zeros((1, steps), np.float32)
    noise = ops.broadcast_to(ops.convert_to_tensor(noise, "float32"), (batch, steps))

    def choose(logits, number):
        if not temperature:
            return ops.cast(ops.argmax(logits, axis=-1), "int32")
        uniform = ops.take_along_axis(noise, ops.clip(number, 0, steps - 1)[:, None], axis=1)[:, 0]
        return sample_nucleus(logits, uniform, temperature=temperature, top_p=top_p, top_k=top_k)

    def goes_on(place, tokens, ended, caches):
        return ops.logical_and(place < prompts.places, ops.logical_not(ops.all(ended)))

    def step(place, tokens, ended, caches):
        logits, caches = begun.next_logits(ops.take(tokens, place, axis=1), place, caches)
        return written(logits, place, tokens, ended, caches)

    def written(logits, place, tokens, ended, caches):
        number = prompts.number(place)
        given = number < 0
        chosen = ops.where(ended, 0, choose(logits, number))
        token = ops.where(given, ops.take(tokens, place + 1, axis=1), chosen)
        last = number == steps - 1
        if eos_id is not None:
            last = ops.logical_or(last, ops.logical_and(ops.logical_not(given), token == eos_id))
        tokens = ops.slice_update(tokens, (0, place + 1), token[:, None])
        return place + 1, tokens, ops.logical_or(ended, last), caches

    with constant(decoder.variables):
        begun = decoder.begin(batch, prompts.places)
        start = (ops.zeros((), "int32"), prompts.tokens, ops.zeros((batch,), "bool"), begun.caches)
        if begun.first is not None:
            start = written(begun.first, *start)
        _, tokens, _, _ = ops.while_loop(goes_on, step, start)
    return prompts.chosen(tokens)


class BatchGenerator(keras.Model):
    """Texts for one batch after another: `predict_on_batch` compiles the loop once for each shape of a batch.

    A subclass says by `written` what it makes of a batch's tensors.

    Args:
        model: that writes.
        choices: of `continue_prompts`, `steps` among them.
    """

    def __init__(self, model, *, name: str = "generator", **choices):
        super().__init__(dtype="float32", name=name)  # noise would lose its bits in bfloat16
        self.model, self.choices = model, choices
        self.built = True

    def written(self, batch):
        """The tokens that are written for a batch, int32 `[batch, steps]`."""
        raise NotImplementedError

    def call(self, batch):
        return self.written(batch)

    def get_config(self):
        return {"model": keras.saving.serialize_keras_object(self.model), **self.choices, "name": self.name}

    @classmethod
    def from_config(cls, config, custom_objects=None):
        return cls(**keras.saving.deserialize_keras_object(config, custom_objects=custom_objects))


def sample_nucleus(logits, uniform, *, temperature: float, top_p: float, top_k: int | None = None):
    """Draws from the most probable tokens: logits `[batch, vocabulary]`, uniform in [0, 1) `[batch]` -> int32
    `[batch]`.

    Where `top_k` is given, all but so many likeliest tokens are impossible (Fan et al. 2018). The nucleus is the
    smallest set of likeliest tokens whose probabilities then reach `top_p` together; there is always one. With its
    probabilities p_1 ≥ p_2 ≥ ... the token drawn is the first k with p_1 + ... + p_k > uniform · Σ p.
    """
    probabilities = ops.softmax(ops.cast(logits, "float32") / temperature, axis=-1)
    uniform = ops.expand_dims(ops.cast(uniform, "float32"), 1)
    order = ops.argsort(-probabilities, axis=-1)
    probabilities = ops.take_along_axis(probabilities, order, axis=1)
    if top_k is not None:
        order, probabilities = order[:, :top_k], probabilities[:, :top_k]
        probabilities = probabilities / ops.sum(probabilities, axis=1, keepdims=True)
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


def _check(temperature: float | None, top_p: float, top_k: int | None, beams: int | None) -> None:
    if temperature is not None and not temperature > 0:
        raise ValueError(f"temperature must be positive, or None for the likeliest tokens, got {temperature}.")
    if not 0 < top_p <= 1:
        raise ValueError(f"top_p must be in (0, 1], got {top_p}.")
    if top_k is not None and top_k < 1:
        raise ValueError(f"top_k must be at least 1, or None for all tokens, got {top_k}.")
    if top_k is not None and temperature is None:
        raise ValueError(f"top_k={top_k} says what is drawn from, and nothing is drawn: give a temperature, such as 1.")
    if beams is not None and temperature is not None:
        raise ValueError(f"Tokens are either drawn or searched for: give temperature={temperature} or beams={beams}.")
