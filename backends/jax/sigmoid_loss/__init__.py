"""The sigmoid loss on jax: what can run where, and the functions behind `diptych.backends.sigmoid_loss`.

sweep         the B² part, block by block; XLA's block
pallas_gpu    a block on NVIDIA Hopper
pallas_tpu    a block on TPUs
loss          value, gradients, the derivative rule
distributed   the ring and the gather over a mesh
"""

import jax
import keras
import numpy as np
from jax.sharding import Mesh

from diptych.backends.jax.sigmoid_loss.distributed import Exchange, ManyDevices
from diptych.backends.jax.sigmoid_loss.loss import OneDevice, SigmoidLossGradients, loss_and_gradients_by, loss_by
from diptych.backends.jax.sigmoid_loss.sweep import Block, xla_block

__all__ = [
    "SigmoidLossGradients",
    "block_of",
    "default_device",
    "device_of",
    "distributed_sigmoid_loss",
    "is_compiling",
    "known_value",
    "obstacle",
    "sigmoid_loss",
    "sigmoid_loss_and_gradients",
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


def block_of(implementation: str, platform: str) -> Block:
    """How the implementation computes a block of pairs."""
    if implementation == "pallas_gpu":
        from diptych.backends.jax.sigmoid_loss import pallas_gpu

        return pallas_gpu.BLOCK
    if implementation == "pallas_tpu":
        from diptych.backends.jax.sigmoid_loss import pallas_tpu

        return pallas_tpu.BLOCK
    if platform == "cpu":  # blocks that stay in the cache; processors multiply 16-bit matrices slowly or not at all
        return Block(xla_block, largest=1024, multiple=8, dtype="float32")
    return Block(xla_block, largest=8192, multiple=128)


def sigmoid_loss(
    x, y, *, logit_scale, logit_bias, implementation, offset=0, denominator=None, forward_only=False
) -> jax.Array:
    """`diptych.backends.sigmoid_loss` on jax arrays."""
    plan = _plan(x, y, implementation, offset, denominator)
    return loss_by(plan, x, y, logit_scale, logit_bias, forward_only=forward_only)


def sigmoid_loss_and_gradients(
    x, y, *, logit_scale, logit_bias, implementation, offset=0, denominator=None
) -> SigmoidLossGradients:
    """`diptych.backends.sigmoid_loss_and_gradients` on jax arrays."""
    plan = _plan(x, y, implementation, offset, denominator)
    return loss_and_gradients_by(plan, x, y, logit_scale, logit_bias)


def _plan(x, y, implementation, offset, denominator) -> OneDevice | ManyDevices:
    """A whole batch goes over all devices of the current `keras.distribution`."""
    block = block_of(implementation, device_of(x).platform)
    whole = offset == 0 and x.shape == y.shape and denominator in (None, len(x))
    if whole and (group := current_group()):
        return ManyDevices(block, *group)
    return OneDevice(block, offset, denominator or len(x))


def distributed_sigmoid_loss(
    x,
    y,
    *,
    logit_scale,
    logit_bias,
    implementation,
    group: tuple[Mesh, str] | None = None,
    exchange: Exchange = "ring",
    gradients: str = "sum",
    forward_only: bool = False,
) -> jax.Array:
    """`diptych.backends.distributed_sigmoid_loss` on jax arrays that are spread over a mesh."""
    group = group or current_group()
    if group is None:
        raise ValueError(
            "There is no mesh to spread the sigmoid loss over: expected group=(mesh, axis name), or a "
            "keras.distribution of several devices set before."
        )
    if gradients != "sum":
        raise ValueError(
            f"gradients={gradients!r} has no meaning on jax, where arrays and their gradients are global: expected "
            "'sum'."
        )
    mesh, axis_name = group
    if axis_name not in mesh.shape:
        raise ValueError(
            f"The mesh has no axis {axis_name!r}: expected one of {', '.join(map(repr, mesh.axis_names))}."
        )
    plan = ManyDevices(block_of(implementation, device_of(x).platform), mesh, axis_name, exchange)
    return loss_by(plan, x, y, logit_scale, logit_bias, forward_only=forward_only)


def current_group() -> tuple[Mesh, str] | None:
    """The mesh and the batch's axis of the current `keras.distribution`; None for one device."""
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
