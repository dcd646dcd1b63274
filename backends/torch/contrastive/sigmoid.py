"""The sigmoid loss on torch: a sweep whose weights are σ(z), z = t s + b, and the positives exactly.

Over the pairs that are none the sums are Σ log(1 + exp(z)), Σ σ(z) s and Σ σ(z). `blocked` is made of torch's own
operations, `triton` of one kernel for a block's probabilities and two library products.
"""

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
    logits_in_blocks,
    sum_of_weighed_cosines,
    weighed_by_triton,
    weighing,
)


class SigmoidLossGradients(NamedTuple):
    """The loss and its gradient with respect to each argument, all float32, embeddings' shapes as given."""

    loss: torch.Tensor
    image_embeddings: torch.Tensor
    text_embeddings: torch.Tensor
    logit_scale: torch.Tensor
    logit_bias: torch.Tensor


@dataclass(frozen=True)
class SigmoidLoss:
    """How it is computed; its scalars are t and b.

    Attributes:
        sweep: `(scale_and_bias, with_gradients, largest, x, y, offset, left_free=0)` -> the negatives.
        finish: `(swept, x, y, scale_and_bias, offset=, denominator=)` -> loss and gradients.
    """

    sweep: Callable[..., Swept]
    finish: Callable[..., tuple]

    def __call__(self, exchange, x, y, scalars, *, offset, denominator, with_gradients, largest=None) -> tuple:
        swept = exchange(weighing(partial(self.sweep, scalars, with_gradients, largest)))
        return self.finish(swept, x, y, scalars, offset=offset, denominator=denominator)


def blocked(
    scale_and_bias, with_gradients: bool, largest: int | None, x, y, offset: int, *, left_free: int = 0
) -> Swept:
    """Everything in float32, on any device. Where z is -inf, its softplus and its probability are exactly 0."""
    scale, bias = scale_and_bias.unbind()
    sums = torch.zeros(3, dtype=torch.float64, device=x.device)
    image, text = accumulators(x, y) if with_gradients else (None, None)
    for block in logits_in_blocks(x, y, scale, offset, largest):
        z = block.z.add_(bias)
        sums[0] += F.softplus(z).sum()
        if image is not None and text is not None:
            probability = z.sigmoid_()
            sums[2] += probability.sum()
            block.add_products(probability, image, text)
    if image is not None:
        sums[1] = sum_of_weighed_cosines(x, image, largest)
    return Swept(sums[None], image, text)


def finish_blocked(swept: Swept, x, y, scale_and_bias, *, offset: int, denominator: int) -> tuple:
    """With s_i = x_i·y_(i+offset) and g_i = -σ(-(t s_i + b))."""
    t, b = scale_and_bias.unbind()
    s = pairs.pair_cosines(x, y, offset)
    z = t * s + b
    g = -torch.sigmoid(-z)
    terms = F.softplus(-z), g * s, g
    return pairs.finished(swept, terms, g, x, y, t, offset=offset, denominator=denominator)


def triton(
    scale_and_bias, with_gradients: bool, largest: int | None, x, y, offset: int, *, left_free: int = 0
) -> Swept:
    """bfloat16 or float16 embeddings on an NVIDIA GPU; probabilities in their dtype, all sums in float32."""
    from diptych.backends.torch.contrastive.triton_block import negatives_block

    def launch(x, y, rows, columns, diagonal, probabilities, sums):
        negatives_block(x, y, scale_and_bias, diagonal, probabilities, sums)

    return weighed_by_triton(
        launch, x, y, offset, terms=3, with_gradients=with_gradients, largest=largest, left_free=left_free
    )


def finish_by_triton(swept: Swept, x, y, scale_and_bias, *, offset: int, denominator: int) -> tuple:
    from diptych.backends.torch.contrastive.triton_pairs import finished

    plan = {"offset": offset, "denominator": denominator}
    return finished(swept.sums, swept.image, swept.text, x.contiguous(), y.contiguous(), scale_and_bias, **plan)
