"""The formats of `recipes.export`: who writes them and what must be installed. Nothing here imports Keras."""

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any, Literal, get_args

from diptych.backends.selection import BACKENDS, installed_backends
from diptych.engine.export import writers
from diptych.engine.export.smaller import Precision

FormatName = Literal["onnx", "openvino", "saved_model", "litert", "torch_export", "stablehlo", "keras"]

GIGABYTES_2 = 2**31 - 1


@dataclass(frozen=True, kw_only=True)
class ExportFormat:
    """One format.

    backends: that can compute what it must give and write it, the best one first.
    packages: module -> what to pip install, of all that it needs besides the backend.
    file: a tower's file or folder, where {} stands for the tower's name.
    reader: what reads it.
    write, load: see `export_writers`.
    most_bytes: of a tower's weights, None where there is no limit.
    fixed_num_patches: whether a NaFlex tower takes one number of patches only.
    precisions: that its weights can have.
    decoders: whether it holds a decoder that takes and gives its cache.
    """

    backends: tuple[str, ...]
    file: str
    reader: str
    write: Callable[[writers.Job], None]
    load: Callable[[writers.Job, Any], Callable]
    packages: dict[str, str] = field(default_factory=dict)
    most_bytes: int | None = None
    fixed_num_patches: bool = False
    precisions: tuple[Precision, ...] = ("float32",)
    decoders: bool = False


_ONNX = {"torch": "torch", "onnx": "onnx", "onnxscript": "onnxscript", "onnxruntime": "onnxruntime"}

FORMATS: dict[FormatName, ExportFormat] = {
    "onnx": ExportFormat(
        backends=("torch", "jax", "tensorflow"),
        packages=_ONNX,
        file="{}.onnx",
        reader="onnxruntime, or anything else that reads ONNX",
        write=writers.write_onnx,
        load=writers.load_onnx,
        precisions=get_args(Precision),
        decoders=True,
    ),
    "openvino": ExportFormat(
        backends=("torch", "jax", "tensorflow"),
        packages=_ONNX | {"openvino": "openvino"},
        file="{}.xml",
        reader="OpenVINO",
        write=writers.write_openvino,
        load=writers.load_openvino,
    ),
    "saved_model": ExportFormat(
        backends=("tensorflow", "jax"),
        packages={"tensorflow": "tensorflow"},
        file="{}",
        reader="tensorflow or its servers",
        write=writers.write_saved_model,
        load=writers.load_saved_model,
    ),
    "litert": ExportFormat(
        backends=("tensorflow",),
        file="{}.tflite",
        reader="LiteRT, which was TensorFlow Lite",
        write=writers.write_litert,
        load=writers.load_litert,
        most_bytes=GIGABYTES_2,
        fixed_num_patches=True,  # with any number, it needs operations that LiteRT's runtimes do not have
    ),
    "torch_export": ExportFormat(
        backends=("torch",),
        file="{}.pt2",
        reader="torch.export.load",
        write=writers.write_torch_export,
        load=writers.load_torch_export,
    ),
    "stablehlo": ExportFormat(
        backends=("jax",),
        file="{}.stablehlo",
        reader="jax.export.deserialize, for CPU, CUDA, ROCm and TPU",
        write=writers.write_stablehlo,
        load=writers.load_stablehlo,
        most_bytes=GIGABYTES_2,
    ),
    "keras": ExportFormat(
        backends=BACKENDS,
        file="model.keras",
        reader="keras.saving.load_model on any backend, with diptych.models imported",
        write=writers.write_keras,
        load=writers.load_keras,
    ),
}


def check_precision(name: FormatName, precision: Precision) -> None:
    """ValueError for a format whose weights cannot have that precision."""
    if precision not in FORMATS[name].precisions:
        able = [other for other, format in FORMATS.items() if precision in format.precisions]
        raise ValueError(f"--precision {precision} is not for --format {name}: expected --format {' or '.join(able)}.")


def check_decoder(name: FormatName, precision: Precision) -> None:
    """ValueError for a format, or a precision, in which no decoder is written."""
    able = [other for other, format in FORMATS.items() if format.decoders]
    if name not in able:
        raise ValueError(
            f"--format {name} holds no decoder that takes and gives its cache: expected --format {' or '.join(able)} "
            "for a model that writes."
        )
    if precision != "float32":
        raise ValueError(
            f"--precision {precision} is not for a model that writes: expected float32, in which its tokens are "
            "compared. recipes.ask runs it with --dtype int8 or bfloat16."
        )


def choose_backend(name: FormatName, asked: str | None) -> str:
    """The backend to export on, with everything installed that the format needs.

    Args:
        name: of the format.
        asked: what KERAS_BACKEND says, None where it says nothing; then the best that is installed is taken.

    Raises:
        ValueError: for a backend that cannot write the format, saying which can; for packages that are missing, saying
        what to type.
    """
    chosen, installed = FORMATS[name], installed_backends()
    if asked and asked not in chosen.backends:
        able = [other for other, format in FORMATS.items() if asked in format.backends]
        raise ValueError(
            f"KERAS_BACKEND={asked} cannot write --format {name}: expected {_alternatives(chosen.backends)}. All "
            f"backends read the same models. With {asked} these formats work: {', '.join(able)}."
        )
    candidates = [asked] if asked else [backend for backend in chosen.backends if backend in installed]
    missing = [install for module, install in chosen.packages.items() if find_spec(module) is None]
    if not candidates and chosen.backends[0] not in missing:
        missing = [chosen.backends[0], *missing]
    if missing:
        raise ValueError(f"--format {name} needs what is not installed. Type: pip install {' '.join(missing)}")
    return candidates[0]


def compute_on_the_cpu() -> None:
    """Exported graphs are traced and judged on the CPU: GPUs round products of float32 to fewer bits. To be called
    before Keras is imported.
    """
    os.environ |= {"CUDA_VISIBLE_DEVICES": "-1", "JAX_PLATFORMS": "cpu", "KERAS_TORCH_DEVICE": "cpu"}


def _alternatives(backends: tuple[str, ...]) -> str:
    return " or ".join(f"KERAS_BACKEND={backend}" for backend in backends)
