"""Towers as graphs without Keras: torch's own archive (`.pt2`), and ONNX.

A shape is a tuple of sizes and, where any size will do, of names: `("batch", 48, 48, 3)`. A name made of several
others, "past_tokens", stands for their sum.
"""

import logging
import warnings
from collections.abc import Callable, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import keras
import numpy as np
import torch

Shapes = Mapping[str, tuple[int | str, ...]]

_WORDS_OF_THE_MAKER = ("stack_trace", "nn_module_stack", "source_fn_stack", "from_node")


class Exported(Protocol):
    """What is written: a Keras model whose outputs have names, or something that can be asked the same."""

    inputs: Any
    output: Mapping[str, Any]

    def __call__(self, inputs, *, training: bool) -> Mapping[str, Any]: ...


class _Positional(torch.nn.Module):
    """A model that takes its inputs one by one and returns its outputs, alone where there is one."""

    def __init__(self, model: Exported):
        super().__init__()
        self.held = (
            model,
        )  # in a tuple, where torch does not see its parameters: it would keep them and their traced values
        self.names = [x.name for x in model.inputs]

    def forward(self, *arrays):
        inputs = dict(zip(self.names, arrays, strict=True))
        outputs = tuple(self.held[0](inputs, training=False).values())
        return outputs if len(outputs) > 1 else outputs[0]


def write_torch_export(model: Exported, shapes: Shapes, path: Path) -> None:
    """Writes an archive that `torch.export.load` reads; its module takes the inputs in the order of `shapes`."""
    dimensions = {name: torch.export.Dim(name) for shape in shapes.values() for name in shape if isinstance(name, str)}
    dynamic = tuple({axis: dimensions[axis_name] for axis, axis_name in _named(shape)} for shape in shapes.values())
    with torch.no_grad(), _quiet():
        program = torch.export.export(_Positional(model).eval(), _examples(model, shapes), dynamic_shapes=(dynamic,))
    for module in program.graph_module.modules():
        if isinstance(module, torch.fx.GraphModule):
            for node in module.graph.nodes:
                for key in _WORDS_OF_THE_MAKER:  # they hold the paths of source files on this machine
                    node.meta.pop(key, None)
    torch.export.save(program, path)


def load_torch_export(path: Path) -> Callable[[Mapping[str, np.ndarray]], np.ndarray]:
    """The archive as a function of arrays by name, in the order in which it takes them."""
    module = torch.export.load(path).module()

    def run(inputs: Mapping[str, np.ndarray]) -> np.ndarray:
        with torch.no_grad():
            return module(*(torch.from_numpy(array) for array in inputs.values())).numpy()

    return run


def write_onnx(
    model: Exported, shapes: Shapes, path: Path, *, metadata: Mapping[str, str], external_data: bool = False
) -> None:
    """Writes an ONNX graph; its outputs have the names that they have in the model.

    Args:
        model: with inputs and outputs by name.
        shapes: of the inputs.
        path: of the `.onnx` file.
        metadata: what the graph's `metadata_props` shall say.
        external_data: weights go into a file of their own, `<path>.data`; those over 2 GB do so anyway, as no other way
            exists.
    """
    dynamic = tuple(dict(_named(shape)) for shape in shapes.values())
    with torch.no_grad(), _quiet():
        program = torch.onnx.export(
            _Positional(model).eval(),
            _examples(model, shapes),
            dynamo=True,
            dynamic_shapes=(dynamic,),
            input_names=list(shapes),
            output_names=list(model.output),
            verbose=False,
        )
    if program is None:
        raise RuntimeError("torch.onnx.export returned no graph.")
    for node in program.model.graph.all_nodes():
        node.metadata_props.clear()  # stack traces, with the paths of source files on this machine
    program.model.metadata_props.update(metadata)
    program.save(path, external_data=external_data)


def _named(shape: tuple[int | str, ...]) -> list[tuple[int, str]]:
    return [(axis, size) for axis, size in enumerate(shape) if isinstance(size, str)]


def _examples(model: Exported, shapes: Shapes) -> tuple[torch.Tensor, ...]:
    """Inputs to trace the model with; their values do not matter."""
    dtypes = {x.name: x.dtype for x in model.inputs}
    names = sorted({name for shape in shapes.values() for _, name in _named(shape)})
    # 0 and 1, and sizes alike, would be taken for constants.
    sizes = {name: place + 2 for place, name in enumerate(names)}
    for name in names:
        if len(parts := [part for part in names if part != name and part in name.split("_")]) > 1:
            sizes[name] = sum(sizes[part] for part in parts)
    return tuple(
        keras.ops.ones([sizes[size] if isinstance(size, str) else size for size in shape], dtype=dtypes[name])
        for name, shape in shapes.items()
    )


@contextmanager
def _quiet():
    """Without what torch says of its own inner life and of packages that these graphs do not need."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
