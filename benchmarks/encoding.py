"""Images and texts embedded per second: ours, transformers and keras-hub, with the same weights and batch.

    KERAS_BACKEND=jax python -m benchmarks.encoding
    KERAS_BACKEND=torch python -m benchmarks.encoding --batch-size 256 --precision bfloat16 --compile

Ours is `model.image_embedder()` and `model.text_embedder()`, compiled as the backend compiles (jax.jit, tf.function
with XLA; torch eager in inference mode, and with --compile through torch.export and torch.compile). transformers is
torch with SDPA attention, whatever KERAS_BACKEND is; keras-hub, where it is installed, runs on the same backend,
compiled the same way. All are called with a batch that lies on the device.

First all embed the same batch in float32: where one is further than 1e-4 from transformers, it is not timed, and where
that is ours, nothing is. In bfloat16 ours may be twice as far from float32 as transformers is. "patches" are NaFlex
images of different grids (transformers' Siglip2Model; keras-hub has none). Weights are random, the vocabulary has
32,000 pieces, to save memory.
"""

import argparse
import math
import tempfile
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np

from benchmarks.contest import take_turns
from benchmarks.device import RESULTS, device_name, write_results
from benchmarks.encoding_models import keras_hub_functions, our_functions, transformers_functions, write_weights
from benchmarks.naflex_positions import random_grids
from benchmarks.native.inference import inference_driver, to_numpy
from benchmarks.step_time import SIZES, config_of
from diptych.backends.selection import select_backend
from diptych.core.training.card import machine

TOLERANCE = 1e-4
"""The largest distance between two models' embeddings of the same input; embeddings have length one."""

TOWERS = ("images", "texts", "patches")


def main(arguments: list[str] | None = None) -> None:
    """Check, measure, print a table and write results/<device>/encoding-<backend>-<size>-<batch>-<precision>.json."""
    options = _options(arguments)
    backend = select_backend()
    driver, host = inference_driver(backend), machine()
    accelerator = _accelerator()
    print(f"{backend} on {device_name(accelerator)}, {options.size}, batch {options.batch_size}, {options.precision}")
    results = {
        "backend": backend,
        "size": options.size,
        "batch_size": options.batch_size,
        "precision": options.precision,
        "usable_cpus": host["usable_cpus"],
        "towers": {},
    }
    for towers in (("images", "texts"), ("patches",)):
        chosen = [tower for tower in towers if tower in options.towers]
        if chosen:
            results["towers"] |= _measure(options, driver, chosen)
    name = f"encoding-{backend}-{options.size.replace('/', '')}-{options.batch_size}-{options.precision}".lower()
    if host["usable_cpus"] < host["cpus"]:
        name += f"-{host['usable_cpus']}-cpu"
    print(write_results(name, results, options.out, accelerator=accelerator))


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", choices=SIZES, default="B/16")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument(
        "--precision", choices=["float32", "bfloat16"], default="float32", help="of weights and arithmetic"
    )
    parser.add_argument("--towers", nargs="+", choices=TOWERS, default=list(TOWERS))
    parser.add_argument("--compile", action="store_true", help="torch: torch.compile, too")
    parser.add_argument("--repeats", type=int, default=7, help="timed calls of each")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the results")
    options = parser.parse_args(arguments)
    if min(options.batch_size, options.repeats) < 1:
        parser.error("--batch-size and --repeats must be at least 1")
    return options


def _accelerator() -> str | None:
    from diptych import backends

    return backends.device_name()


def _measure(options, driver: ModuleType, towers: list[str]) -> dict:
    """tower -> the distances and the times of all contestants for the towers of one model."""
    inputs = {tower: _inputs(options, tower) for tower in towers}
    config = _config(options.size, naflex="patches" in towers)
    with tempfile.TemporaryDirectory() as folder:
        weights = write_weights(config, Path(folder))
        with driver.exact_products():
            functions = _functions(config, weights, inputs, driver, options, "float32")
            truth = {tower: to_numpy(functions[tower]["transformers"]()) for tower in towers}
            distances = {tower: _agreeing(tower, functions[tower], truth[tower]) for tower in towers}
            if options.precision == "float32":
                return {tower: _contest(options, tower, functions[tower], distances[tower]) for tower in towers}
        del functions
        functions = _functions(config, weights, inputs, driver, options, options.precision)
        distances = {tower: _agreeing(tower, functions[tower], truth[tower], rounded=True) for tower in towers}
        return {tower: _contest(options, tower, functions[tower], distances[tower]) for tower in towers}


def _config(size: str, *, naflex: bool):
    """The size's tower pair; with NaFlex for image and a text tower that is there only because a checkpoint has one."""
    from diptych.models.siglip.presets import naflex_config

    config = config_of(size)
    if not naflex:
        return config
    config = naflex_config(config, max_num_patches=_patches(size))
    return replace(
        config,
        vision=replace(config.vision, position_grid=math.isqrt(_patches(size))),
        text=replace(config.text, depth=1, vocab_size=1000),
    )


def _patches(size: str) -> int:
    return 16 if size == "tiny" else 256


def _inputs(options, tower: str):
    """A batch for a tower: pictures of a few soft colours, since noise looks the same to every model, or token ids."""
    rng = np.random.default_rng(0)
    count, config = options.batch_size, config_of(options.size)
    if tower == "texts":
        return rng.integers(0, config.text.vocab_size, (count, config.text.context_length), dtype=np.int32)
    side, patch = config.vision.image_size, config.vision.patch_size
    if tower == "images":
        coarse = rng.uniform(-1, 1, (count, 4, 4, 3)).astype(np.float32)
        return np.ascontiguousarray(
            coarse.repeat(math.ceil(side / 4), 1).repeat(math.ceil(side / 4), 2)[:, :side, :side]
        )
    length = _patches(options.size)
    shapes = random_grids(count, patch_size=patch, max_num_patches=length, rng=rng)
    colours = rng.uniform(-1, 1, (count, length, 1, 3)) * 0.5 + rng.uniform(-1, 1, (count, 1, 1, 3)) * 0.5
    patches = np.broadcast_to(colours, (count, length, patch**2, 3)).reshape(count, length, -1)
    there = np.arange(length) < shapes.prod(axis=1, keepdims=True)
    return {"patches": np.where(there[..., None], patches, 0).astype(np.float32), "spatial_shapes": shapes}


def _functions(config, weights: dict[str, Path], inputs: dict, driver, options, precision: str) -> dict[str, dict]:
    """tower -> contestant -> function, ours first."""
    compile = options.compile
    ours = our_functions(weights["transformers"], inputs, driver, precision=precision, compile=compile)
    peers = [
        transformers_functions(
            weights["transformers"], inputs, precision=precision, compile=compile, accelerated=driver.ACCELERATED
        )
    ]
    if "keras-hub" in weights:
        peers.append(keras_hub_functions(config, weights["keras-hub"], inputs, driver, precision=precision))
    return {tower: ours[tower] | {k: f for peer in peers for k, f in peer[tower].items()} for tower in inputs}


def _agreeing(tower: str, functions: dict, truth: np.ndarray, *, rounded: bool = False) -> dict[str, float]:
    """Contestant -> its largest distance from the truth; those that are too far are taken out, and ours ends the run.

    Args:
        truth: transformers' embeddings in float32.
        rounded: for contestants in bfloat16, which may be twice as far from the truth as transformers is.
    """
    apart = np.linalg.norm(truth[:, None] - truth[None], axis=-1)[~np.eye(len(truth), dtype=bool)].min(initial=np.inf)
    if apart < 100 * TOLERANCE:
        raise SystemExit(
            f"The check of {tower} is worth nothing: embeddings of different inputs are {apart:.1e} apart."
        )
    distances = {
        name: float(np.linalg.norm(to_numpy(function()) - truth, axis=-1).max()) for name, function in functions.items()
    }
    allowed = TOLERANCE + (2 * distances["transformers"] if rounded else 0)
    for name, distance in distances.items():
        if distance <= allowed:
            continue
        message = (
            f"{name} is wrong on {tower}: {distance:.1e} from transformers in float32, at most {allowed:.1e} is allowed"
        )
        if name.startswith("diptych"):
            raise SystemExit(f"{message}; no time is reported.")
        print(f"  {message}; it is not timed.")
        del functions[name]
    return distances


def _contest(options, tower: str, functions: dict, distances: dict[str, float]) -> dict:
    """Times all contestants and prints their rows."""
    compiled = "diptych, torch.compile"
    rivals = {
        name: compiled if name.endswith("torch.compile") and compiled in functions else "diptych" for name in functions
    }
    times = take_turns(functions, rivals, repeats=options.repeats)
    print(f"\n  {tower:<28}{'ms':>10}{'per second':>12}{'ours is':>10}{'in CPU time':>13}{'distance':>11}")
    rows = {}
    for name, row in times.items():
        rows[name] = {**row, "per_second": options.batch_size / row["ms"] * 1e3, "distance": distances[name]}
        print(
            f"  {name:<28}{row['ms']:>10.1f}{rows[name]['per_second']:>12.1f}"
            f"{row['ratio']:>9.2f}x{row['cpu_ratio']:>12.2f}x"
            f"{distances[name]:>11.1e}"
        )
    return rows


if __name__ == "__main__":
    main()
