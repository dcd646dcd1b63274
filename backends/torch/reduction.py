"""Gradients of several processes, reduced once a step in few large messages."""

from collections.abc import Sequence

import torch
import torch.distributed as dist

BUCKET_BYTES = 25 * 1024**2
"""As in `DistributedDataParallel`: large enough for the network, small enough that several are under way."""


def mean_over_processes(gradients: list[torch.Tensor], loss: torch.Tensor) -> torch.Tensor:
    """Replaces each gradient by its mean over the processes, and returns that of the loss.

    Every process must have the gradients in the same order. Messages are flat pieces of one dtype each.
    """
    loss = loss.clone()
    messages = [(flat, parts, dist.all_reduce(flat, async_op=True)) for flat, parts in _flat([*gradients, loss])]
    for flat, parts, sent in messages:
        sent.wait()
        flat /= dist.get_world_size()
        pieces = flat.split([part.numel() for part in parts])
        torch._foreach_copy_(parts, [piece.view_as(part) for piece, part in zip(pieces, parts, strict=True)])
    return loss


def largest_of_processes(numbers: Sequence[float], device: torch.device) -> torch.Tensor:
    """The largest of each number over the processes."""
    largest = torch.tensor(numbers, dtype=torch.float32, device=device)
    dist.all_reduce(largest, op=dist.ReduceOp.MAX)
    return largest


def _flat(tensors: list[torch.Tensor]) -> list[tuple[torch.Tensor, list[torch.Tensor]]]:
    """Pieces of about `BUCKET_BYTES`, each a copy of some tensors of one dtype, one behind the other."""
    groups: dict[torch.dtype, list[list[torch.Tensor]]] = {}
    sizes: dict[torch.dtype, int] = {}
    for tensor in tensors:
        dtype, size = tensor.dtype, tensor.numel() * tensor.element_size()
        if dtype not in groups or sizes[dtype] + size > BUCKET_BYTES:
            groups.setdefault(dtype, []).append([])
            sizes[dtype] = 0
        groups[dtype][-1].append(tensor)
        sizes[dtype] += size
    return [(torch.cat([t.reshape(-1) for t in some]), some) for every in groups.values() for some in every]
