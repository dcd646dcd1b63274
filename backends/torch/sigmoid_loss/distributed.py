"""The sigmoid loss of a batch that is spread over processes: in a ring, or with the texts gathered.

Every rank keeps its images and computes its rows of the matrix of pairs, once, value and gradients together; the
backward pass sends nothing.

    ring    the texts and their gradient travel from rank to rank; after as many hops as ranks both are home.
            Memory of one shard; both travel while a block is computed.
    gather  one all-gather of the texts, one reduce-scatter of their gradient. Fewer messages, memory of all texts.
"""

import logging
from typing import Literal

import torch
import torch.distributed as dist

from diptych.backends.torch.sigmoid_loss.loss import (
    IMPLEMENTATIONS,
    FirstDerivatives,
    SigmoidLossGradients,
    as_scalar,
    multiplied,
)
from diptych.backends.torch.sigmoid_loss.sweep import Negatives

logger = logging.getLogger("diptych")

Exchange = Literal["ring", "gather"]


def distributed_sigmoid_loss(
    x,
    y,
    *,
    logit_scale,
    logit_bias,
    implementation: str,
    group: dist.ProcessGroup | None = None,
    exchange: Exchange = "ring",
    gradients: Literal["sum", "mean"] = "sum",
    forward_only: bool = False,
):
    """The loss of the global batch, on every rank; x and y `[n, d]` are this rank's pairs, as many on each rank.

    The loss is divided by the global number of images. Its gradient with respect to x and y is that of the global loss;
    with respect to t and b it is this rank's part, and the sum over the ranks is the whole. With gradients="mean" all
    four are multiplied by the number of ranks: `DistributedDataParallel` averages gradients, and its average is then
    the gradient of the global loss.

    Raises:
        ValueError: on every rank, where the ranks' batches differ in size.
    """
    t, b = as_scalar(logit_scale, x), as_scalar(logit_bias, x)
    plan = (implementation, group, exchange, gradients)
    if forward_only or not torch.is_grad_enabled() or not any(tensor.requires_grad for tensor in (x, y, t, b)):
        return _on_this_rank(x, y, t, b, *plan, with_gradients=False).loss
    return _DistributedLoss.apply(x, y, t, b, plan)


class _DistributedLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, y, t, b, plan):
        loss, *gradients = _on_this_rank(x, y, t, b, *plan, with_gradients=True)
        ctx.save_for_backward(x, y, t, b, *gradients)
        return loss

    @staticmethod
    def backward(ctx, cotangent):
        inputs, gradients = ctx.saved_tensors[:4], ctx.saved_tensors[4:]
        scaled = multiplied(gradients, cotangent, inputs)
        if torch.is_grad_enabled():
            scaled = FirstDerivatives.apply(*scaled, cotangent, *inputs)
        return *scaled, None


@torch.no_grad()
def _on_this_rank(x, y, t, b, implementation, group, exchange, gradients, *, with_gradients):
    x, y = x.detach().contiguous(), y.detach().contiguous()
    _check_sizes(x, y, group)
    ranks, way, scale_and_bias = dist.get_world_size(group), IMPLEMENTATIONS[implementation], torch.stack([t, b])
    exchanged = {"ring": _ring, "gather": _gather}[exchange]
    with torch.autocast(x.device.type, enabled=False):
        swept = exchanged(x, y, scale_and_bias, way.sweep, group, with_gradients)
        loss, *parts = way.finish(swept, x, y, scale_and_bias, offset=0, denominator=ranks * len(x))
    dist.all_reduce(loss, group=group)
    if gradients == "mean":
        parts = [None if part is None else part.mul_(ranks) for part in parts]
    return SigmoidLossGradients(loss, *parts)


_agreed: dict[dist.ProcessGroup | None, tuple[int, ...]] = {}


def _check_sizes(x, y, group) -> None:
    """Raises ValueError on every rank where they differ.

    Reading the sizes of other ranks waits for the device, so that on an accelerator they are agreed on once: a rank
    whose own have not changed since does not ask again. On a CPU they are compared at every call.
    """
    sizes = (*x.shape, *y.shape)
    if x.device.type != "cpu" and _agreed.get(group) == sizes:
        return
    if group in _agreed and _agreed[group] != sizes:
        logger.warning("Pairs of this rank are now %s, were %s: waits for all ranks.", sizes, _agreed[group])
    listed = _all_gather(torch.tensor([sizes], device=x.device), group).tolist()
    if len({tuple(shape) for shape in listed}) > 1 or x.shape != y.shape:
        each = "; ".join(f"rank {rank}: {shape[:2]} images, {shape[2:]} texts" for rank, shape in enumerate(listed))
        raise ValueError(
            f"Every rank must bring the same number of pairs, of one width; got {each}. "
            "Drop the last, smaller batch, or pad it on every rank alike."
        )
    _agreed[group] = sizes


def _all_gather(x, group) -> torch.Tensor:
    """The rows of all ranks, one after the other."""
    gathered = x.new_empty(dist.get_world_size(group) * len(x), *x.shape[1:])
    dist.all_gather_into_tensor(gathered, x.contiguous(), group=group)
    return gathered


def _ring(x, y, scale_and_bias, sweep, group, with_gradients) -> Negatives:
    """Texts and their gradients travel while the next block is computed: a hop waits for the texts that the one before
    sent for, and for the gradients only once its own are there to be added.
    """
    ranks, no_pair = dist.get_world_size(group), len(y)
    texts, image, travelling, sums = y, None, None, []
    for hop in range(ranks):
        following = _send_onwards(texts, group) if hop < ranks - 1 else None
        swept = sweep(x, texts, scale_and_bias, 0 if hop == 0 else no_pair, with_gradients=with_gradients)
        sums.append(swept.sums)
        if with_gradients:
            image = swept.image if image is None else image.add_(swept.image)
            dtext = swept.text if travelling is None else swept.text.add_(_arrived(travelling))
            travelling = _send_onwards(dtext, group)
        if following is not None:
            texts = _arrived(following)
    return Negatives(torch.cat(sums), image, None if travelling is None else _arrived(travelling))


def _send_onwards(x, group):
    """Starts sending x to the next rank and receiving from the one before."""
    ranks, rank = dist.get_world_size(group), dist.get_rank(group)
    received = torch.empty_like(x)
    if ranks == 1:
        return received.copy_(x), []
    following, previous = (_global_rank((rank + step) % ranks, group) for step in (1, -1))
    requests = dist.batch_isend_irecv(
        [dist.P2POp(dist.isend, x, following, group), dist.P2POp(dist.irecv, received, previous, group)]
    )
    return received, requests


def _arrived(under_way):
    received, requests = under_way
    for request in requests:
        request.wait()
    return received


def _global_rank(rank, group):
    return rank if group is None else dist.get_global_rank(group, rank)


def _gather(x, y, scale_and_bias, sweep, group, with_gradients) -> Negatives:
    texts = _all_gather(y, group)
    offset = dist.get_rank(group) * len(x)
    swept = sweep(x, texts, scale_and_bias, offset, with_gradients=with_gradients)
    if not with_gradients:
        return swept
    own = swept.text.new_empty(len(y), swept.text.shape[1])
    dist.reduce_scatter_tensor(own, swept.text, group=group)
    return Negatives(swept.sums, swept.image, own)
