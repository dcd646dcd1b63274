"""The contrastive losses on jax: what can run where, and the functions behind `diptych.backends`.

sweep                 the B² part, block by block
sigmoid               SigLIP's loss, with XLA's block
softmax               CLIP's loss, with XLA's blocks
pallas_gpu            a block of the sigmoid loss on NVIDIA Hopper
pallas_tpu            a block of the sigmoid loss on TPUs
pallas_gpu_softmax    the softmax loss's blocks by the one for Hopper
pallas_tpu_softmax    the softmax loss's blocks by the one for TPUs
loss                  positives, plans, the derivative rule
distributed           the ring and the gather over a mesh
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial

import jax
import keras
import numpy as np
from jax.sharding import Mesh

from diptych.backends.jax.contrastive.distributed import Axes, ExchangeName, ManyDevices
from diptych.backends.jax.contrastive.loss import OneDevice, PairLoss, Plan, loss_and_gradients_by, loss_by
from diptych.backends.jax.contrastive.sigmoid import SigmoidLoss, SigmoidLossGradients, xla_block
from diptych.backends.jax.contrastive.softmax import SoftmaxLoss, SoftmaxLossGradients, xla_normalisers, xla_weights
from diptych.backends.jax.contrastive.sweep import Block

__all__ = [
    "SigmoidLossGradients",
    "SoftmaxLossGradients",
    "default_device",
    "device_of",
    "distributed_sigmoid_loss",
    "distributed_softmax_contrastive_loss",
    "is_compiling",
    "known_value",
    "obstacle",
    "over",
    "sigmoid_loss",
    "sigmoid_loss_and_gradients",
    "sigmoid_loss_by",
    "softmax_contrastive_loss",
    "softmax_contrastive_loss_and_gradients",
    "softmax_loss_by",
]


def obstacle(implementation: str, *, device: jax.Device, dtype: str) -> str | None:
    """Why an implementation cannot run on embeddings of this dtype on a device; None where it can."""
    if implementation == "pallas_gpu":
        capability = getattr(device, "compute_capability", None)
        if device.platform != "gpu" or capability != "9.0":
            return f"it is for NVIDIA GPUs of compute capability 9.0, and this is {_described(device, capability)}"
        if dtype not in ("bfloat16", "float16"):
            return f"it takes bfloat16 or float16 embeddings, and these are {dtype}"
        if jax.__version_info__ < (0, 10):
            return f"it needs jax 0.10 or newer, and this is {jax.__version__}"
    if implementation == "pallas_tpu":
        if device.platform != "tpu":
            return f"it is for TPUs, and this is {_described(device)}"
        if dtype != "bfloat16":
            return f"it takes bfloat16 embeddings, and these are {dtype}"
    return None


def _described(device, capability=None) -> str:
    return f"{device.device_kind} ({device.platform}{f', {capability}' if capability else ''})"


def sigmoid_loss_by(implementation: str, platform: str) -> SigmoidLoss:
    """The sigmoid loss as an implementation computes its blocks."""
    if implementation == "pallas_gpu":
        from diptych.backends.jax.contrastive import pallas_gpu

        return SigmoidLoss(pallas_gpu.BLOCK)
    if implementation == "pallas_tpu":
        from diptych.backends.jax.contrastive import pallas_tpu

        return SigmoidLoss(pallas_tpu.BLOCK)
    return SigmoidLoss(_xla(xla_block, platform))


def softmax_loss_by(implementation: str, platform: str) -> SoftmaxLoss:
    """The softmax loss as an implementation computes its blocks."""
    if implementation == "pallas_gpu":
        from diptych.backends.jax.contrastive import pallas_gpu_softmax

        return SoftmaxLoss(pallas_gpu_softmax.NORMALISERS, pallas_gpu_softmax.WEIGHTS)
    if implementation == "pallas_tpu":
        from diptych.backends.jax.contrastive import pallas_tpu_softmax

        return SoftmaxLoss(pallas_tpu_softmax.NORMALISERS, pallas_tpu_softmax.WEIGHTS)
    return SoftmaxLoss(_xla(xla_normalisers, platform), _xla(xla_weights, platform, on_cpu=512))


def _xla(compute, platform: str, *, on_cpu: int = 1024) -> Block:
    if platform == "cpu":  # blocks that stay in the cache; processors multiply 16-bit matrices slowly or not at all
        return Block(compute, largest=on_cpu, multiple=8, dtype="float32")
    return Block(compute, largest=8192, multiple=128)


def _loss(by, x, y, *, implementation, offset=0, denominator=None, forward_only=False, **scalars) -> jax.Array:
    """A loss of `diptych.backends` on jax arrays; by: `(implementation, platform)` -> the `PairLoss`."""
    return loss_by(_plan(by, x, y, implementation, offset, denominator), x, y, forward_only=forward_only, **scalars)


def _loss_and_gradients(by, x, y, *, implementation, offset=0, denominator=None, **scalars):
    """The same with its gradients, as the loss's own answer."""
    return loss_and_gradients_by(_plan(by, x, y, implementation, offset, denominator), x, y, **scalars)


def _plan(by, x, y, implementation, offset, denominator) -> Plan:
    """A whole batch goes over all devices of the current `keras.distribution`."""
    loss: PairLoss = by(implementation, device_of(x).platform)
    whole = offset == 0 and x.shape == y.shape and denominator in (None, len(x))
    if whole and (group := current_group()):
        return ManyDevices(loss, *group)
    return OneDevice(loss, offset, denominator or len(x))


def _distributed_loss(
    by,
    x,
    y,
    *,
    implementation,
    group: tuple[Mesh, Axes] | None = None,
    exchange: ExchangeName = "ring",
    gradients: str = "sum",
    forward_only: bool = False,
    **scalars,
) -> jax.Array:
    """A distributed loss of `diptych.backends` on jax arrays that are spread over a mesh."""
    group = group or current_group()
    if group is None:
        raise ValueError(
            "There is no mesh to spread the loss over: expected group=(mesh, axis name), or a keras.distribution of "
            "several devices set before."
        )
    if gradients != "sum":
        raise ValueError(
            f"gradients={gradients!r} has no meaning on jax, where arrays and their gradients are global: expected "
            "'sum'."
        )
    mesh, axis_name = group
    for axis in (axis_name,) if isinstance(axis_name, str) else axis_name:
        if axis not in mesh.shape:
            raise ValueError(f"The mesh has no axis {axis!r}: expected one of {', '.join(map(repr, mesh.axis_names))}.")
    plan = ManyDevices(by(implementation, device_of(x).platform), mesh, axis_name, exchange)
    return loss_by(plan, x, y, forward_only=forward_only, **scalars)


sigmoid_loss = partial(_loss, sigmoid_loss_by)
sigmoid_loss_and_gradients = partial(_loss_and_gradients, sigmoid_loss_by)
distributed_sigmoid_loss = partial(_distributed_loss, sigmoid_loss_by)
softmax_contrastive_loss = partial(_loss, softmax_loss_by)
softmax_contrastive_loss_and_gradients = partial(_loss_and_gradients, softmax_loss_by)
distributed_softmax_contrastive_loss = partial(_distributed_loss, softmax_loss_by)


_GROUP: ContextVar[tuple[Mesh, Axes] | None] = ContextVar("group", default=None)


@contextmanager
def over(mesh: Mesh, axes: Axes) -> Iterator[None]:
    """Within the block the losses of a whole batch go over the devices of these axes."""
    before = _GROUP.set((mesh, axes))
    try:
        yield
    finally:
        _GROUP.reset(before)


def current_group() -> tuple[Mesh, Axes] | None:
    """The mesh and the batch's axes of the block `over` them, or of the current `keras.distribution`; None for one
    device.
    """
    if group := _GROUP.get():
        return group
    distribution = keras.distribution.distribution()
    if distribution is None or distribution.device_mesh is None:
        return None
    mesh = distribution.device_mesh.backend_mesh
    axis_name = distribution.batch_dim_name
    return (mesh, axis_name) if mesh.shape[axis_name] > 1 else None


def default_device() -> jax.Device:
    """The device that jax computes on when nothing else is said."""
    return jax.devices()[0]


def device_of(x) -> jax.Device:
    """A device that holds x; where x is traced, the default one."""
    return default_device() if isinstance(x, jax.core.Tracer) else next(iter(x.devices()))


def is_compiling() -> bool:
    """Whether a message of ours would end up in a compiled program; on jax it is printed when the program is made."""
    return False


def known_value(x, *, wait: bool = False) -> np.ndarray | None:
    """x as NumPy, None where it is traced, or on an accelerator that one would have to wait for."""
    if isinstance(x, jax.core.Tracer):
        return None
    if isinstance(x, jax.Array) and not wait and device_of(x).platform != "cpu":
        return None
    return np.asarray(x)
