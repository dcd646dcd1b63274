"""The captioning decoder of the backend that runs here, on NumPy arrays."""

import json

import keras
import numpy as np

from diptych.core.losses.captioning import captioning_loss, chunked_cross_entropy, combine_tasks, tasks_present
from diptych.models.captioner.generation import generate
from diptych.models.captioner.model import Captioner
from tests.models.examples import forward, value_and_gradients

TOKENS_PER_CHUNK = 8
_KEPT: dict[str, Captioner] = {}


def initial_weights(*, config: dict, seed: int) -> dict[str, np.ndarray]:
    """The weights of a captioner fresh from its initialisers."""
    captioner = Captioner(config, seed=seed)
    return {name: _array(variable.value) for name, variable in captioner.named_weights().items()}


def evaluate(*, config: dict, weights: dict, batch: dict, dtype: str, rematerialize: bool) -> dict[str, np.ndarray]:
    """Features, losses, the loss and all gradients, by the names of the oracle's `Answer.named()`."""
    captioner = _captioner(config, weights, dtype=dtype, rematerialize=rematerialize)
    image = keras.Variable(batch["encoder_tokens"])
    named = captioner.named_weights()
    token_ids = batch["token_ids"]

    def features_and_losses(_=None):
        hidden = captioner(token_ids, image.value, parallel=batch["parallel"], encoder_mask=batch["encoder_mask"])
        token_losses = chunked_cross_entropy(
            keras.ops.reshape(hidden, (-1, config["width"])),
            captioner.logits_kernel,
            captioner.logits_bias,
            token_ids.reshape(-1),
            tokens_per_chunk=TOKENS_PER_CHUNK,
        )
        return hidden, captioning_loss(keras.ops.reshape(token_losses, token_ids.shape), batch["weights"])

    def loss():
        return keras.ops.mean(combine_tasks(features_and_losses()[1], tasks_present(batch["weights"])))

    value, gradients = value_and_gradients(loss, [*named.values(), image])
    hidden, losses = forward(features_and_losses, batch)
    values = {"hidden": _array(hidden), "losses": _array(losses), "loss": _array(value)}
    return values | dict(zip([*named, "gradient/encoder_tokens"], map(_array, gradients), strict=True))


def tokens(*, config: dict, weights: dict, batch: dict, **choices) -> np.ndarray:
    """What `generate` makes of a batch of its arguments."""
    return _array(generate(_captioner(config, weights), **batch, **choices)).astype("int32")


def _captioner(config, weights, *, dtype="float32", rematerialize=False):
    key = json.dumps([config, dtype, rematerialize], sort_keys=True)
    if key not in _KEPT:
        _KEPT.clear()
        _KEPT[key] = Captioner(config, dtype=dtype, rematerialize=rematerialize)
    named = _KEPT[key].named_weights()
    if set(named) != set(weights):
        raise ValueError(f"Weights and captioner differ in {sorted(set(named) ^ set(weights))}.")
    for name, variable in named.items():
        variable.assign(np.array(weights[name]))
    return _KEPT[key]


def _array(value) -> np.ndarray:
    return np.array(keras.ops.convert_to_numpy(keras.ops.cast(value, "float32")))
