"""CLIP's symmetric softmax loss on torch: a sweep for the normalisers, one for the gradients, the positives exactly.

With z_ij = t x_i·y_j, and over the pairs that are none n_i = log Σ_j exp(z_ij), n'_j = log Σ_i exp(z_ij):

    L = Σ_i [softplus(n_i - z_ii) + softplus(n'_i - z_ii)] / 2n
    w_ij = (exp(z_ij - a_i) + exp(z_ij - a'_j)) / 2,  a_i = log(exp(n_i) + exp(z_ii)),  a'_j likewise

In `softplus` a positive's loss keeps its relative precision where log Σ_j exp(z_ij) - z_ii would cancel.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F

from diptych.backends.torch.contrastive import pairs
from diptych.backends.torch.contrastive.sweep import (
    Swept,
    accumulators,
    aligned_blocks,
    logits_in_blocks,
    normalising,
    sum_of_weighed_cosines,
    weighed_by_triton,
    weighing,
)


class SoftmaxLossGradients(NamedTuple):
    """The loss and its gradient with respect to each argument, all float32, embeddings' shapes as given."""

    loss: torch.Tensor
    image_embeddings: torch.Tensor
    text_embeddings: torch.Tensor
    logit_scale: torch.Tensor


@dataclass(frozen=True)
class SoftmaxLoss:
    """How it is computed; its scalar is t.

    Attributes:
        normalisers: `(scale, largest, x, y, offset, left_free=0)` -> n_i and n'_j.
        weights: `(scale, largest, x, y, offset, rows, columns, left_free=0)` -> Σ w s and the weighed embeddings;
            rows and columns are a_i + log 2 and a'_j + log 2.
    """

    normalisers: Callable[..., Swept]
    weights: Callable[..., Swept]

    def __call__(self, exchange, x, y, scalars, *, offset, denominator, with_gradients, largest=None) -> tuple:
        (t,) = scalars.unbind()
        others = exchange(normalising(partial(self.normalisers, t, largest)))
        sides = others.image, others.text
        s = pairs.pair_cosines(x, y, offset)
        z = t * s
        losses = sum(F.softplus(side - z) for side in sides) / 2
        g = -sum(torch.sigmoid(side - z) for side in sides) / 2
        swept = Swept(z.new_zeros(1, 1), None, None)
        if with_gradients:
            beside = [(torch.logaddexp(side, z) + math.log(2.0),) for side in sides]
            swept = exchange(weighing(partial(self.weights, t, largest)), *beside)
        swept = swept._replace(sums=F.pad(swept.sums, (1, 0)))
        return pairs.finished(swept, (losses, g * s), g, x, y, t, offset=offset, denominator=denominator)


def blocked_normalisers(scale, largest: int | None, x, y, offset: int, *, left_free: int = 0) -> Swept:
    """In float32, on any device."""
    image, text = (z.new_full((len(z),), -torch.inf, dtype=torch.float32) for z in (x, y))
    for block in logits_in_blocks(x, y, scale, offset, largest):
        for total, at, along in ((image, block.rows, 1), (text, block.columns, 0)):
            torch.logaddexp(total[at], block.z.logsumexp(along), out=total[at])
    return Swept(image.new_zeros(1, 0), image, text)


def blocked_weights(scale, largest: int | None, x, y, offset: int, rows, columns, *, left_free: int = 0) -> Swept:
    """In float32, on any device. Where z is -inf, the weight is exactly 0."""
    image, text = accumulators(x, y)
    for block in logits_in_blocks(x, y, scale, offset, largest):
        weights = (block.z - columns[block.columns]).exp_()
        weights += block.z.sub_(rows[block.rows, None]).exp_()
        block.add_products(weights, image, text)
    return Swept(sum_of_weighed_cosines(x, image, largest).view(1, 1), image, text)


def triton_normalisers(scale, largest: int | None, x, y, offset: int, *, left_free: int = 0) -> Swept:
    """Of bfloat16 or float16 embeddings, on an NVIDIA GPU."""
    from diptych.backends.torch.contrastive.triton_softmax import normalisers_block

    image, text = (z.new_full((len(z),), -torch.inf, dtype=torch.float32) for z in (x, y))
    for rows, columns, x_block, y_block in aligned_blocks(x, y, largest):
        diagonal = offset + rows.start - columns.start
        own = normalisers_block(x_block, y_block, scale.view(1), diagonal, left_free=left_free)
        for total, at, logarithms in zip((image, text), (rows, columns), own, strict=True):
            torch.logaddexp(total[at], logarithms, out=total[at])
    return Swept(image.new_zeros(1, 0), image, text)


def triton_weights(scale, largest: int | None, x, y, offset: int, rows, columns, *, left_free: int = 0) -> Swept:
    """Of bfloat16 or float16 embeddings, on an NVIDIA GPU; weights in their dtype, all sums in float32."""
    from diptych.backends.torch.contrastive.triton_softmax import weights_block

    def launch(x, y, at_rows, at_columns, diagonal, weights, sums):
        weights_block(x, y, scale.view(1), diagonal, rows[at_rows], columns[at_columns], weights, sums)

    swept = weighed_by_triton(launch, x, y, offset, terms=3, with_gradients=True, largest=largest, left_free=left_free)
    image, text = (weighed[:, : x.shape[1]].contiguous() for weighed in (swept.image, swept.text))  # without padding
    return Swept(swept.sums[:, 1:2], image, text)
