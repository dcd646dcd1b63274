"""A model's blocks as units whose weights are whole only while they compute (FSDP2).

Reference: Zhao et al. 2023, "PyTorch FSDP: Experiences on scaling fully sharded data parallel".
"""

import warnings
from collections.abc import Iterator, Sequence

import keras
import torch
import torch.distributed as dist
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from diptych.backends.shares import Held
from diptych.backends.torch.passes import Passes
from diptych.backends.torch.spread import Spread, by_rows, held_pieces

# Nothing that a unit gives is changed in place.
warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view tensor")

BLOCK = "block_"
"""What the names of the layers begin with that become units, unless they lie within another."""


class Unit(torch.nn.Module):
    """Weights that are gathered together, and what computes with them.

    Keras's layers are no torch modules of their own: a unit holds their values as parameters, and before it computes
    hands them, gathered by then, to the variables.
    """

    def __init__(self, variables: Sequence[keras.Variable], function):
        super().__init__()
        self.variables, self._function = list(variables), function
        for number, variable in enumerate(self.variables):
            self.register_parameter(f"weight_{number}", variable.value)

    def bind(self) -> None:
        """Makes the variables hold the parameters as these are now."""
        for number, variable in enumerate(self.variables):
            variable._value = getattr(self, f"weight_{number}")

    def forward(self, *arguments, **named):
        self.bind()
        return self._function(*arguments, **named)


class Units(torch.nn.Module):
    """A model's trained weights in units: one a block, and one of all other weights. Scalars, which cannot be cut, and
    frozen weights belong to none and stay whole.

    Between `attach` and `detach` the blocks compute through their units; before and after the model is as it was.

    Args:
        model: whose blocks are meant.
        variables: the trained weights.
    """

    def __init__(self, model: keras.Model, variables: Sequence[keras.Variable]):
        super().__init__()
        self.alone = [place for place, variable in enumerate(variables) if not variable.shape]
        left = {id(variable): variable for variable in variables if variable.shape}
        blocks, self._layers = torch.nn.ModuleList(), []
        for layer in _blocks(model):
            own = [left.pop(id(weight)) for weight in layer.trainable_weights if id(weight) in left]
            if own:
                blocks.append(Unit(own, layer.call))
                self._layers.append(layer)
        self.root = Unit(list(left.values()), lambda function, *arguments: function(*arguments))
        self.root.blocks = blocks
        device = variables[0].value.device.type
        mesh = dist.device_mesh.init_device_mesh(device, (dist.get_world_size(),))
        for unit in blocks:
            fully_shard(unit, mesh=mesh)
        fully_shard(self.root, mesh=mesh)

    def forward(self, function, *arguments):
        """The function of the arguments, within which the units gather their weights."""
        return self.root(function, *arguments)

    def attach(self) -> None:
        """Makes the variables hold the cut parameters, and the blocks compute through their units."""
        for unit in self._units:
            unit.bind()
        for layer, unit in zip(self._layers, self.root.blocks, strict=True):
            object.__setattr__(layer, "call", unit)  # a Keras layer would track it as a layer of its own

    def detach(self) -> None:
        """Lets the blocks compute with what their variables hold."""
        for layer in self._layers:
            object.__delattr__(layer, "call")

    def parameter_of(self) -> dict[int, torch.nn.Parameter]:
        """The cut parameters by the identity of their variables."""
        return {
            id(variable): getattr(unit, f"weight_{number}")
            for unit in self._units
            for number, variable in enumerate(unit.variables)
        }

    @property
    def _units(self) -> list[Unit]:
        return [self.root, *self.root.blocks]


def _blocks(layer: keras.layers.Layer) -> Iterator[keras.layers.Layer]:
    """The outermost layers whose names say that they are blocks."""
    for inner in layer._flatten_layers(include_self=False, recursive=False):
        if inner.name.startswith(BLOCK):
            yield inner
        else:
            yield from _blocks(inner)


class UnitPasses(Passes):
    """Passes over weights in units. Gradients add up in the units, which send each process its own part of the mean
    with the last pass.

    Args:
        units: of the weights.
        variables: the trained weights.
    """

    def __init__(self, units: Units, variables: Sequence[keras.Variable]):
        self._units, self._variables = units, variables

    def add(self, outputs, cotangents=None, inputs=()):
        return self._backward(outputs, cotangents, inputs, last=False)

    def last(self, outputs, cotangents=None):
        """The last pass, and the means: of each weight this process's rows, of a scalar itself."""
        self._backward(outputs, cotangents, (), last=True)
        cut = self._units.parameter_of()
        means = [_taken(cut.get(id(variable), variable.value)) for variable in self._variables]
        if alone := [means[place] for place in self._units.alone]:
            together = torch.stack(alone)
            dist.all_reduce(together)
            torch._foreach_copy_(alone, list(together / dist.get_world_size()))
        return means

    def _backward(self, outputs, cotangents, inputs, *, last):
        self._units.root.set_requires_gradient_sync(last)
        torch.autograd.backward(outputs, cotangents)
        return [tensor.grad for tensor in inputs]


def _taken(parameter: torch.Tensor) -> torch.Tensor:
    """What has added up as a parameter's gradient here, which begins anew."""
    gradient, parameter.grad = parameter.grad, None
    held = torch.zeros_like(parameter) if gradient is None else gradient
    return held.detach().to_local() if isinstance(held, DTensor) else held.detach()


class UnitWeights:
    """Weights in units: of each a process holds and updates its rows.

    Attributes:
        spread, pieces: as of `WholeWeights`.
    """

    def __init__(self, variables: Sequence[keras.Variable], units: Units):
        self._variables, self._units = variables, units
        self._whole = [variable.value for variable in variables]  # Keras's layers hold these, too
        self.spread = by_rows(self._whole)
        cut = units.parameter_of()
        held = [cut[id(v)].to_local() if id(v) in cut else v.value for v in variables]
        self.pieces = [held[piece.place].detach().view(-1) for piece in self.spread.pieces]

    def of_gradients(self, means: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """The pieces of the gradients, of each weight this process's rows."""
        return [means[piece.place].reshape(-1) for piece in self.spread.pieces]

    def of_some(self, variables: Sequence[keras.Variable]) -> tuple[Spread, list[torch.Tensor]]:
        """As of `WholeWeights`; averages are cut as their weights are."""
        own = zip(self.spread.pieces, self.pieces, strict=True)
        pieces = {id(self._variables[piece.place]): tensor for piece, tensor in own}
        spread = by_rows([variable.value for variable in variables])
        return spread, [pieces[id(variables[piece.place])] for piece in spread.pieces]

    def gather(self) -> None:
        """The scalars, which the first process alone updates."""
        for place, value in self.spread.whole(self.pieces, among=self._units.alone):
            self._variables[place].value.detach().copy_(value)

    def held(self) -> dict[int, list[Held]]:
        """See `held_pieces`."""
        return held_pieces(self._variables, self.spread, self.pieces)

    def take(self) -> None:
        """Takes this process's rows of what the variables hold, and the memory."""
        for piece, value in zip(self.pieces, self.spread.of_tensors(self._whole), strict=True):
            piece.copy_(value)
        for place, whole in enumerate(self._whole):
            if place not in self._units.alone:
                whole.data = torch.empty(0, dtype=whole.dtype, device=whole.device)
        self._units.attach()

    def give(self) -> None:
        """Makes the variables hold the weights, whole."""
        for place, value in self.spread.whole(self.pieces):
            if place not in self._units.alone:
                self._whole[place].data = value.clone()
                self._variables[place]._value = self._whole[place]
        self._units.detach()
