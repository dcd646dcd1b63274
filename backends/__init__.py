"""Native hot paths, one room per framework, and the choice among them."""

if __name__ == "backends":
    from diptych.checkout import alias_room

    alias_room(__name__)

from types import ModuleType

IMPLEMENTATIONS = ("reference",)


def sigmoid_loss(image_embeddings, text_embeddings, *, logit_scale, logit_bias, implementation=None):
    """`diptych.core.losses.contrastive.sigmoid_loss` by the implementation that fits, or by the one named.

    Raises:
        ValueError: for a name that is not in `IMPLEMENTATIONS`.
    """
    chosen = choose_implementation(implementation)
    assert chosen == "reference"
    from diptych.core.losses import contrastive

    return contrastive.sigmoid_loss(image_embeddings, text_embeddings, logit_scale=logit_scale, logit_bias=logit_bias)


def choose_implementation(implementation: str | None = None) -> str:
    """The name of the implementation that `sigmoid_loss` runs; a name that is given is checked, never replaced."""
    if implementation is not None and implementation not in IMPLEMENTATIONS:
        raise ValueError(
            f"Unknown implementation {implementation!r} of the sigmoid loss: expected one of {', '.join(IMPLEMENTATIONS)}, "
            "or None to choose."
        )
    return implementation or IMPLEMENTATIONS[0]


def train_step(model, objective, optimizer, *, clip_norm=None, ema=None, micro_batches=1):
    """One optimizer step on the current backend: `step(batch) -> logs`.

    The three `TrainStep` classes keep one contract:
      - One forward and one backward pass: value and gradients of `objective.loss_of(model, objective.embed(model, batch))`.
        With `micro_batches` = k > 1 the batch is embedded in k pieces without gradients, the loss and the gradients of all
        its embeddings are computed at once, and each piece is embedded again to carry them to the weights (Gao et al.
        2021, "GradCache"): the same gradient, every pair contrasted, a k-th of the activations.
      - Gradients are clipped by their global norm over the trained weights, the optimizer is applied, then the moving
        average takes in the new weights.
      - Where the loss or the norm is not finite, nothing changes, the optimizer's counter included.
      - logs holds device scalars: loss, gradient_norm (before clipping), finite, and what the objective adds.
      - `step.synchronize()` brings the Keras variables of model, optimizer and average up to date; before it they may be
        stale or, on jax, gone. The next call takes their values up again, so restoring a checkpoint is assigning them.

    Args:
        model: a Keras model whose untrained weights have been frozen already.
        objective: see `diptych.core.training.objectives`.
        optimizer: a Keras optimizer; it is built here.
        clip_norm: largest global norm of the gradients, None for no clipping.
        ema: a `diptych.core.training.ema.Ema`, or None.
        micro_batches: number of equal pieces; the batch must divide by it.
    """
    return _room().TrainStep(model, objective, optimizer, clip_norm=clip_norm, ema=ema, micro_batches=micro_batches)


def name() -> str:
    """The current backend: "jax", "torch" or "tensorflow"."""
    import keras

    return keras.config.backend()


def device_name() -> str | None:
    """The accelerator that the current backend computes on; None for the CPU."""
    return _room().device_name()


def _room() -> ModuleType:
    """The current backend's room; the others, and their frameworks, are not imported."""
    match name():
        case "jax":
            from diptych.backends import jax

            return jax
        case "torch":
            from diptych.backends import torch

            return torch
        case "tensorflow":
            from diptych.backends import tensorflow

            return tensorflow
        case other:
            raise ValueError(f"diptych trains on jax, torch or tensorflow; Keras runs on {other!r}.")
