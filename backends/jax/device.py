"""The device that jax computes on."""

import jax


def device_name() -> str | None:
    """Its name, such as "NVIDIA H200" or "TPU v5e"; None for the CPU."""
    device = jax.devices()[0]
    return None if device.platform == "cpu" else device.device_kind


def processes() -> tuple[int, int]:
    """The number of this process, and how many there are (`jax.distributed`)."""
    return jax.process_index(), jax.process_count()


def out_of_memory(error: BaseException) -> bool:
    """Whether it says that the device has no memory left."""
    return isinstance(error, jax.errors.JaxRuntimeError) and "RESOURCE_EXHAUSTED" in str(error)
