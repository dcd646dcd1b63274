"""The device that jax computes on."""

import jax
import numpy as np
from jax.experimental import multihost_utils

HEARTBEAT_SECONDS = 50
"""After so long without a sign of one process the others end."""


def device_name() -> str | None:
    """Its name, such as "NVIDIA H200" or "TPU v5e"; None for the CPU."""
    device = jax.devices()[0]
    return None if device.platform == "cpu" else device.device_kind


def processes() -> tuple[int, int]:
    """The number of this process, and how many there are (`jax.distributed`)."""
    return jax.process_index(), jax.process_count()


def join(coordinator: tuple[str, int, int] | None = None) -> None:
    """Become one of several processes, before anything is computed.

    Args:
        coordinator: address and port of process 0, the number of processes, and this one's; None for what Slurm, Open
            MPI or a TPU's host says.
    """
    if jax.distributed.is_initialized():
        return
    # jax's service catches SIGTERM beneath Python, which would not see it any more.
    jax.config.update("jax_enable_preemption_service", False)
    # Two programs at a time on several CPU devices may wait for each other's messages.
    jax.config.update("jax_cpu_enable_async_dispatch", False)
    jax.distributed.initialize(*coordinator or (), heartbeat_timeout_seconds=HEARTBEAT_SECONDS)


def gather(said: bytes) -> list[bytes]:
    """What all processes say."""
    lengths = np.asarray(multihost_utils.process_allgather(np.array([len(said)])))[:, 0]
    row = np.frombuffer(said.ljust(int(lengths.max()), b" "), np.uint8)
    rows = np.asarray(multihost_utils.process_allgather(row))
    return [heard[:length].tobytes() for heard, length in zip(rows, lengths, strict=True)]


def out_of_memory(error: BaseException) -> bool:
    """Whether it says that the device has no memory left."""
    return isinstance(error, jax.errors.JaxRuntimeError) and "RESOURCE_EXHAUSTED" in str(error)
