"""ONNX graphs with weights of fewer bits, by onnxruntime's own tools."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

Precision = Literal["float32", "float16", "int8"]

LARGEST_DIFFERENCES: dict[Precision, float] = {"float32": 1e-4, "float16": 1e-2, "int8": 0.1}
"""Between any two entries of embeddings of length one: more is no rounding any longer."""


def shrink(path: Path, precision: Precision) -> None:
    """Replace a graph of float32 by one whose weights have fewer bits; inputs and outputs stay as they are.

    "float16" computes in float16, too. "int8" has one scale for each column of a matrix, and multiplies by inputs that
    are rounded anew in each call, so that nothing has to be calibrated; norms, softmax and convolutions stay in
    float32. Weights that lie in a file of their own (`<path>.data`) lie there afterwards.
    """
    import onnx

    apart = Path(f"{path}.data").exists()
    graph = _in_int8(path, apart) if precision == "int8" else _in_float16(path, apart)
    for file in path.parent.glob(f"{path.name}*"):
        file.unlink()
    onnx.save_model(graph, path, save_as_external_data=apart, location=f"{path.name}.data")


def _in_int8(path: Path, apart: bool) -> Any:
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    smaller = path.with_name(f"smaller-{path.name}")
    with _quiet():
        quantize_dynamic(
            path,
            smaller,
            per_channel=True,
            weight_type=QuantType.QInt8,
            op_types_to_quantize=["MatMul", "Gemm", "Gather"],
            use_external_data_format=apart,
        )
    graph = onnx.load(smaller)  # with the weights, wherever they are
    said = onnx.load(path, load_external_data=False).metadata_props
    del graph.metadata_props[:]  # the tool adds a word of its own
    graph.metadata_props.extend(said)
    for file in path.parent.glob(f"{smaller.name}*"):
        file.unlink()
    return graph


def _in_float16(path: Path, apart: bool) -> Any:
    import onnx
    from onnxruntime.transformers.float16 import convert_float_to_float16

    with _quiet():
        return convert_float_to_float16(onnx.load(path), keep_io_types=True, disable_shape_infer=apart)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without advice for other models: the tools speak through the root logger."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
