"""The device that torch computes on."""

import torch


def device_name() -> str | None:
    """Its name, such as "NVIDIA H200"; None for the CPU."""
    return torch.cuda.get_device_name() if torch.cuda.is_available() else None
