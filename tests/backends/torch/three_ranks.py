"""The sigmoid loss across three gloo ranks, in a process of its own, printed as JSON."""

import json
import os
import tempfile

os.environ["KERAS_BACKEND"] = "torch"

import torch
import torch.distributed as dist
import torch.multiprocessing

from diptych.backends.cases import Case
from diptych.backends.torch import sigmoid_loss as native
from diptych.backends.torch.sigmoid_loss import loss as loss_module

RANKS = 3
CASE = Case(images=132, texts=132, width=24, logit_scale=12.0, logit_bias=-4.0)
COLLECTIVES = ("batch_isend_irecv", "all_gather_into_tensor", "all_reduce", "reduce_scatter_tensor")


def arguments(rows=slice(None)):
    tensors = [torch.from_numpy(array)[rows].clone() for array in CASE.draw()]
    tensors += [torch.tensor(CASE.logit_scale), torch.tensor(CASE.logit_bias)]
    return [tensor.requires_grad_() for tensor in tensors]


def value_and_gradients(function, x, y, t, b, **options):
    loss = function(x, y, logit_scale=t, logit_bias=b, implementation="blocked", **options)
    return [loss.detach(), *torch.autograd.grad(loss, (x, y, t, b))]


def errors(got, right) -> list[float]:
    return [float((a - b).norm() / b.norm()) for a, b in zip(got, right, strict=True)]


class Request:
    """A request that tells when it is waited for."""

    def __init__(self, request, name: str, events: list[str]):
        self.request, self.name, self.events = request, name, events

    def wait(self):
        self.events.append(f"wait for {self.name}")
        self.request.wait()


def traced(function):
    """-> the function's result, and the order of what it does: collectives, sweeps, and waiting for what was sent."""
    events: list[str] = []
    originals = {name: getattr(dist, name) for name in COLLECTIVES}
    blocked = loss_module.IMPLEMENTATIONS["blocked"]

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

    def sweep(*positional, **named):
        events.append("sweep")
        return blocked.sweep(*positional, **named)

    for name in COLLECTIVES:
        setattr(dist, name, exchange if name == "batch_isend_irecv" else collective(name))
    loss_module.IMPLEMENTATIONS["blocked"] = loss_module.Implementation(sweep, blocked.finish)
    try:
        return function(), events
    finally:
        loss_module.IMPLEMENTATIONS["blocked"] = blocked
        for name, original in originals.items():
            setattr(dist, name, original)


def in_sixteen_bits(tensors):
    """Texts of another dtype than their gradients, so that a trace can tell them apart."""
    x, y, t, b = (tensor.detach() for tensor in tensors)
    return [tensor.requires_grad_() for tensor in (x.bfloat16(), y.bfloat16(), t, b)]


def refusal(function) -> str:
    try:
        function()
    except (ValueError, RuntimeError) as error:
        return str(error)
    return "accepted"


def on_rank(rank: int, store: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{store}/store", rank=rank, world_size=RANKS)
    torch.set_num_threads(1)
    rows = slice(rank * 44, rank * 44 + 44)
    loss, *gradients = value_and_gradients(native.sigmoid_loss, *arguments())
    right = [loss, gradients[0][rows], gradients[1][rows], *gradients[2:]]
    report = {}
    for exchange in ("ring", "gather"):
        part = value_and_gradients(native.distributed_sigmoid_loss, *arguments(rows), exchange=exchange)
        _, events = traced(
            lambda exchange=exchange: value_and_gradients(
                native.distributed_sigmoid_loss, *in_sixteen_bits(arguments(rows)), exchange=exchange
            )
        )
        with torch.autocast("cpu", dtype=torch.bfloat16):
            autocast = value_and_gradients(native.distributed_sigmoid_loss, *arguments(rows), exchange=exchange)
        mean = value_and_gradients(
            native.distributed_sigmoid_loss, *arguments(rows), exchange=exchange, gradients="mean"
        )
        whole = [value.clone() for value in part]
        for value in whole[3:]:
            dist.all_reduce(value)
        with torch.no_grad():
            forward = native.distributed_sigmoid_loss(
                *(a.detach() for a in arguments(rows)[:2]),
                logit_scale=CASE.logit_scale,
                logit_bias=CASE.logit_bias,
                implementation="blocked",
                exchange=exchange,
            )
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
        got = value_and_gradients(native.distributed_sigmoid_loss, *arguments(half), group=pair)[:3]
        forty = value_and_gradients(native.sigmoid_loss, *arguments(slice(0, 40)))
        report["subgroup"] = errors(got, [forty[0], forty[1][half], forty[2][half]])
    x, y, t, b = arguments(slice(0, 10 + rank))
    report["uneven"] = refusal(lambda: value_and_gradients(native.distributed_sigmoid_loss, x, y, t, b))

    def twice():
        x, y, t, b = arguments(rows)
        loss = native.distributed_sigmoid_loss(x, y, logit_scale=t, logit_bias=b, implementation="blocked")
        torch.autograd.grad(loss, x, create_graph=True)[0].sum().backward()

    report["twice"] = refusal(twice)
    gathered = [None] * RANKS
    dist.all_gather_object(gathered, report)
    if rank == 0:
        print(json.dumps(gathered))
    dist.destroy_process_group()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        torch.multiprocessing.spawn(on_rank, (folder,), RANKS)
