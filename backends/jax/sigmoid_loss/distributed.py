"""The sigmoid loss of a batch that is spread over the devices of a mesh: in a ring, or with the texts gathered.

Every device keeps its images and computes its rows of the matrix of pairs, once, value and gradients together:

    ring    the texts and their gradient travel from device to device; after as many hops as devices both are home.
            Memory of one shard; both travel while a block is computed.
    gather  one all-gather of the texts, one reduce-scatter of their gradient. Fewer messages, memory of all texts.

The gradient is the mathematical one, of the loss over the global batch divided by the global number of images n: the
rule is attached outside of the devices' program, so nothing is left to average or sum.
"""

from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from diptych.backends.jax.sigmoid_loss.loss import SigmoidLossGradients, join
from diptych.backends.jax.sigmoid_loss.sweep import Block, Negatives, negatives

Exchange = Literal["ring", "gather"]


@dataclass(frozen=True)
class ManyDevices:
    """x and y `[n, d]` spread by rows over the axis `axis_name` of a mesh; every device ends with the global loss.

    Raises:
        ValueError: where the batch does not divide by the number of devices on the axis.
    """

    block: Block
    mesh: Mesh
    axis_name: str
    exchange: Exchange = "ring"

    def __call__(self, x, y, t, b, *, with_gradients):
        axis_name, devices = self.axis_name, self.mesh.shape[self.axis_name]
        if x.shape[0] != y.shape[0] or x.shape[0] % devices:
            raise ValueError(
                f"{x.shape[0]} images and {y.shape[0]} texts cannot be spread evenly over the {devices} devices of the "
                f"mesh axis {axis_name!r}: expected as many texts as images, and a multiple of {devices}."
            )
        sweep = {"ring": _ring, "gather": _gather}[self.exchange]

        def on_device(x, y, t, b):
            swept = sweep(x, y, jnp.stack([t, b]), axis_name, devices, self.block, with_gradients)
            loss, dx, dy, *scalars = join(swept, x, y, t, b, offset=0, denominator=devices * x.shape[0])
            loss, *scalars = lax.psum((loss, *scalars), axis_name)
            return SigmoidLossGradients(loss, dx, dy, *scalars)

        rows = P(axis_name) if with_gradients else P()
        return jax.shard_map(
            on_device,
            mesh=self.mesh,
            in_specs=(P(axis_name), P(axis_name), P(), P()),
            out_specs=SigmoidLossGradients(P(), rows, rows, P(), P()),
            check_vma=False,
        )(x, y, t, b)


def _ring(x, y, scale_and_bias, axis_name, devices, block, with_gradients) -> Negatives:
    """Each hop passes on the texts that it computes with, and the gradient that the hop before left of its own texts:
    both are under way while the block is computed, and neither waits for it.
    """
    onwards = [(device, (device + 1) % devices) for device in range(devices)]
    no_pair = y.shape[0]

    def send(array):
        return lax.ppermute(array, axis_name, onwards)

    def hop(_, carry):
        texts, before = carry
        following, arrived = send(texts), send(before.text) if with_gradients else None
        swept = negatives(x, texts, scale_and_bias, no_pair, block=block, with_gradients=with_gradients)
        sums = jax.tree.map(jnp.add, before.sums, swept.sums)
        if not with_gradients:
            return following, Negatives(sums, None, None)
        return following, Negatives(sums, before.image + swept.image, arrived + swept.text)

    following = send(y)
    first = negatives(x, y, scale_and_bias, 0, block=block, with_gradients=with_gradients)
    _, swept = lax.fori_loop(1, devices, hop, (following, first))
    return swept._replace(text=send(swept.text)) if with_gradients else swept


def _gather(x, y, scale_and_bias, axis_name, devices, block, with_gradients) -> Negatives:
    texts = lax.all_gather(y, axis_name, tiled=True)
    offset = lax.axis_index(axis_name) * x.shape[0]
    swept = negatives(x, texts, scale_and_bias, offset, block=block, with_gradients=with_gradients)
    if not with_gradients:
        return swept
    return swept._replace(text=lax.psum_scatter(swept.text, axis_name, tiled=True))
