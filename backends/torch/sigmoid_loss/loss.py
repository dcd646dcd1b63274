"""The sigmoid loss with its gradients on one device, and as an operator that torch can differentiate once and compile.

The operator computes value and gradients together, in one sweep; its backward pass multiplies them by a number. It is
one opaque call to `torch.compile`, since inside are library products and a loop over blocks.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F

from diptych.backends.torch.sigmoid_loss.sweep import Negatives, Sweep, blocked, triton


class SigmoidLossGradients(NamedTuple):
    """The loss and its gradient with respect to each argument, all float32, embeddings' shapes as given."""

    loss: torch.Tensor
    image_embeddings: torch.Tensor
    text_embeddings: torch.Tensor
    logit_scale: torch.Tensor
    logit_bias: torch.Tensor


def sigmoid_loss(
    x,
    y,
    *,
    logit_scale,
    logit_bias,
    implementation: str,
    offset: int = 0,
    denominator: int | None = None,
    forward_only: bool = False,
):
    """The loss as a float32 scalar. Forward only, or where nothing asks for a gradient, it is a third of the work."""
    t, b = as_scalar(logit_scale, x), as_scalar(logit_bias, x)
    plan = (implementation, offset, denominator or len(x))
    recorded = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in (x, y, t, b))
    if recorded and not forward_only:
        return _loss_and_gradients(x, y, t, b, *plan)[0]
    return _loss_alone(x, y, t, b, *plan)


def sigmoid_loss_and_gradients(
    x, y, *, logit_scale, logit_bias, implementation: str, offset: int = 0, denominator: int | None = None
) -> SigmoidLossGradients:
    """Value and all four gradients in one sweep; nothing is recorded for differentiation."""
    t, b = as_scalar(logit_scale, x), as_scalar(logit_bias, x)
    with torch.no_grad():
        return SigmoidLossGradients(*_loss_and_gradients(x, y, t, b, implementation, offset, denominator or len(x)))


def as_scalar(value, x: torch.Tensor) -> torch.Tensor:
    """A float32 scalar on the embeddings' device, differentiable where the value is."""
    return torch.as_tensor(value, device=x.device).to(torch.float32).reshape(())


@torch.library.custom_op("diptych::sigmoid_loss_and_gradients", mutates_args=())
def _loss_and_gradients(
    x: torch.Tensor,
    y: torch.Tensor,
    t: torch.Tensor,
    b: torch.Tensor,
    implementation: str,
    offset: int,
    denominator: int,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    loss, dx, dy, *scalars = computed(x, y, t, b, implementation, offset, denominator, with_gradients=True)
    return loss, dx, dy, *scalars


@_loss_and_gradients.register_fake
def _(x, y, t, b, implementation, offset, denominator):
    gradients = (
        torch.empty_like(tensor, dtype=torch.float32, memory_format=torch.contiguous_format) for tensor in (x, y)
    )
    return t.new_empty(()), *gradients, t.new_empty(()), t.new_empty(())


@torch.library.custom_op("diptych::sigmoid_loss", mutates_args=())
def _loss_alone(
    x: torch.Tensor,
    y: torch.Tensor,
    t: torch.Tensor,
    b: torch.Tensor,
    implementation: str,
    offset: int,
    denominator: int,
) -> torch.Tensor:
    return computed(x, y, t, b, implementation, offset, denominator, with_gradients=False)[0]


@_loss_alone.register_fake
def _(x, y, t, b, implementation, offset, denominator):
    return t.new_empty(())


def _no_gradient(ctx, cotangent):
    raise RuntimeError(
        "sigmoid_loss was called with forward_only=True, which keeps nothing for a gradient: leave it out to train."
    )


_loss_alone.register_autograd(_no_gradient)


def _keep_gradients(ctx, inputs, output):
    _, *gradients = output
    ctx.mark_non_differentiable(*gradients)
    ctx.save_for_backward(*inputs[:4], *gradients)


def _backward(ctx, cotangent, *_):
    inputs, gradients = ctx.saved_tensors[:4], ctx.saved_tensors[4:]
    scaled = multiplied(gradients, cotangent, inputs)
    if torch.is_grad_enabled():  # create_graph=True: somebody may differentiate what is returned
        scaled = FirstDerivatives.apply(*scaled, cotangent, *inputs)
    return *scaled, None, None, None


_loss_and_gradients.register_autograd(_backward, setup_context=_keep_gradients)


def multiplied(gradients, cotangent, inputs) -> list[torch.Tensor]:
    """The float32 gradients times a number, each rounded to its input's dtype in the same pass over memory."""
    return [torch.mul(g, cotangent, out=torch.empty_like(x)) for g, x in zip(gradients, inputs, strict=True)]


class FirstDerivatives(torch.autograd.Function):
    """Hands on its first four arguments, and refuses to be differentiated: a wrong second derivative would go
    unnoticed.
    """

    @staticmethod
    def forward(ctx, *tensors):
        return tuple(gradient.clone() for gradient in tensors[:4])

    @staticmethod
    def backward(ctx, *cotangents):
        raise RuntimeError(
            "sigmoid_loss has first derivatives only: its gradient was differentiated again. "
            'For second derivatives take implementation="reference".'
        )


@dataclass(frozen=True)
class Implementation:
    """How the loss is computed.

    Attributes:
        sweep: the negatives.
        finish: `(swept, x, y, scale_and_bias, offset=, denominator=)` -> loss and gradients. With
            s_i = x_i·y_(i+offset) and g_i = -σ(-(t s_i + b)),

                L = (Σ softplus(z) + Σ_i softplus(-(t s_i + b))) / n,  dL/dx_i = (t/n) (image_i + g_i y_(i+offset))

            and so on. It takes the sweep's image and text as its own; where they are None, so are those gradients.
    """

    sweep: Sweep
    finish: Callable[..., tuple]


def computed(
    x,
    y,
    t,
    b,
    implementation: str,
    offset: int,
    denominator: int,
    *,
    with_gradients: bool,
    largest: int | None = None,
) -> tuple:
    """Loss and gradients of one device's pairs, in float32 whatever `torch.autocast` asks of other products; largest is
    that of the sweep's blocks.
    """
    way, scale_and_bias = IMPLEMENTATIONS[implementation], torch.stack([t, b])
    with torch.autocast(x.device.type, enabled=False):
        swept = way.sweep(x, y, scale_and_bias, offset, with_gradients=with_gradients, largest=largest)
        return way.finish(swept, x, y, scale_and_bias, offset=offset, denominator=denominator)


def _finish_blocked(swept: Negatives, x, y, scale_and_bias, *, offset: int, denominator: int) -> tuple:
    t, b = scale_and_bias.unbind()
    first, last = max(0, -offset), max(0, -offset, min(len(x), len(y) - offset))
    softplus, cosine, probability = swept.sums.sum(0, dtype=torch.float64)
    for start in range(first, last, PAIRS_AT_ONCE):
        rows = slice(start, min(start + PAIRS_AT_ONCE, last))
        columns = slice(rows.start + offset, rows.stop + offset)
        x_pairs, y_pairs = x[rows].float(), y[columns].float()
        s = torch.linalg.vecdot(x_pairs, y_pairs)
        z = t * s + b
        g = -torch.sigmoid(-z)
        softplus += F.softplus(-z).sum(dtype=torch.float64)
        cosine += (g * s).sum(dtype=torch.float64)
        probability += g.sum(dtype=torch.float64)
        if swept.image is not None and swept.text is not None:
            swept.image[rows].addcmul_(g[:, None], y_pairs)
            swept.text[columns].addcmul_(g[:, None], x_pairs)
    scalars = [(total / denominator).float() for total in (softplus, cosine, probability)]
    if swept.image is not None and swept.text is not None:
        swept.image.mul_(t / denominator)
        swept.text.mul_(t / denominator)
    return scalars[0], swept.image, swept.text, *scalars[1:]


PAIRS_AT_ONCE = 16_384
"""Pairs whose embeddings are held in float32 at a time."""


def _finish_by_triton(swept: Negatives, x, y, scale_and_bias, *, offset: int, denominator: int) -> tuple:
    from diptych.backends.torch.sigmoid_loss.triton_pairs import finished

    plan = {"offset": offset, "denominator": denominator}
    return finished(swept.sums, swept.image, swept.text, x.contiguous(), y.contiguous(), scale_and_bias, **plan)


IMPLEMENTATIONS = {
    "triton": Implementation(triton, _finish_by_triton),
    "blocked": Implementation(blocked, _finish_blocked),
}
