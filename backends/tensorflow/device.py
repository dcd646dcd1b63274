"""The device that tensorflow computes on."""

import tensorflow as tf


def device_name() -> str | None:
    """Its name, such as "NVIDIA H200"; None for the CPU."""
    devices = tf.config.list_physical_devices("GPU")
    return tf.config.experimental.get_device_details(devices[0]).get("device_name", "GPU") if devices else None


def processes() -> tuple[int, int]:
    """The number of this process, and how many there are: one, because steps are not built for `tf.distribute`."""
    return 0, 1


def out_of_memory(error: BaseException) -> bool:
    """Whether it says that the device has no memory left."""
    return isinstance(error, tf.errors.ResourceExhaustedError)
