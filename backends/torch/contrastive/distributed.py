"""A contrastive loss of a batch that is spread over processes: in a ring, or with the texts gathered.

Every rank keeps its images and computes its rows of the matrix of pairs, in each sweep once; the backward pass sends
nothing.

    ring    the texts and what a sweep adds up for them travel from rank to rank; after as many hops as ranks both are
            home. Memory of one shard; both travel while a block is computed.
    gather  one all-gather of the texts, one reduce-scatter of what a sweep adds up for them. Fewer messages, memory of
            all texts.
"""

import logging
from typing import Literal

import torch
import torch.distributed as dist

from diptych.backends.plan import LEFT_TO_TRANSFERS
from diptych.backends.torch.contrastive.loss import LOSSES, multiplied
from diptych.backends.torch.contrastive.sweep import Sweep, Swept

logger = logging.getLogger("diptych")


def distributed_loss(
    name: str,
    x,
    y,
    *,
    implementation: str,
    group: dist.ProcessGroup | None = None,
    exchange: Literal["ring", "gather"] = "ring",
    gradients: Literal["sum", "mean"] = "sum",
    forward_only: bool = False,
    **scalars,
):
    """The loss of the global batch, on every rank; x and y `[n, d]` are this rank's pairs, as many on each rank.

    The loss is divided by the global number of images. Its gradient with respect to x and y is that of the global loss;
    with respect to the scalars it is this rank's part, and the sum over the ranks is the whole. With gradients="mean"
    all are multiplied by the number of ranks: `DistributedDataParallel` averages gradients, and its average is then the
    gradient of the global loss.

    Raises:
        ValueError: on every rank, where the ranks' batches differ in size.
    """
    values = LOSSES[name].stacked(x, scalars)
    plan = (name, implementation, group, exchange, gradients)
    if forward_only or not torch.is_grad_enabled() or not any(tensor.requires_grad for tensor in (x, y, values)):
        return _on_this_rank(x, y, values, *plan, with_gradients=False)[0]
    return _DistributedLoss.apply(x, y, values, plan)


class _DistributedLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, y, scalars, plan):
        value, *gradients = _on_this_rank(x, y, scalars, *plan, with_gradients=True)
        ctx.loss_name = plan[0]
        ctx.save_for_backward(x, y, scalars, *gradients)
        return value

    @staticmethod
    def backward(ctx, cotangent):
        inputs, gradients = ctx.saved_tensors[:3], ctx.saved_tensors[3:]
        return *multiplied(gradients, cotangent, inputs, ctx.loss_name), None


@torch.no_grad()
def _on_this_rank(x, y, scalars, name, implementation, group, exchange, gradients, *, with_gradients):
    x, y = x.detach().contiguous(), y.detach().contiguous()
    _check_sizes(x, y, group)
    ranks, compute = dist.get_world_size(group), LOSSES[name].implementations[implementation]
    exchanged = {"ring": _ring, "gather": _gather}[exchange]
    with torch.autocast(x.device.type, enabled=False):
        plan = {"offset": 0, "denominator": ranks * len(x), "with_gradients": with_gradients}
        value, *parts = compute(exchanged(x, y, group), x, y, scalars, **plan)
    dist.all_reduce(value, group=group)
    if gradients == "mean":
        parts = [None if part is None else part.mul_(ranks) for part in parts]
    return value, *parts


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


def _ring(x, y, group):
    """Texts and what is added up for them travel while the next block is computed: a hop waits for the texts that the
    one before sent for, and for the sums only once its own are there to be merged with.
    """
    ranks, no_pair = dist.get_world_size(group), len(y)

    def exchange(sweep: Sweep, beside_rows=(), beside_columns=()) -> Swept:
        texts, image, travelling, sums = (y, *beside_columns), None, None, []
        for hop in range(ranks):
            following = _send_onwards(texts, group) if hop < ranks - 1 else None
            offset = 0 if hop == 0 else no_pair
            swept = sweep.run(x, texts[0], offset, *beside_rows, *texts[1:], left_free=LEFT_TO_TRANSFERS)
            sums.append(swept.sums)
            if swept.image is not None:
                image = swept.image if image is None else sweep.merge(image, swept.image)
                text = swept.text if travelling is None else sweep.merge(swept.text, *_arrived(travelling))
                travelling = _send_onwards((text,), group)
            if following is not None:
                texts = _arrived(following)
        return Swept(torch.cat(sums), image, None if travelling is None else _arrived(travelling)[0])

    return exchange


def _send_onwards(tensors, group):
    """Starts sending tensors to the next rank and receiving from the one before."""
    ranks, rank = dist.get_world_size(group), dist.get_rank(group)
    received = tuple(map(torch.empty_like, tensors))
    if ranks == 1:
        return tuple(into.copy_(x) for into, x in zip(received, tensors, strict=True)), []
    following, previous = (_global_rank((rank + step) % ranks, group) for step in (1, -1))
    sent = [dist.P2POp(dist.isend, x, following, group) for x in tensors]
    return received, dist.batch_isend_irecv(sent + [dist.P2POp(dist.irecv, into, previous, group) for into in received])


def _arrived(under_way):
    received, requests = under_way
    for request in requests:
        request.wait()
    return received


def _global_rank(rank, group):
    return rank if group is None else dist.get_global_rank(group, rank)


def _gather(x, y, group):
    texts = _all_gather(y, group)
    offset = dist.get_rank(group) * len(x)

    def exchange(sweep: Sweep, beside_rows=(), beside_columns=()) -> Swept:
        beside = (_all_gather(tensor, group) for tensor in beside_columns)
        swept = sweep.run(x, texts, offset, *beside_rows, *beside)
        return swept if swept.text is None else swept._replace(text=sweep.own_part(swept.text, group))

    return exchange
