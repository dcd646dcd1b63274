"""Positions of images of different grids: ours against transformers and against a loop over the images.

    KERAS_BACKEND=jax python -m benchmarks.naflex_positions
    KERAS_BACKEND=torch python -m benchmarks.naflex_positions --batch-sizes 256 --patches 256 1024 --compile

Ours is `ResizedPositionEmbedding` (SigLIP 2's 16 x 16 table, width 768), compiled once for all grids as the backend
compiles. "transformers" is its function for this: in 5.24 a product of the same size as ours, in earlier versions it
may be another. "interpolate" is torch's resize of the table for one image after the other. Both run in torch. All add
the positions to patches that lie on the device. First they are compared with "interpolate": where one is further than
3e-6 from it, for a table of values in [-1, 1], it is not timed, and where that is ours, nothing is.
"""

import argparse
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from pathlib import Path

import numpy as np

from benchmarks.contest import take_turns
from benchmarks.device import RESULTS, device_name, write_results
from benchmarks.native.inference import inference_driver, to_numpy
from diptych.backends.selection import select_backend
from diptych.core.data.examples.naflex import target_size
from diptych.core.training.card import machine

TOLERANCE = 3e-6
GRID, WIDTH, PATCH_SIZE = 16, 768, 16


def random_grids(count: int, *, patch_size: int, max_num_patches: int, rng: np.random.Generator) -> np.ndarray:
    """The (rows, columns) that pictures of 200 to 600 pixels a side are cut into, int32 `[count, 2]`."""
    sizes = rng.integers(200, 601, (count, 2)).tolist()
    targets = [target_size(*size, patch_size=patch_size, max_num_patches=max_num_patches) for size in sizes]
    return np.array(targets, np.int32) // patch_size


def main(arguments: list[str] | None = None) -> None:
    """Check, measure, print a table and write results/<device>/naflex_positions-<backend>.json."""
    options = _options(arguments)
    backend = select_backend()
    from diptych import backends

    accelerator, host = backends.device_name(), machine()
    print(f"{backend} on {device_name(accelerator)}, table {GRID} x {GRID}, width {WIDTH}, float32")
    results = {"backend": backend, "usable_cpus": host["usable_cpus"], "cases": {}}
    for patches in options.patches:
        for batch_size in options.batch_sizes:
            results["cases"][f"{batch_size} x {patches}"] = _measure(backend, batch_size, patches, options)
    results["transformers"] = version("transformers")
    name = f"naflex_positions-{backend}"
    if host["usable_cpus"] < host["cpus"]:
        name += f"-{host['usable_cpus']}-cpu"
    print(write_results(name, results, options.out, accelerator=accelerator))


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[8, 64])
    parser.add_argument("--patches", type=int, nargs="+", default=[256, 1024], help="at most, of an image")
    parser.add_argument("--compile", action="store_true", help="ours on torch: torch.compile, too")
    parser.add_argument("--repeats", type=int, default=11, help="timed calls of each")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the results")
    options = parser.parse_args(arguments)
    if min(*options.batch_sizes, *options.patches, options.repeats) < 1:
        parser.error("--batch-sizes, --patches and --repeats must be at least 1")
    return options


def _measure(backend: str, batch_size: int, length: int, options) -> dict:
    """The distances and times of all contestants at one size; prints their rows."""
    driver = inference_driver(backend)
    rng = np.random.default_rng(0)
    table = rng.uniform(-1, 1, (GRID, GRID, WIDTH)).astype(np.float32)
    grids = random_grids(batch_size, patch_size=PATCH_SIZE, max_num_patches=length, rng=rng)
    patches = np.zeros((batch_size, length, WIDTH), np.float32)
    with driver.exact_products():
        functions = driver.ways(_our_layer(table), (patches, grids), compile=options.compile)
        functions = {f"diptych{way}": function for way, function in functions.items()}
        functions |= _peers(table, patches, grids, accelerated=driver.ACCELERATED)
        right = to_numpy(functions["interpolate"]())
        there = np.arange(length) < grids.prod(axis=1, keepdims=True)
        errors = {
            name: float(np.abs(to_numpy(function()) - right)[there].max()) for name, function in functions.items()
        }
        for name in [name for name, error in errors.items() if not error <= TOLERANCE]:
            if name.startswith("diptych"):
                raise SystemExit(f"{name} is {errors[name]:.1e} from torch's resize; no time is reported.")
            print(f"  {name} is wrong, {errors[name]:.1e} from torch's resize; it is not timed.")
            del functions[name]
        times = take_turns(functions, dict.fromkeys(functions, "diptych"), repeats=options.repeats)
    title = f"{batch_size} images, {length} patches"
    print(f"\n  {title:<27}{'ms':>10}{'µs an image':>13}{'ours is':>10}{'in CPU time':>13}{'error':>10}")
    for name, row in times.items():
        ms, ratios = row["ms"], f"{row['ratio']:>9.2f}x{row['cpu_ratio']:>12.2f}x"
        print(f"  {name:<27}{ms:>10.2f}{ms * 1e3 / batch_size:>13.0f}{ratios}{errors[name]:>10.1e}")
    return {name: {**row, "error": errors[name]} for name, row in times.items()}


def _our_layer(table: np.ndarray):
    from diptych.models.siglip.naflex import ResizedPositionEmbedding

    layer = ResizedPositionEmbedding(grid=GRID)
    layer.build((None, None, WIDTH))
    layer.embedding.assign(table)
    return layer


def _peers(table: np.ndarray, patches: np.ndarray, grids: np.ndarray, *, accelerated: bool) -> dict[str, Callable]:
    """What others do for this, as functions without arguments."""
    try:
        import torch
        from transformers.models.siglip2.modeling_siglip2 import Siglip2VisionEmbeddings
    except ImportError as error:
        raise SystemExit(
            f"{error.name} is not installed, and ours is compared with it: pip install transformers torch"
        ) from error
    from benchmarks.native import torch_inference

    def transformers(table, x, grids):
        return x + Siglip2VisionEmbeddings.resize_positional_embeddings(table, grids, x.shape[1])

    def interpolate(table, x, grids):
        picture = table.permute(2, 0, 1)[None]
        result = x.clone()
        for image, size in zip(result, grids.tolist(), strict=True):
            resized = torch.nn.functional.interpolate(picture, size=size, mode="bilinear", antialias=True)
            image[: size[0] * size[1]] += resized[0].flatten(1).T
        return result

    run = partial(torch_inference.runner, inputs=(table, patches, grids.astype(np.int64)), accelerated=accelerated)
    return {"transformers": run(transformers), "interpolate": run(interpolate)}


if __name__ == "__main__":
    main()
