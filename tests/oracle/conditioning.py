"""The growth of an error on its way to a result: the condition of outputs, loss and gradients.

A stable computation returns the exact result for inputs that are off by a few roundings each. So its error is that
backward error times the condition number, which the oracle measures by nudging, by a relative 1e-6 N(0, 1), every
weight and, for each example on its own, what enters the encoders. Weights alone would not do: they move alike examples
alike, and a contrastive gradient lives on what tells examples apart.
"""

import numpy as np

from tests.oracle.siglip import Answer, siglip

NUDGE = 1e-6
NUDGES = 3


def conditions(config, weights, batch, answer: Answer, *, loss: str = "sigmoid", seed: int = 0) -> dict[str, float]:
    """name -> ‖change‖ / (1e-6 ‖value‖), root mean square over three nudges; 0 where the value is 0.

    Names are "image_embedding", "text_embedding", "loss" and the paths of the weights for their gradients.
    """
    rng = np.random.default_rng(seed)
    values, total = answer.named(), {}
    for _ in range(NUDGES):
        nudged = {path: value * _nudge(rng, value.shape) for path, value in weights.items()}
        images, captions, _ = batch["text"].shape
        nudges = {
            "image_nudge": _nudge(rng, (images, 1, config["vision"]["width"])),
            "text_nudge": _nudge(rng, (images * captions, 1, config["text"]["width"])),
        }
        for name, value in siglip(config, nudged, batch, loss=loss, **nudges).named().items():
            total[name] = total.get(name, 0.0) + np.square(value - values[name]).sum()
    norms = {name: np.linalg.norm(value) for name, value in values.items()}
    return {
        name: float(np.sqrt(square / NUDGES) / (NUDGE * norms[name])) if norms[name] else 0.0
        for name, square in total.items()
    }


def _nudge(rng, shape):
    return 1.0 + NUDGE * rng.standard_normal(shape)
