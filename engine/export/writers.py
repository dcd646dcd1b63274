"""Writers of each format, and runners of its files; frameworks are imported by the format that needs them."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from diptych.backends.rooms import name as backend_name
from diptych.engine.export.smaller import Precision, shrink

if TYPE_CHECKING:
    from diptych.engine.embedding.encoder import Encoder
    from diptych.engine.export.check import Run
    from diptych.engine.export.decoders import Graph
    from diptych.engine.export.greedy import Outputs
    from diptych.engine.export.towers import Tower


@dataclass(frozen=True, kw_only=True)
class Job:
    """What is written, and where to.

    preset: name of the model.   module: the command (`python -m module`) that can do the same in a process of its own,
        on torch.
    encoder, towers: the model, and its two towers as graphs are made of them; for a model that writes None, and its
        graphs.   folder: where files are written.
    precision: of the weights.
    """

    preset: str
    module: str
    encoder: "Encoder | None"
    towers: "Sequence[Tower] | Sequence[Graph]"
    folder: Path
    precision: Precision = "float32"


def write_onnx(job: Job) -> None:
    """By torch: in this process, or, where Keras runs on another backend, in one of its own that reads the same
    weights.
    """
    if backend_name() == "torch":
        from diptych.backends.torch.export import write_onnx

        for tower in job.towers:
            metadata = {key: json.dumps(value, ensure_ascii=False) for key, value in tower.card.items()}
            write_onnx(tower.model, tower.shapes, job.folder / f"{tower.name}.onnx", metadata=metadata)
    else:
        _write_onnx_elsewhere(job)
    if job.precision != "float32":
        for tower in job.towers:
            shrink(job.folder / f"{tower.name}.onnx", job.precision)


def load_onnx(job: Job, tower: "Tower") -> "Run":
    return onnx_runner(job.folder / f"{tower.name}.onnx")


def onnx_runner(path: Path) -> "Run":
    """An ONNX graph on the CPU as a function of arrays by name."""
    outputs = onnx_outputs(path)

    def run(inputs: Mapping[str, np.ndarray]) -> np.ndarray:
        (output,) = outputs(inputs).values()
        return output

    return run


def onnx_outputs(path: Path) -> "Outputs":
    """An ONNX graph on the CPU as a function of arrays by name that gives arrays by name."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    names = [x.name for x in session.get_outputs()]
    return lambda inputs: dict(zip(names, session.run(None, dict(inputs)), strict=True))


def write_openvino(job: Job) -> None:
    """From the ONNX graphs."""
    import openvino

    write_onnx(job)
    for tower in job.towers:
        graph = job.folder / f"{tower.name}.onnx"
        openvino.save_model(openvino.convert_model(graph), job.folder / f"{tower.name}.xml", compress_to_fp16=False)
        for path in job.folder.glob(f"{graph.name}*"):
            path.unlink()


def load_openvino(job: Job, tower: "Tower") -> "Run":
    import openvino

    # Where a CPU has bfloat16, OpenVINO computes in it unless told not to: differences of some 1e-3.
    compiled = openvino.Core().compile_model(
        job.folder / f"{tower.name}.xml", "CPU", {"INFERENCE_PRECISION_HINT": "f32"}
    )
    return lambda inputs: compiled(dict(inputs))[0]


def write_saved_model(job: Job) -> None:
    for tower in job.towers:
        tower.model.export(job.folder / tower.name, format="tf_saved_model", verbose=False)


def load_saved_model(job: Job, tower: "Tower") -> "Run":
    from diptych.backends.tensorflow.export import SavedModel

    return SavedModel(job.folder / tower.name)


def write_litert(job: Job) -> None:
    for tower in job.towers:
        tower.model.export(job.folder / f"{tower.name}.tflite", format="litert", verbose=False)


def load_litert(job: Job, tower: "Tower") -> "Run":
    from diptych.backends.tensorflow.export import load_litert

    return load_litert(job.folder / f"{tower.name}.tflite")


def write_torch_export(job: Job) -> None:
    from diptych.backends.torch.export import write_torch_export

    for tower in job.towers:
        write_torch_export(tower.model, tower.shapes, job.folder / f"{tower.name}.pt2")


def load_torch_export(job: Job, tower: "Tower") -> "Run":
    from diptych.backends.torch.export import load_torch_export

    run = load_torch_export(job.folder / f"{tower.name}.pt2")
    return lambda inputs: run({name: inputs[name] for name in tower.shapes})


def write_stablehlo(job: Job) -> None:
    from diptych.backends.jax.export import write_stablehlo

    for tower in job.towers:
        write_stablehlo(tower.model, tower.shapes, job.folder / f"{tower.name}.stablehlo")


def load_stablehlo(job: Job, tower: "Tower") -> "Run":
    from diptych.backends.jax.export import load_stablehlo

    return load_stablehlo(job.folder / f"{tower.name}.stablehlo")


def write_keras(job: Job) -> None:
    assert job.encoder is not None  # models that write are refused before
    job.encoder.model.save(job.folder / "model.keras")


def load_keras(job: Job, tower: "Tower") -> "Run":
    import keras

    model = keras.saving.load_model(job.folder / "model.keras")
    embedder: Any = model.image_embedder() if tower.name == "image" else model.text_embedder()

    def run(inputs: Mapping[str, np.ndarray]) -> np.ndarray:
        arrays = dict(inputs)
        return keras.ops.convert_to_numpy(
            embedder.predict_on_batch(arrays if len(arrays) > 1 else next(iter(arrays.values())))
        )

    return run


def _write_onnx_elsewhere(job: Job) -> None:
    from diptych.engine.export.check import ExportError

    print(f"torch traces the graphs, in a process of its own; {backend_name()} says what they must give.", flush=True)
    command = [sys.executable, "-m", job.module, "--format", "onnx"]
    command += ["--model", job.preset, "--output", str(job.folder)]
    done = subprocess.run(
        command, env={**os.environ, "KERAS_BACKEND": "torch"}, capture_output=True, text=True, errors="replace"
    )
    if done.returncode:
        raise ExportError(
            f"KERAS_BACKEND=torch could not write the graphs; it said: {done.stderr.strip() or done.stdout.strip()}"
        )
