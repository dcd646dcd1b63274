"""One training step on torch: eager towers, gradients by `torch.autograd.grad`, updates over whole lists of weights."""

import torch
from keras import ops

from diptych.backends.torch.optimizers import apply_updates


class TrainStep:
    """See `diptych.backends.train_step` for the contract. Keras variables are updated in place at every call."""

    compilations = 0  # nothing is compiled

    def __init__(self, model, objective, optimizer, *, clip_norm=None, ema=None, teacher=None, micro_batches=1):
        self._model, self._objective, self._optimizer = model, objective, optimizer
        self._clip_norm, self._micro_batches = clip_norm, micro_batches
        self._followers = [follower for follower in (ema, teacher) if follower]
        self._variables = model.trainable_variables
        optimizer.build(self._variables)
        self._weights = [v.value for v in self._variables]
        self._device = self._weights[0].device
        self._apply = apply_updates(optimizer, self._variables)

    def __call__(self, batch):
        batch = {name: torch.as_tensor(array).to(self._device, non_blocking=True) for name, array in batch.items()}
        (loss, logs, updates), gradients = self.gradients(batch)
        with torch.no_grad():
            norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))
            finite = torch.isfinite(loss) & torch.isfinite(norm)
            if finite:
                if self._clip_norm is not None:
                    torch._foreach_mul_(gradients, (self._clip_norm / norm).clamp(max=1.0))
                self._apply(gradients)
                for follower in self._followers:
                    averages = [average.value for average in follower.averages]
                    torch._foreach_mul_(averages, follower.decay)
                    torch._foreach_add_(averages, [w.value for w in follower.weights], alpha=1 - follower.decay)
                for variable, value in zip(self._objective.variables, updates, strict=True):
                    variable.assign(value)
        return {"loss": loss, "gradient_norm": norm, "finite": finite, **logs}

    def synchronize(self):
        """Nothing to do: the Keras variables hold the state."""

    def gradients(self, batch):
        """-> (loss, logs, updates of the objective's variables), gradients in the order of the weights."""
        with torch.no_grad():
            batch = self._objective.prepare(self._model, batch)
        if self._micro_batches == 1:
            loss, rest = self._loss_of(self._objective.embed(self._model, batch))
            return (loss.detach(), *rest), list(_gradients([loss], self._weights))

        pieces = [dict(zip(batch, split, strict=True)) for split in zip(*map(self._split, batch.values()), strict=True)]
        with torch.no_grad():
            embedded = [self._objective.embed(self._model, piece) for piece in pieces]
        parts = [torch.cat(part).requires_grad_() for part in zip(*embedded, strict=True)]
        loss, rest = self._loss_of(parts)
        direct = _gradients([loss], [*parts, *self._weights])
        cotangents, total = direct[: len(parts)], list(direct[len(parts) :])
        for piece, cotangent in zip(pieces, zip(*map(self._split, cotangents), strict=True), strict=True):
            # Parts that do not depend on the weights, such as a teacher's, carry no gradient and take none.
            outputs = [(o, c) for o, c in zip(self._objective.embed(self._model, piece), cotangent, strict=True)]
            outputs = [(o, c) for o, c in outputs if o.requires_grad]
            gradients = _gradients([o for o, _ in outputs], self._weights, [c for _, c in outputs])
            torch._foreach_add_(total, list(gradients))
        return (loss.detach(), *rest), total

    def _loss_of(self, parts):
        """-> loss, (logs, updates) without gradients."""
        loss, logs = self._objective.loss_of(self._model, parts)
        with torch.no_grad():
            updates = self._objective.updates(self._model, parts)
        return loss, ({name: ops.stop_gradient(x) for name, x in logs.items()}, updates)

    def _split(self, x):
        return x.chunk(self._micro_batches)


def _gradients(outputs, inputs, cotangents=None):
    return torch.autograd.grad(outputs, inputs, cotangents, allow_unused=True, materialize_grads=True)
