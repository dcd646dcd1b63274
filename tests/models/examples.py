"""A model small enough for every test, a batch for it, and its gradients on whichever backend runs."""

import keras
import numpy as np

from diptych.models import SigLIPConfig, TextConfig, VisionConfig

# 10 px in patches of 4: two pixels of each row and column belong to no patch.
TINY_VISION = VisionConfig(width=16, depth=2, mlp_dim=24, num_heads=2, patch_size=4, image_size=10)
TINY_TEXT = TextConfig(width=12, depth=1, mlp_dim=20, num_heads=3, vocab_size=20, context_length=6, embed_dim=16)
TINY = SigLIPConfig(vision=TINY_VISION, text=TINY_TEXT, init_logit_bias=-2.0)

# What is compiled for a single run is compiled fast.
_COMPILE_FAST = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}


def batch_for(config: SigLIPConfig, size: int = 4, seed: int = 0) -> dict[str, np.ndarray]:
    """Random images in [-1, 1] and token ids, as the model takes them."""
    rng = np.random.default_rng(seed)
    side, text = config.vision.image_size, config.text
    return {
        "images": rng.uniform(-1, 1, (size, side, side, 3)).astype("float32"),
        "token_ids": rng.integers(0, text.vocab_size, (size, text.context_length)).astype("int32"),
    }


def numpy_of(x) -> np.ndarray:
    """A backend's tensor as a NumPy array; bfloat16 becomes float32."""
    return keras.ops.convert_to_numpy(keras.ops.cast(x, "float32"))


def forward(model, inputs):
    """model(inputs); on jax as one compiled function, because its eager mode compiles each operation by itself."""
    if keras.config.backend() != "jax":
        return model(inputs)
    import jax

    return jax.jit(lambda x: model(x), compiler_options=_COMPILE_FAST)(inputs)  # a new function: jit remembers weights


def value_and_gradients(function, variables, *, compiled=True):
    """function() -> scalar; -> (value, native gradients in the order of `variables`). On jax compiled, unless told not
    to.
    """
    if keras.config.backend() == "jax":
        return _on_jax(function, variables, compiled)
    return {"torch": _on_torch, "tensorflow": _on_tensorflow}[keras.config.backend()](function, variables)


def _on_jax(function, variables, compiled):
    import jax

    def of_values(values):
        with keras.StatelessScope(state_mapping=list(zip(variables, values, strict=True))):
            return function()

    gradients = jax.value_and_grad(of_values)
    if compiled:
        gradients = jax.jit(gradients, compiler_options=_COMPILE_FAST)
    return gradients([v.value for v in variables])


def _on_torch(function, variables):
    import torch

    value = function()
    return value.detach(), torch.autograd.grad(value, [v.value for v in variables])


def _on_tensorflow(function, variables):
    import tensorflow as tf

    with tf.GradientTape() as tape:
        value = function()
    return value, tape.gradient(value, [v.value for v in variables])
