"""The device that tensorflow computes on."""

import contextlib

import tensorflow as tf


def device_name() -> str | None:
    """Its name, such as "NVIDIA H200"; None for the CPU."""
    devices = tf.config.list_physical_devices("GPU")
    return tf.config.experimental.get_device_details(devices[0]).get("device_name", "GPU") if devices else None


def devices_here() -> list[tf.config.LogicalDevice]:
    """Those that a step may be spread over: all GPUs, or where there is none, the parts of the CPU."""
    return tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")


def divide_cpu(devices: int) -> None:
    """Makes several logical devices of the CPU, where there is no GPU and tensorflow has computed nothing yet."""
    if tf.config.list_physical_devices("GPU"):
        return
    processor = tf.config.list_physical_devices("CPU")[0]
    with contextlib.suppress(RuntimeError):  # tensorflow is running, with the devices that it has
        tf.config.set_logical_device_configuration(processor, [tf.config.LogicalDeviceConfiguration()] * devices)


def processes() -> tuple[int, int]:
    """The number of this process, and how many there are: one, because replicas are those of one machine."""
    return 0, 1


def out_of_memory(error: BaseException) -> bool:
    """Whether it says that the device has no memory left."""
    return isinstance(error, tf.errors.ResourceExhaustedError)
