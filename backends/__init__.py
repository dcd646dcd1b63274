"""Native hot paths, one room per framework, and the choice among them."""

if __name__ == "backends":
    from diptych.checkout import alias_room

    alias_room(__name__)

from contextlib import AbstractContextManager, nullcontext

from diptych.backends.implementations import IMPLEMENTATIONS, LOSSES, choose_implementation
from diptych.backends.loss import (
    distributed_sigmoid_loss,
    distributed_softmax_contrastive_loss,
    sigmoid_loss,
    sigmoid_loss_and_gradients,
    softmax_contrastive_loss,
    softmax_contrastive_loss_and_gradients,
)
from diptych.backends.processes import join, leave
from diptych.backends.rooms import name, room
from diptych.core.placement import ALONE

__all__ = [
    "IMPLEMENTATIONS",
    "LOSSES",
    "at_rest",
    "choose_implementation",
    "device_name",
    "distributed_sigmoid_loss",
    "distributed_softmax_contrastive_loss",
    "join",
    "leave",
    "name",
    "out_of_memory",
    "product",
    "sigmoid_loss",
    "sigmoid_loss_and_gradients",
    "softmax_contrastive_loss",
    "softmax_contrastive_loss_and_gradients",
    "splits_own_rows",
    "train_step",
]


def train_step(
    model,
    objective,
    optimizer,
    *,
    clip_norm=None,
    ema=None,
    teacher=None,
    micro_batches=1,
    placement=ALONE,
    compiler=None,
):
    """One optimizer step on the current backend: `step(batch) -> logs`.

    The three `TrainStep` classes keep one contract:
      - One forward and one backward pass: value and gradients of the objective's weighted terms. With `micro_batches` =
        k > 1 the batch goes in k pieces, for a k-th of the activations. What compares examples is embedded first
        without gradients, the loss and the gradients of all its embeddings are computed at once, and each piece is
        embedded again to carry them to the weights (Gao et al. 2021, "GradCache"): the same gradient, every pair
        contrasted. Terms whose examples are independent are computed in that second pass alone, and are means over the
        pieces.
      - Before it, `objective.prepare` may choose from the batch, without gradients.
      - Gradients are clipped by their global norm over the trained weights, the optimizer is applied, then the moving
        average and the teacher take in the new weights, the objective's own variables their updates, and untrained
        weights what the forward pass made of them (moving statistics), each piece moving them once.
      - Where the loss or the norm is not finite, nothing changes, the optimizer's counter included.
      - logs holds device scalars: loss, gradient_norm (before clipping), finite, and what the objective adds.
      - Called with `asks`, numbers of this process, logs["asked"] holds the largest that any process asked with in this
        step: so that all learn the same, at no cost, and may stop or save after the same step.
      - `step.synchronize()` copies the step's state back into the Keras variables. Call it before reading
        them: between steps they are stale, and on jax their buffers have been donated. To restore a checkpoint, assign
        the variables; the next step picks them up.
      - `step.held(variables)` gives what this process holds of the state for a checkpoint (`backends.shares.Held`), by
        the names of the variables, without gathering anything.
      - `step.torn` says, after a call that raised, whether the state may lie between two steps: it is not to be saved.
      - `step.compilations` counts the shapes of batches it has been compiled for.

    Args:
        model: a Keras model whose untrained weights have been frozen already.
        objective: see `diptych.core.training.objectives`.
        optimizer: a Keras optimizer; it is built here.
        clip_norm: largest global norm of the gradients, None for no clipping.
        ema: a `diptych.core.training.ema.Ema`, or None.
        teacher: a `diptych.core.training.teacher.EmaTeacher` that the objective reads, or None.
        micro_batches: number of equal pieces; the batch must divide by it.
        placement: a `Placement`; the processes, and the devices of each, share each batch by rows, and each device
            holds all of the state, or with `fsdp` above 1 a share of it. Every process brings its own rows to each
            step, and loss, gradients and logs are those of the whole batch. On torch a process has one device, `fsdp`
            is the number of processes or 1, and with `zero` each has a part of AdamW's slots, averages and teacher; on
            tensorflow there is one process, each of whose devices holds all.
        compiler: on torch, of `torch.compile`, such as "inductor", for forward and backward passes; None for none. The
            other two frameworks compile every step.

    Raises:
        ValueError: there are fewer devices, or the backend is another.
    """
    options = {"clip_norm": clip_norm, "ema": ema, "teacher": teacher, "micro_batches": micro_batches}
    if placement.processes != 1:
        options["processes"] = placement.processes
    if placement.devices != 1:
        if name() == "torch":
            raise ValueError(
                f"A step was to be spread over {placement.devices} devices of a process, which is done on jax and "
                "tensorflow. On torch a process has one device: start as many by torchrun --nproc-per-node."
            )
        options["devices"] = placement.devices
    if placement.fsdp != 1:
        options["fsdp"] = placement.fsdp
    if placement.zero and placement.processes > 1:
        options["zero"] = True
    if compiler is not None and name() == "torch":
        options["compiler"] = compiler
    return room().TrainStep(model, objective, optimizer, **options)


def splits_own_rows() -> bool:
    """Whether each process of a run cuts its own rows into micro-batches, and not all processes those of the batch."""
    return name() == "torch"


def at_rest(placement=ALONE) -> AbstractContextManager:
    """Within the block variables are made and given values where the state of a run lies between steps: on jax, where
    it is spread over devices, in the host's memory, because one device need not hold all of it.
    """
    return room().at_rest() if placement.fsdp > 1 and name() == "jax" else nullcontext()


def product(precision: str):
    """How logits over a large table are computed in a run of this precision, "float32" or "bfloat16": a `Product`."""
    from diptych.core.losses.products import bfloat16_product, float32_product

    return bfloat16_product(room().multiply_bfloat16) if precision == "bfloat16" else float32_product


def device_name() -> str | None:
    """The accelerator that the current backend computes on; None for the CPU."""
    return room().device_name()


def out_of_memory(error: BaseException) -> bool:
    """Whether an error of the current backend says that its device has no memory left."""
    return room().out_of_memory(error)
