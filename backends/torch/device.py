"""The device that torch computes on."""

import datetime
from collections.abc import Mapping

import torch
import torch.distributed as dist

PATIENCE = datetime.timedelta(minutes=30)
"""How long processes wait for each other: one may evaluate or write meanwhile."""


def device_name() -> str | None:
    """Its name, such as "NVIDIA H200"; None for the CPU."""
    return torch.cuda.get_device_name() if torch.cuda.is_available() else None


def processes() -> tuple[int, int]:
    """The number of this process, and how many there are (`torch.distributed`)."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return 0, 1
    return torch.distributed.get_rank(), torch.distributed.get_world_size()


def join(environment: Mapping[str, str]) -> None:
    """Become one of the processes that torchrun started, as its variables say. Those with GPUs take one each and talk
    by NCCL, others by gloo.
    """
    if dist.is_initialized():
        return
    rank, ranks = int(environment["RANK"]), int(environment["WORLD_SIZE"])
    if gpu := torch.cuda.is_available():
        torch.cuda.set_device(int(environment["LOCAL_RANK"]))
    # torchrun's agent keeps the addresses of processes that have died; a restart must not find them.
    agent = dist.TCPStore(environment["MASTER_ADDR"], int(environment["MASTER_PORT"]), is_master=False)
    attempt = dist.PrefixStore(f"attempt-{environment.get('TORCHELASTIC_RESTART_COUNT', '0')}", agent)
    dist.init_process_group("nccl" if gpu else "gloo", store=attempt, rank=rank, world_size=ranks, timeout=PATIENCE)


_hosts: list[dist.ProcessGroup] = []


def gather(said: bytes) -> list[bytes]:
    """What all processes say, from host to host, whatever their devices do meanwhile."""
    if not _hosts:
        _hosts.append(dist.new_group(backend="gloo", timeout=PATIENCE))
    heard = [b""] * dist.get_world_size()
    dist.all_gather_object(heard, said, group=_hosts[0])
    return heard


def leave() -> None:
    """End what `join` began: a group that lives until the interpreter ends can take the process down with it."""
    if dist.is_initialized():
        _hosts.clear()
        dist.destroy_process_group()


def out_of_memory(error: BaseException) -> bool:
    """Whether it says that the device has no memory left."""
    return isinstance(error, torch.OutOfMemoryError)
