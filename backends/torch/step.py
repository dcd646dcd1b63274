"""One training step on torch: gradients by `torch.autograd.grad`, and updates over whole lists of weights."""

from contextlib import contextmanager, nullcontext
from functools import partial

import keras
import torch

from diptych.backends.torch.compiled import CompiledGradients
from diptych.backends.torch.optimizers import apply_updates, keep
from diptych.backends.torch.passes import Passes, ReducedPasses
from diptych.backends.torch.reduction import (
    Reduction,
    in_order,
    largest_of_processes,
    mean_over_processes,
    norm_over_processes,
)
from diptych.backends.torch.spread import SpreadState, WholeWeights, held_whole
from diptych.backends.torch.whole_batch import SharedBatch
from diptych.backends.untrained import carried


class TrainStep:
    """See `diptych.backends.train_step` for the contract. Keras variables are updated in place at every call; those
    whose values are spread hold them after `synchronize` alone.

    No call waits for the device: what a step that is not finite leaves alone is chosen there. (Of several processes the
    first call does, and each that chooses its examples.)
    """

    def __init__(
        self,
        model,
        objective,
        optimizer,
        *,
        clip_norm=None,
        ema=None,
        teacher=None,
        micro_batches=1,
        compiler=None,
        processes=1,
        zero=False,
        fsdp=1,
    ):
        self._model, self._objective, self._optimizer = model, objective, optimizer
        self._clip_norm, self._micro_batches = clip_norm, micro_batches
        self._followers = [follower for follower in (ema, teacher) if follower]
        self._variables = model.trainable_variables
        optimizer.build(self._variables)
        self._weights = [v.value for v in self._variables]
        self._untrained = model.non_trainable_variables
        self._device = self._weights[0].device
        self._compiled = CompiledGradients(self.gradients, self._variables, compiler) if compiler else None
        self._others = self._reduction = self._units = self._state = None
        self._begin = partial(Passes, self._weights)
        if processes > 1:
            self._share(ema, teacher, zero=zero, fsdp=fsdp)
        self._apply = self._state.apply if self._state else apply_updates(optimizer, self._variables)
        self.torn = False

    def _share(self, ema, teacher, *, zero, fsdp):
        """Makes the step one that several processes take together."""
        self._others, held = SharedBatch(), None
        if fsdp > 1:
            from diptych.backends.torch.units import UnitPasses, Units, UnitWeights  # takes a second

            self._units = Units(self._model, self._variables)
            self._begin = partial(UnitPasses, self._units, self._variables)
            held = UnitWeights(self._variables, self._units)
            self._weights = None
        else:
            self._reduction = Reduction(self._weights, scattered=zero)
            self._begin = partial(ReducedPasses, self._weights, self._reduction)
            if zero:
                held = WholeWeights(self._variables, self._reduction.buckets)
        if held is not None:
            self._state = SpreadState(self._optimizer, self._variables, held, ema, teacher)
            self._followers = []

    def __call__(self, batch, asks=()):
        batch = {name: torch.as_tensor(array).to(self._device, non_blocking=True) for name, array in batch.items()}
        if self._state:
            self._state.take()
        with self._seeing():
            forward = self._compiled if self._compiled is not None else self.gradients
            compared, own, gradients, moved = forward(batch)
        asked = {}
        if self._others:
            own = mean_over_processes(own)
            if asks:
                asked = {"asked": largest_of_processes(asks, self._device)}
        with torch.no_grad():
            total = self._objective.total(compared | own)
            # Copies: a log may be a weight itself, such as the bias of the loss, which moves in place below.
            loss, logs = total.value.clone(), {name: log.detach().clone() for name, log in total.logs.items()}
            norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))
            if self._state:
                norm = norm_over_processes(norm)
            finite = torch.isfinite(loss) & torch.isfinite(norm)
            if self._clip_norm is not None:
                torch._foreach_mul_(gradients, (self._clip_norm / norm).clamp(max=1.0))
            self.torn = True
            self._apply(gradients, finite)
            for follower in self._followers:
                averages = [average.value for average in follower.averages]
                moved_on = torch._foreach_mul(averages, follower.decay)
                torch._foreach_add_(moved_on, [w.value for w in follower.weights], alpha=1 - follower.decay)
                keep(averages, moved_on, where=finite)
            held = self._objective.variables
            keep([held[name].value for name in held], [total.updates[name] for name in held], where=finite)
            keep([variable.value for variable in self._untrained], moved, where=finite)
            self.torn = False
        return {"loss": loss, "gradient_norm": norm, "finite": finite, **logs, **asked}

    @property
    def compilations(self) -> int:
        """How many shapes of batches the step has been compiled for."""
        return 0 if self._compiled is None else len(self._compiled)

    def synchronize(self):
        """Brings spread state back into the Keras variables, which hold all of any other."""
        if self._state:
            self._state.give()

    def held(self, variables):
        spread = self._state.held() if self._state else {}
        return {
            name: spread[id(variable)] if id(variable) in spread else held_whole(variable.value)
            for name, variable in variables.items()
        }

    def gradients(self, batch, weights=None):
        """-> the losses of the terms that compare examples, and of the others, by term and without gradients; the
        gradients of their weighted sum in the order of the weights; and the untrained weights as the model leaves them.

        Of several processes the gradients are the mean over all, whole or this process's pieces, and the first losses
        are of all; the others are those of this process's examples.

        `weights` stand for the trained ones, where those of the variables are not meant.
        """
        objective, untrained = self._objective, [variable.value for variable in self._untrained]
        passes = self._begin() if weights is None else Passes(weights)
        with torch.no_grad():
            batch = self._forward(objective.prepare, batch, untrained)[0]
        if self._micro_batches == 1:
            (embedded, own), moved = self._forward(objective.forward, batch, untrained)
            losses = objective.losses(self._model, embedded)
            gradients = passes.last([objective.total(losses | own).value])
            return _detached(losses), _detached(own), self._laid_out(gradients), moved

        pieces = [dict(zip(batch, split, strict=True)) for split in zip(*map(self._split, batch.values()), strict=True)]
        losses, cotangents = {}, [{} for _ in pieces]
        if objective.compares:
            with torch.no_grad():
                embedded = [self._forward(objective.embed, piece, untrained)[0] for piece in pieces]
            joined = {name: torch.cat([part[name] for part in embedded]).requires_grad_() for name in embedded[0]}
            losses = objective.losses(self._model, joined)
            direct = passes.add([objective.total(losses).value], inputs=list(joined.values()))
            split = zip(*map(self._split, direct), strict=True)
            cotangents = [dict(zip(joined, cotangent, strict=True)) for cotangent in split]
        owns = []
        for piece, cotangent in zip(pieces, cotangents, strict=True):
            (embedded, own), untrained = self._forward(objective.forward, piece, untrained)
            outputs = [(embedded[name], cotangent[name]) for name in embedded]
            if own:
                value = objective.total(own).value
                outputs.append((value, torch.full_like(value, 1 / self._micro_batches)))
            # What does not depend on trained weights, such as a locked tower's embeddings, carries no gradient and
            # takes none.
            outputs = [(output, cotangent) for output, cotangent in outputs if output.requires_grad]
            owns.append(_detached(own))
            backward = passes.add if len(owns) < len(pieces) else passes.last
            gradients = backward([o for o, _ in outputs], [c for _, c in outputs])
        mean = keras.tree.map_structure(lambda *values: torch.stack(values).mean(dim=0), *owns)
        return _detached(losses), mean, self._laid_out(gradients), untrained

    def _laid_out(self, gradients):
        """The gradients as they are applied: in the order of the weights, or of this process's pieces."""
        if self._state:
            return self._state.of_gradients(gradients)
        return in_order(self._reduction.buckets, gradients) if self._reduction else gradients

    @contextmanager
    def _seeing(self):
        """Within it the objective sees what other processes hold."""
        if not self._others:
            yield
            return
        with self._objective.seeing(self._others), self._state.teaching() if self._state else nullcontext():
            yield

    def _forward(self, function, argument, untrained):
        arguments = (function, self._model, argument, self._untrained, untrained)
        return self._units(carried, *arguments) if self._units else carried(*arguments)

    def _split(self, x):
        return x.chunk(self._micro_batches)


def _detached(losses):
    return keras.tree.map_structure(torch.Tensor.detach, losses)
