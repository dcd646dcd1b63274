"""One training step on torch: eager towers, gradients by `torch.autograd.grad`, updates over whole lists of weights."""

import torch
from keras import ops

from diptych.backends.torch.optimizers import apply_updates


class TrainStep:
    """See `diptych.backends.train_step` for the contract. Keras variables are updated in place at every call."""

    def __init__(self, model, objective, optimizer, *, clip_norm=None, ema=None, micro_batches=1):
        self._model, self._objective, self._optimizer = model, objective, optimizer
        self._clip_norm, self._micro_batches, self._ema = clip_norm, micro_batches, ema
        self._variables = model.trainable_variables
        optimizer.build(self._variables)
        self._weights = [v.value for v in self._variables]
        self._device = self._weights[0].device
        self._apply = apply_updates(optimizer, self._variables)

    def __call__(self, batch):
        batch = {name: torch.as_tensor(array).to(self._device, non_blocking=True) for name, array in batch.items()}
        (loss, logs), gradients = self.gradients(batch)
        with torch.no_grad():
            norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))
            finite = torch.isfinite(loss) & torch.isfinite(norm)
            if finite:
                if self._clip_norm is not None:
                    torch._foreach_mul_(gradients, (self._clip_norm / norm).clamp(max=1.0))
                self._apply(gradients)
                if self._ema:
                    averages = [a.value for a in self._ema.averages]
                    torch._foreach_mul_(averages, self._ema.decay)
                    torch._foreach_add_(averages, self._weights, alpha=1 - self._ema.decay)
        return {"loss": loss, "gradient_norm": norm, "finite": finite, **logs}

    def synchronize(self):
        """Nothing to do: the Keras variables hold the state."""

    def gradients(self, batch):
        """-> (loss, logs), gradients in the order of the weights."""
        if self._micro_batches == 1:
            value = self._objective.loss_of(self._model, self._objective.embed(self._model, batch))
            return _detached(value), list(_gradients([value[0]], self._weights))

        pieces = [dict(zip(batch, split, strict=True)) for split in zip(*map(self._split, batch.values()), strict=True)]
        with torch.no_grad():
            embedded = [self._objective.embed(self._model, piece) for piece in pieces]
        embeddings = [torch.cat(parts).requires_grad_() for parts in zip(*embedded, strict=True)]
        value = self._objective.loss_of(self._model, embeddings)
        direct = _gradients([value[0]], [*embeddings, *self._weights])
        cotangents, total = direct[: len(embeddings)], list(direct[len(embeddings) :])
        for piece, cotangent in zip(pieces, zip(*map(self._split, cotangents), strict=True), strict=True):
            outputs = self._objective.embed(self._model, piece)
            torch._foreach_add_(total, list(_gradients(outputs, self._weights, cotangent)))
        return _detached(value), total

    def _split(self, x):
        return x.chunk(self._micro_batches)


def _gradients(outputs, inputs, cotangents=None):
    return torch.autograd.grad(outputs, inputs, cotangents, allow_unused=True, materialize_grads=True)


def _detached(value):
    loss, logs = value
    return loss.detach(), {name: ops.stop_gradient(x) for name, x in logs.items()}
