"""Captions from a decoder, token by token: the likeliest, or drawn from the nucleus (Holtzman et al. 2020).

Keys and values of the image are projected once, those of earlier tokens are kept in arrays of fixed size. All rows are
at the same place at the same time: while a row is still in its prompt its next token is given, from then on it is
chosen. So prompts may differ in length, shapes are static, and one loop of Keras does for all backends.
"""

import keras
import numpy as np
from keras import ops

from diptych.models.captioner.model import Captioner
from diptych.models.parts.initializers import generator


def generate(
    captioner: Captioner,
    encoder_tokens,
    prompt_ids,
    *,
    steps: int,
    prompt_lengths=None,
    encoder_mask=None,
    eos_id: int | None = 1,
    temperature: float | None = None,
    top_p: float = 1.0,
    seed: int = 0,
    noise=None,
):
    """The next tokens of each row, int32 `[batch, steps]`, with 0 behind the end.

    Args:
        encoder_tokens: `[batch, image tokens, encoder_width]`.
        prompt_ids: int `[batch, prompt]`, tokens to go on from; may have no columns.
        steps: tokens to add; prompt + steps ≤ context_length.
        prompt_lengths: int `[batch]`, how many tokens of a row are its prompt; None for all.
        encoder_mask: bool `[batch, image tokens]`, False for padding.
        eos_id: the token after which a row has ended; None for rows that go on.
        temperature: None for the likeliest token; else logits are divided by it and a token is drawn.
        top_p: share of the probability from which tokens are drawn, see `sample_nucleus`.
        seed, noise: draws come from noise `[batch, steps]`, uniform in [0, 1), by default NumPy's for the seed; the
            same noise gives the same tokens on every backend, up to ties.

    On jax each call compiles the loop anew; `Generator` keeps it.

    Raises:
        ValueError: for more tokens than there are positions, and for a temperature or top_p that is not positive.
    """
    _check(captioner, prompt_ids, steps, temperature, top_p)
    encoder_tokens = ops.stop_gradient(ops.convert_to_tensor(encoder_tokens))
    batch, prompt = ops.shape(prompt_ids)[0], prompt_ids.shape[1]
    length = prompt + steps
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
        return ops.logical_and(place < length, ops.logical_not(ops.all(ended)))

    def step(place, tokens, ended, caches):
        logits, caches = next_logits(ops.take(tokens, place, axis=1), place, caches)
        number = place - prompt_lengths
        given = number < 0
        chosen = ops.where(ended, 0, choose(logits, number))
        token = ops.where(given, ops.take(tokens, place + 1, axis=1), chosen)
        last = number == steps - 1
        if eos_id is not None:
            last = ops.logical_or(last, ops.logical_and(ops.logical_not(given), token == eos_id))
        tokens = ops.slice_update(tokens, (0, place + 1), token[:, None])
        return place + 1, tokens, ops.logical_or(ended, last), caches

    # One column in front for the padding that stands before the first token, and nothing of a prompt behind its end.
    known = ops.arange(prompt, dtype="int32")[None, :] < prompt_lengths[:, None]
    tokens = ops.where(known, ops.cast(prompt_ids, "int32"), 0)
    tokens = ops.pad(tokens, ((0, 0), (1, steps)))
    with _constant_weights(captioner):
        next_logits, caches = cached_decoder(captioner, encoder_tokens, encoder_mask=encoder_mask, length=length)
        start = (ops.zeros((), "int32"), tokens, ops.zeros((batch,), "bool"), caches)
        _, tokens, _, _ = ops.while_loop(goes_on, step, start)
    columns = prompt_lengths[:, None] + ops.arange(1, steps + 1, dtype="int32")[None, :]
    return ops.take_along_axis(tokens, columns, axis=1)


@keras.saving.register_keras_serializable("diptych")
class Generator(keras.Model):
    """`generate` for one batch after another: `predict_on_batch` compiles it once for each shape.

    >>> generator = Generator(captioner, steps=16)
    >>> generator.predict_on_batch({"encoder_tokens": tokens, "prompt_ids": prompts, "prompt_lengths": lengths})

    Args:
        captioner, steps, eos_id, temperature, top_p: of `generate`; its tensors come in the batch, by name:
            encoder_tokens and prompt_ids, and where wanted prompt_lengths, encoder_mask and, for draws, noise.
    """

    def __init__(
        self,
        captioner: Captioner,
        *,
        steps: int,
        eos_id: int | None = 1,
        temperature: float | None = None,
        top_p: float = 1.0,
        name: str = "generator",
    ):
        super().__init__(dtype="float32", name=name)  # noise would lose its bits in bfloat16
        self.captioner = captioner
        self.choices = {"steps": steps, "eos_id": eos_id, "temperature": temperature, "top_p": top_p}
        self.built = True

    def call(self, batch):
        return generate(self.captioner, **batch, **self.choices)

    def get_config(self):
        captioner = keras.saving.serialize_keras_object(self.captioner)
        return {"captioner": captioner, **self.choices, "name": self.name}

    @classmethod
    def from_config(cls, config, custom_objects=None):
        return cls(**keras.saving.deserialize_keras_object(config, custom_objects=custom_objects))


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


def cached_decoder(captioner: Captioner, encoder_tokens, *, encoder_mask=None, length: int):
    """A decoder that is asked for one place after the other, for sequences of up to `length` tokens.

    Returns:
        `next_logits(tokens, place, caches) -> (logits, caches)`, see `Captioner.step`, and the caches to start with.
    """
    encoder_tokens = ops.convert_to_tensor(encoder_tokens)
    images = _Scope(captioner.image_keys_values, captioner)(encoder_tokens)
    next_logits = _Scope(
        lambda tokens, place, caches: captioner.step(tokens, place, caches, images, encoder_mask), captioner
    )
    config = captioner.config
    shape = (ops.shape(encoder_tokens)[0], length, config.num_heads, config.width // config.num_heads)
    empty = [ops.zeros(shape, captioner.compute_dtype) for _ in range(2 * config.depth)]
    return next_logits, tuple(zip(empty[::2], empty[1::2], strict=True))


def _constant_weights(captioner: Captioner):
    """Inside, the weights are constants: eager torch would remember every step for a gradient."""
    return keras.StatelessScope(
        state_mapping=[(variable, ops.stop_gradient(variable.value)) for variable in captioner.variables]
    )


class _Scope(keras.layers.Layer):
    """A function of tensors, called with the captioner's mixed precision as its own call is."""

    def __init__(self, function, captioner: Captioner):
        super().__init__(dtype=captioner.dtype_policy)
        self.function = function

    def call(self, *tensors):
        return self.function(*tensors)


def _check(captioner, prompt_ids, steps, temperature, top_p) -> None:
    places = captioner.config.context_length
    if prompt_ids.shape[1] + steps > places:
        raise ValueError(
            f"The captioner has positions for {places} tokens; a prompt of {prompt_ids.shape[1]} and {steps} steps "
            "need more."
        )
    if steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps}.")
    if temperature is not None and not temperature > 0:
        raise ValueError(f"temperature must be positive, or None for the likeliest tokens, got {temperature}.")
    if not 0 < top_p <= 1:
        raise ValueError(f"top_p must be in (0, 1], got {top_p}.")
