"""The contrastive losses across three gloo ranks, in a process of its own, printed as JSON."""

import json
import os
import tempfile
from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any

os.environ["KERAS_BACKEND"] = "torch"

import torch
import torch.distributed as dist
import torch.multiprocessing

from diptych.backends.cases import Case
from diptych.backends.torch import contrastive as native
from diptych.backends.torch.contrastive import loss as loss_module

RANKS = 3
CASE = Case(images=132, texts=132, width=24, logit_scale=12.0, logit_bias=-4.0)
COLLECTIVES = (
    "batch_isend_irecv",
    "all_gather_into_tensor",
    "all_reduce",
    "all_to_all_single",
    "reduce_scatter_tensor",
)
SCALARS = {
    "sigmoid_loss": {"logit_scale": CASE.logit_scale, "logit_bias": CASE.logit_bias},
    "softmax_contrastive_loss": {"logit_scale": CASE.logit_scale},
}


def arguments(loss: str, rows=slice(None)):
    tensors = [torch.from_numpy(array)[rows].clone() for array in CASE.draw()]
    tensors += [torch.tensor(value) for value in SCALARS[loss].values()]
    return [tensor.requires_grad_() for tensor in tensors]


def value_and_gradients(name: str, x, y, *scalars, **options):
    """Of a function of the room."""
    named = dict(zip(("logit_scale", "logit_bias"), scalars, strict=False))
    loss = getattr(native, name)(x, y, **named, implementation="blocked", **options)
    return [loss.detach(), *torch.autograd.grad(loss, (x, y, *scalars))]


def errors(got, right) -> list[float]:
    return [float((a - b).norm() / b.norm()) for a, b in zip(got, right, strict=True)]


class Request:
    """A request that tells when it is waited for."""

    def __init__(self, request, name: str, events: list[str]):
        self.request, self.name, self.events = request, name, events

    def wait(self):
        self.events.append(f"wait for {self.name}")
        self.request.wait()


def traced(loss: str, function: Callable[[], Any]):
    """-> the function's result, and the order of what it does: collectives, sweeps, and waiting for what was sent."""
    events: list[str] = []
    originals = {name: getattr(dist, name) for name in COLLECTIVES}
    implementations = loss_module.LOSSES[loss].implementations
    blocked = implementations["blocked"]

    def collective(name):
        def call(*positional, **named):
            events.append(name)
            return originals[name](*positional, **named)

        return call

    def exchange(operations):
        sent = "gradient" if operations[0].tensor.dtype == torch.float32 else "texts"
        events.append(f"send {sent}")
        first, *others = originals["batch_isend_irecv"](operations)
        return [Request(first, sent, events), *others]

    def sweep(original):
        def call(*positional, **named):
            events.append("sweep in less room" if named.get("left_free") else "sweep")
            return original(*positional, **named)

        return call

    sweeps = {field.name: getattr(blocked, field.name) for field in fields(blocked) if field.name != "finish"}
    for name in COLLECTIVES:
        setattr(dist, name, exchange if name == "batch_isend_irecv" else collective(name))
    implementations["blocked"] = replace(blocked, **{name: sweep(original) for name, original in sweeps.items()})
    try:
        return function(), events
    finally:
        implementations["blocked"] = blocked
        for name, original in originals.items():
            setattr(dist, name, original)


def in_sixteen_bits(tensors):
    """Texts of another dtype than what is added up for them, so that a trace can tell them apart."""
    x, y, *scalars = (tensor.detach() for tensor in tensors)
    return [tensor.requires_grad_() for tensor in (x.bfloat16(), y.bfloat16(), *scalars)]


def refusal(function) -> str:
    try:
        function()
    except (ValueError, RuntimeError) as error:
        return str(error)
    return "accepted"


def on_rank(rank: int, store: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{store}/store", rank=rank, world_size=RANKS)
    torch.set_num_threads(1)
    report = {loss: report_of(loss, rank) for loss in SCALARS}
    gathered = [None] * RANKS
    dist.all_gather_object(gathered, report)
    if rank == 0:
        print(json.dumps(gathered))
    dist.destroy_process_group()


def report_of(loss: str, rank: int) -> dict:
    rows = slice(rank * 44, rank * 44 + 44)
    spread = f"distributed_{loss}"
    value, *gradients = value_and_gradients(loss, *arguments(loss))
    right = [value, gradients[0][rows], gradients[1][rows], *gradients[2:]]
    report: dict[str, Any] = {}
    for exchange in ("ring", "gather"):
        part = value_and_gradients(spread, *arguments(loss, rows), exchange=exchange)
        in_bits = in_sixteen_bits(arguments(loss, rows))
        _, events = traced(
            loss,
            lambda exchange=exchange, in_bits=in_bits: value_and_gradients(spread, *in_bits, exchange=exchange),
        )
        with torch.autocast("cpu", dtype=torch.bfloat16):
            autocast = value_and_gradients(spread, *arguments(loss, rows), exchange=exchange)
        mean = value_and_gradients(spread, *arguments(loss, rows), exchange=exchange, gradients="mean")
        whole = [each.clone() for each in part]
        for each in whole[3:]:
            dist.all_reduce(each)
        with torch.no_grad():
            x, y = (a.detach() for a in arguments(loss, rows)[:2])
            options = {"implementation": "blocked", "exchange": exchange}
            forward = getattr(native, spread)(x, y, **SCALARS[loss], **options)
        report[exchange] = {
            "errors": errors(whole, right),
            "mean_errors": errors(mean[1:], [RANKS * gradient for gradient in part[1:]]),
            "forward_error": errors([forward], [right[0]])[0],
            "autocast_changes": [not torch.equal(a, b) for a, b in zip(autocast, part, strict=True)],
            "events": events,
        }
    pair = dist.new_group([1, 2])
    if rank > 0:
        half = slice((rank - 1) * 20, rank * 20)
        got = value_and_gradients(spread, *arguments(loss, half), group=pair)[:3]
        forty = value_and_gradients(loss, *arguments(loss, slice(0, 40)))
        report["subgroup"] = errors(got, [forty[0], forty[1][half], forty[2][half]])
    uneven = arguments(loss, slice(0, 10 + rank))
    report["uneven"] = refusal(lambda: value_and_gradients(spread, *uneven))

    def twice():
        x, y, *_ = arguments(loss, rows)
        value = getattr(native, spread)(x, y, **SCALARS[loss], implementation="blocked")
        torch.autograd.grad(value, x, create_graph=True)[0].sum().backward()

    report["twice"] = refusal(twice)
    return report


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        torch.multiprocessing.start_processes(on_rank, (folder,), RANKS, start_method="fork")
