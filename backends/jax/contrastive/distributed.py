"""A contrastive loss of a batch that is spread over the devices of a mesh: in a ring, or with the texts gathered.

Every device keeps its images and computes its rows of the matrix of pairs, in each sweep once:

    ring    the texts and what a sweep adds up for them travel from device to device; after as many hops as devices both
            are home. Memory of one shard; both travel while a block is computed.
    gather  one all-gather of the texts, one reduce-scatter of what a sweep adds up for them. Fewer messages, memory of
            all texts.

The gradient is the mathematical one, of the loss over the global batch divided by the global number of images n: the
rule is attached outside of the devices' program, so nothing is left to average or sum.
"""

import math
from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from diptych.backends.jax.contrastive.loss import Exchange, LossAndGradients, PairLoss
from diptych.backends.jax.contrastive.sweep import Sweep, Swept, over_blocks

ExchangeName = Literal["ring", "gather"]
Axes = str | tuple[str, ...]
"""One axis of a mesh, or several that count as one, the last the fastest."""


@dataclass(frozen=True)
class ManyDevices:
    """x and y `[n, d]` spread by rows over an axis of a mesh, or several; every device ends with the global loss.

    Raises:
        ValueError: where the batch does not divide by the number of devices on the axes.
    """

    loss: PairLoss
    mesh: Mesh
    axis_name: Axes
    exchange: ExchangeName = "ring"

    def __call__(self, x, y, scalars, *, with_gradients):
        axis_name = self.axis_name
        names = (axis_name,) if isinstance(axis_name, str) else axis_name
        devices = math.prod(self.mesh.shape[name] for name in names)
        if x.shape[0] != y.shape[0] or x.shape[0] % devices:
            raise ValueError(
                f"{x.shape[0]} images and {y.shape[0]} texts cannot be spread evenly over the {devices} devices of the "
                f"mesh axis {axis_name!r}: expected as many texts as images, and a multiple of {devices}."
            )

        def on_device(x, y, scalars):
            exchange = {"ring": _ring, "gather": _gather}[self.exchange](x, y, axis_name, devices)
            plan = {"offset": 0, "denominator": devices * x.shape[0], "with_gradients": with_gradients}
            loss, dx, dy, of_scalars = self.loss(exchange, x, y, scalars, **plan)
            loss, *of_scalars = lax.psum((loss, *of_scalars), axis_name)
            return LossAndGradients(loss, dx, dy, tuple(of_scalars))

        rows = P(axis_name) if with_gradients else P()
        return jax.shard_map(
            on_device,
            mesh=self.mesh,
            in_specs=(P(axis_name), P(axis_name), P()),
            out_specs=LossAndGradients(P(), rows, rows, P()),
            check_vma=False,
        )(x, y, scalars)


def _ring(x, y, axis_name, devices) -> Exchange:
    """Each hop passes on the texts that it computes with, and what the hop before left of its own texts: both are under
    way while the block is computed, and neither waits for it.
    """
    onwards = [(device, (device + 1) % devices) for device in range(devices)]
    no_pair = y.shape[0]

    def send(arrays):
        return jax.tree.map(lambda array: lax.ppermute(array, axis_name, onwards), arrays)

    def exchange(sweep: Sweep, beside_rows=(), beside_columns=()):
        images, texts = (x, *beside_rows), (y, *beside_columns)

        def hop(_, carry):
            texts, before = carry
            following, arrived = send(texts), send(before.text)
            swept = over_blocks(sweep, images, texts, no_pair)
            total = jax.tree.map(jnp.add, before.total, swept.total)
            image, text = (
                jax.tree.map(sweep.merge, one, other)
                for one, other in ((before.image, swept.image), (arrived, swept.text))
            )
            return following, Swept(total, image, text)

        following = send(texts)
        first = over_blocks(sweep, images, texts, 0)
        _, swept = lax.fori_loop(1, devices, hop, (following, first))
        return swept._replace(text=send(swept.text))

    return exchange


def _gather(x, y, axis_name, devices) -> Exchange:
    everyones = lax.all_gather(y, axis_name, tiled=True)
    offset = lax.axis_index(axis_name) * x.shape[0]

    def exchange(sweep: Sweep, beside_rows=(), beside_columns=()):
        beside = (lax.all_gather(array, axis_name, tiled=True) for array in beside_columns)
        swept = over_blocks(sweep, (x, *beside_rows), (everyones, *beside), offset)
        return swept._replace(text=jax.tree.map(lambda text: sweep.own_part(text, axis_name), swept.text))

    return exchange
