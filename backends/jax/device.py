"""The device that jax computes on."""

import jax


def device_name() -> str | None:
    """Its name, such as "NVIDIA H200" or "TPU v5e"; None for the CPU."""
    device = jax.devices()[0]
    return None if device.platform == "cpu" else device.device_kind


def processes() -> tuple[int, int]:
    """The number of this process, and how many there are (`jax.distributed`)."""
    return jax.process_index(), jax.process_count()
