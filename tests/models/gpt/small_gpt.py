"""A GPT small enough for every test, with weights and texts in which everything counts."""

import numpy as np

from diptych.models.gpt.config import GPTConfig
from diptych.models.gpt.model import GPT

CONFIG = GPTConfig(width=16, depth=2, mlp_dim=64, num_heads=2, vocab_size=23, context_length=9)
ROWS = 3


def texts(length: int = 9, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, CONFIG.vocab_size, (ROWS, length)).astype("int32")


def gpt_of(config: GPTConfig = CONFIG, *, seed: int = 8, **arguments) -> GPT:
    """A model whose weights are all far from where they start, norms and biases included."""
    return given_values(GPT(config, **arguments), seed=seed)


def given_values(model, *, seed: int):
    """The model with weights that are all far from where they start."""
    rng = np.random.default_rng(seed)
    for variable in model.weights:
        gain = variable.path.endswith("scale")
        scale = 0.3 if "kernel" not in variable.path else 0.5 * variable.shape[0] ** -0.5
        variable.assign(gain + rng.normal(0, scale, variable.shape).astype("float32"))
    return model
