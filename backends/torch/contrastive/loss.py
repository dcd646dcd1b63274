"""A contrastive loss with its gradients on one device, and as an operator that torch differentiates once and compiles.

The operator computes value and gradients together; its backward pass multiplies them by a number. It is one opaque call
to `torch.compile`, since inside are library products and a loop over blocks.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from diptych.backends.torch.contrastive.sigmoid import (
    SigmoidLoss,
    SigmoidLossGradients,
    blocked,
    finish_blocked,
    finish_by_triton,
    triton,
)
from diptych.backends.torch.contrastive.softmax import (
    SoftmaxLoss,
    SoftmaxLossGradients,
    blocked_normalisers,
    blocked_weights,
    triton_normalisers,
    triton_weights,
)
from diptych.backends.torch.contrastive.sweep import Sweep, Swept


@dataclass(frozen=True)
class PairLoss:
    """A loss over all pairs of images and texts.

    Attributes:
        scalars: the names of its scalars, in their order.
        answer: a named tuple of the loss and the gradients of x, y and the scalars.
        implementations: name -> `(exchange, x, y, scalars, offset=, denominator=, with_gradients=, largest=)` -> the
            loss and the gradients of x, y and all scalars together, of the pairs (i, i + offset) of x and y. The
            exchange is `(sweep, beside_rows, beside_columns)` -> what it leaves of these images and texts, met with all
            others; the last two are tuples of tensors that go with each image and each text.
    """

    scalars: tuple[str, ...]
    answer: Callable
    implementations: dict[str, Callable[..., tuple]]

    def stacked(self, x: torch.Tensor, values: dict) -> torch.Tensor:
        """The scalars in their order, float32 on the embeddings' device, differentiable where the values are."""
        return torch.stack([_as_scalar(values[name], x) for name in self.scalars])


LOSSES = {
    "sigmoid_loss": PairLoss(
        ("logit_scale", "logit_bias"),
        SigmoidLossGradients,
        {"triton": SigmoidLoss(triton, finish_by_triton), "blocked": SigmoidLoss(blocked, finish_blocked)},
    ),
    "softmax_contrastive_loss": PairLoss(
        ("logit_scale",),
        SoftmaxLossGradients,
        {
            "triton": SoftmaxLoss(triton_normalisers, triton_weights),
            "blocked": SoftmaxLoss(blocked_normalisers, blocked_weights),
        },
    ),
}


def pair_loss(
    name: str,
    x,
    y,
    *,
    implementation: str,
    offset: int = 0,
    denominator: int | None = None,
    forward_only: bool = False,
    **scalars,
):
    """The loss as a float32 scalar. Forward only, or where nothing asks for a gradient, it costs the value alone."""
    values = LOSSES[name].stacked(x, scalars)
    plan = (name, implementation, offset, denominator or len(x))
    recorded = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in (x, y, values))
    if recorded and not forward_only:
        return _loss_and_gradients(x, y, values, *plan)[0]
    return _loss_alone(x, y, values, *plan)


def pair_loss_and_gradients(
    name: str, x, y, *, implementation: str, offset: int = 0, denominator: int | None = None, **scalars
):
    """Value and all gradients, as the loss's own answer; nothing is recorded for differentiation."""
    with torch.no_grad():
        plan = (name, implementation, offset, denominator or len(x))
        value, dx, dy, of_scalars = _loss_and_gradients(x, y, LOSSES[name].stacked(x, scalars), *plan)
    return LOSSES[name].answer(value, dx, dy, *of_scalars)


def _as_scalar(value, x: torch.Tensor) -> torch.Tensor:
    return torch.as_tensor(value, device=x.device).to(torch.float32).reshape(())


@torch.library.custom_op("diptych::contrastive_loss_and_gradients", mutates_args=())
def _loss_and_gradients(
    x: torch.Tensor,
    y: torch.Tensor,
    scalars: torch.Tensor,
    name: str,
    implementation: str,
    offset: int,
    denominator: int,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    value, dx, dy, of_scalars = computed(x, y, scalars, name, implementation, offset, denominator, with_gradients=True)
    return value, dx, dy, of_scalars


@_loss_and_gradients.register_fake
def _(x, y, scalars, name, implementation, offset, denominator):
    gradients = (
        torch.empty_like(tensor, dtype=torch.float32, memory_format=torch.contiguous_format) for tensor in (x, y)
    )
    return scalars.new_empty(()), *gradients, torch.empty_like(scalars)


@torch.library.custom_op("diptych::contrastive_loss", mutates_args=())
def _loss_alone(
    x: torch.Tensor,
    y: torch.Tensor,
    scalars: torch.Tensor,
    name: str,
    implementation: str,
    offset: int,
    denominator: int,
) -> torch.Tensor:
    return computed(x, y, scalars, name, implementation, offset, denominator, with_gradients=False)[0]


@_loss_alone.register_fake
def _(x, y, scalars, name, implementation, offset, denominator):
    return scalars.new_empty(())


def _keep_name(ctx, inputs, output):
    ctx.loss_name = inputs[3]


def _no_gradient(ctx, cotangent):
    raise RuntimeError(
        f"{ctx.loss_name} was called with forward_only=True, which keeps nothing for a gradient: leave it out to train."
    )


_loss_alone.register_autograd(_no_gradient, setup_context=_keep_name)


def _keep_gradients(ctx, inputs, output):
    _, *gradients = output
    ctx.loss_name = inputs[3]
    ctx.mark_non_differentiable(*gradients)
    ctx.save_for_backward(*inputs[:3], *gradients)


def _backward(ctx, cotangent, *_):
    inputs, gradients = ctx.saved_tensors[:3], ctx.saved_tensors[3:]
    return *multiplied(gradients, cotangent, inputs, ctx.loss_name), None, None, None, None


_loss_and_gradients.register_autograd(_backward, setup_context=_keep_gradients)


def multiplied(gradients, cotangent, inputs, name: str) -> tuple[torch.Tensor, ...]:
    """The float32 gradients times a number, each rounded to its input's dtype in the same pass over memory."""
    scaled = [torch.mul(g, cotangent, out=torch.empty_like(x)) for g, x in zip(gradients, inputs, strict=True)]
    if torch.is_grad_enabled():  # create_graph=True: somebody may differentiate what is returned
        return _FirstDerivatives.apply(name, *scaled, cotangent, *inputs)
    return tuple(scaled)


class _FirstDerivatives(torch.autograd.Function):
    """Hands on its first three tensors, and refuses to be differentiated: a wrong second derivative would go
    unnoticed.
    """

    @staticmethod
    def forward(ctx, name, *tensors):
        ctx.loss_name = name
        return tuple(gradient.clone() for gradient in tensors[:3])

    @staticmethod
    def backward(ctx, *cotangents):
        raise RuntimeError(
            f"{ctx.loss_name} has first derivatives only: its gradient was differentiated again. "
            'For second derivatives take implementation="reference".'
        )


def computed(
    x,
    y,
    scalars,
    name: str,
    implementation: str,
    offset: int,
    denominator: int,
    *,
    with_gradients: bool,
    largest: int | None = None,
) -> tuple:
    """Loss and gradients of one device's pairs, in float32 whatever `torch.autocast` asks of other products; largest is
    that of the sweeps' blocks.
    """

    def alone(sweep: Sweep, beside_rows=(), beside_columns=()) -> Swept:
        return sweep.run(x, y, offset, *beside_rows, *beside_columns)

    plan = {"offset": offset, "denominator": denominator, "with_gradients": with_gradients, "largest": largest}
    with torch.autocast(x.device.type, enabled=False):
        return LOSSES[name].implementations[implementation](alone, x, y, scalars, **plan)
