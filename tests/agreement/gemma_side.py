"""Gemma and PaliGemma of the backend that runs here, on NumPy arrays."""

import numpy as np
from keras import ops

from diptych.models import Gemma, PaliGemma
from tests.models.examples import forward, numpy_of, value_and_gradients

_KEPT: dict[str, Gemma | PaliGemma] = {}


def evaluate(*, folder: str, pictures: int, batch: dict[str, np.ndarray]) -> dict:
    """Of a checkpoint: logits `[batch, length, predicted ids]`, the mean loss of the batch's counted tokens, and its
    gradients by path.
    """
    model = _model(folder, pictures)

    def losses(_=None):
        weights = ops.cast(batch["weights"][:, 1:], "float32")
        if isinstance(model, Gemma):
            found = model.token_losses(batch["token_ids"], token_mask=batch["token_mask"])
        else:
            found = model.token_losses(_inputs(batch))
        return ops.sum(found * weights) / ops.sum(weights)

    def logits(_=None):
        if isinstance(model, Gemma):
            return model.logits(model.features(batch["token_ids"], batch["token_mask"]))
        return model.logits(model(_inputs(batch))["tokens"])

    value, gradients = value_and_gradients(losses, model.trainable_variables)
    paths = [variable.path for variable in model.trainable_variables]
    return {
        "logits": numpy_of(forward(logits, batch)),
        "loss": float(numpy_of(value)),
        "gradients": dict(zip(paths, map(numpy_of, gradients), strict=True)),
    }


def tokens(*, folder: str, pictures: int, batch: dict[str, np.ndarray], steps: int) -> np.ndarray:
    """The likeliest tokens behind prompts, int `[batch, steps]`; those of a Gemma are not padded in front."""
    model = _model(folder, pictures)
    lengths = batch["token_mask"].sum(axis=1).astype("int32")

    def found(given):
        if isinstance(model, Gemma):
            return model.generate(given["token_ids"], prompt_lengths=lengths, steps=steps, eos_id=None)
        return model.generate(given["images"], given["token_ids"], given["token_mask"], steps=steps, eos_id=None)

    return numpy_of(forward(found, batch))


def _model(folder: str, pictures: int) -> Gemma | PaliGemma:
    if folder not in _KEPT:
        _KEPT.clear()
        _KEPT[folder] = PaliGemma.from_preset(folder, pictures=pictures) if pictures else Gemma.from_preset(folder)
    return _KEPT[folder]


def _inputs(batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name: batch[name] for name in ("images", "token_ids", "token_mask", "suffix_mask")}
