"""Training steps by several gloo processes beside those of one process, in processes of their own, printed as JSON.

`python -m tests.backends.torch.shared_steps PROCESSES CASE ...`
"""

import gc
import json
import os
import sys
import tempfile
from dataclasses import replace
from functools import partial
from typing import Any

os.environ["KERAS_BACKEND"] = "torch"

import numpy as np
import torch
import torch.distributed as dist
import torch.multiprocessing

from diptych import backends
from diptych.backends.torch import reduction
from diptych.core.placement import ALONE, Placement
from diptych.core.training.checkpoint_parts import Pieces, check_whole, joined
from diptych.core.training.ema import Ema
from diptych.core.training.optimizers import AdamW
from tests.backends.spread_steps import CASES, EXAMPLES, differences, every_field, every_loss, trained


def overlapped() -> dict[str, Any]:
    """What a step does in order: gradients that come, and messages."""
    case, events = every_loss(True, pieces=2), []
    originals = dist.all_reduce, reduction.BUCKET_BYTES

    def came(path, gradient):
        events.append(path)

    def all_reduce(tensor, *arguments, async_op=False, **named):
        if async_op:
            events.append(f"send {tensor.numel()}")
        return originals[0](tensor, *arguments, async_op=async_op, **named)

    reduction.BUCKET_BYTES, dist.all_reduce = 2_048, all_reduce
    try:
        placement = Placement(process=dist.get_rank(), processes=dist.get_world_size())
        step = backends.train_step(case.model, case.objective, AdamW(1e-2), micro_batches=2, placement=placement)
        for variable in case.model.trainable_variables:
            variable.value.register_hook(partial(came, variable.path))
        rows = np.concatenate(placement.rows(EXAMPLES, 2))
        for seed in range(2):
            events.clear()
            step({name: array[rows] for name, array in every_field(seed, EXAMPLES).items()})
    finally:
        dist.all_reduce, reduction.BUCKET_BYTES = originals
    return {"events": events, "weights": len(case.model.trainable_variables), "numbers": case.model.count_params()}


def bytes_between_steps(placement: Placement) -> dict[str, int]:
    """Of all tensors that live between two steps on this process, and of the weights where they are whole."""

    def living() -> int:
        gc.collect()
        tensors = [found for found in gc.get_objects() if type(found) in (torch.Tensor, torch.nn.Parameter)]
        return sum({x.untyped_storage().data_ptr(): x.untyped_storage().nbytes() for x in tensors}.values())

    before = living()
    case = every_loss(placement.processes > 1)
    weights = sum(variable.value.nbytes for variable in case.model.variables)
    average = Ema(case.model.trainable_variables, decay=0.9)
    step = backends.train_step(
        case.model, case.objective, AdamW(1e-2), ema=average, teacher=case.teacher, placement=placement
    )
    rows = np.concatenate(placement.rows(EXAMPLES))
    step({name: array[rows] for name, array in every_field(0, EXAMPLES).items()})
    return {"weights": weights, "all": living() - before}


def saved(pieces: Pieces, found: dict[str, dict[str, np.ndarray]]) -> dict[str, Any]:
    """Which tensors the parts of all processes do not give as the state holds them, and how many bytes each writes."""
    parts: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(parts, pieces)
    check_whole(piece for part in parts for piece, _ in part)
    whole = joined(pair for part in parts for pair in part)
    wanted = {(kind, name): array for kind in whole for name, array in found[kind].items()}
    different = [str(key) for key, array in wanted.items() if not np.array_equal(whole[key[0]].get(key[1]), array)]
    return {"different": different, "bytes": [sum(array.nbytes for _, array in part) for part in parts]}


def on_process(process: int, processes: int, names: list[str], store: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{store}/store", rank=process, world_size=processes)
    torch.set_num_threads(1)
    placement = Placement(process=process, processes=processes)
    report: dict[str, Any] = {}
    for name in names:
        right = [trained(CASES[name], ALONE) if process == 0 else None]
        dist.broadcast_object_list(right)
        pieces: Pieces = []
        found = trained(CASES[name], placement, pieces)
        report[name] = differences(right[0], found)
        report[f"{name}, saved"] = saved(pieces, found)
    report["overlap"] = overlapped()
    bytes_between_steps(placement)  # frees what the cases above have left
    report["bytes"] = {
        "whole": bytes_between_steps(placement),
        "spread": bytes_between_steps(replace(placement, zero=processes > 1)),
        "in units": bytes_between_steps(replace(placement, fsdp=processes)),
    }
    gathered: list[Any] = [None] * processes
    dist.all_gather_object(gathered, report)
    if process == 0:
        print(json.dumps(gathered))
    dist.destroy_process_group()


if __name__ == "__main__":
    count, *chosen = sys.argv[1:]
    with tempfile.TemporaryDirectory() as folder:
        arguments = (int(count), chosen or list(CASES), folder)
        torch.multiprocessing.start_processes(on_process, arguments, int(count), start_method="fork")
