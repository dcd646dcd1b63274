"""The device that torch computes on."""

import torch


def device_name() -> str | None:
    """Its name, such as "NVIDIA H200"; None for the CPU."""
    return torch.cuda.get_device_name() if torch.cuda.is_available() else None


def processes() -> tuple[int, int]:
    """The number of this process, and how many there are (`torch.distributed`)."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return 0, 1
    return torch.distributed.get_rank(), torch.distributed.get_world_size()


def out_of_memory(error: BaseException) -> bool:
    """Whether it says that the device has no memory left."""
    return isinstance(error, torch.OutOfMemoryError)
