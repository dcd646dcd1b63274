"""Times the kernels' tile and block sizes on the accelerator at hand, so that the tables in `backends/` hold the
fastest.

    KERAS_BACKEND=torch python -m benchmarks.tune_sigmoid_loss
    KERAS_BACKEND=jax python -m benchmarks.tune_sigmoid_loss

Torch: every tile in `triton_block.CANDIDATES` by every size of block; jax: those of `pallas_gpu.CANDIDATES`. One line
each, the fastest marked; nothing is changed. The fastest goes into `CONFIGS` and `_whole_waves`, or into `BLOCK`, by
hand.
"""

import argparse
import math
import time
from collections.abc import Callable, Iterator
from functools import partial

from benchmarks.device import write_results
from diptych.backends.selection import select_backend

BLOCKS = (8192, 8448, 16_384, 16_896)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch-size", type=int, default=65_536)
    parser.add_argument("--dim", type=int, default=768)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    backend = select_backend()
    if backend not in VARIANTS:
        raise SystemExit(f"There is nothing to tune on {backend}: expected KERAS_BACKEND={' or '.join(VARIANTS)}.")
    from diptych import backends

    if backends.device_name() is None:
        raise SystemExit("There is no accelerator here: tile sizes are tuned on the device that they are for.")
    flops = 6 * options.batch_size**2 * options.dim
    rows = []
    for name, call in VARIANTS[backend](options.batch_size, options.dim):
        call()
        seconds = []
        for _ in range(options.repeats):
            start = time.perf_counter()
            call()
            seconds.append(time.perf_counter() - start)
        rows.append({"variant": name, "ms": min(seconds) * 1e3, "tflops": flops / min(seconds) / 1e12})
        print(f"  {rows[-1]['ms']:9.2f} ms {rows[-1]['tflops']:7.0f} TFLOP/s  {name}", flush=True)
    if not rows:
        raise SystemExit(f"No variant can run on {backends.device_name()}.")
    print(f"The fastest: {min(rows, key=lambda row: row['ms'])['variant']}")
    results = {"batch_size": options.batch_size, "dim": options.dim, "variants": rows}
    print(write_results(f"tune_sigmoid_loss-{backend}", results, accelerator=backends.device_name()))


def _arguments(size: int, dim: int, to_device: Callable) -> list:
    from diptych.backends.cases import REGIMES, Case

    case = Case(images=size, texts=size, width=dim, **REGIMES["trained"])
    return [to_device(array) for array in case.draw()]


def _torch_variants(size: int, dim: int) -> Iterator[tuple[str, Callable]]:
    import torch

    from diptych.backends.torch.sigmoid_loss import sweep, triton_block

    x, y = _arguments(size, dim, lambda array: torch.from_numpy(array).to("cuda", torch.bfloat16))
    scale_and_bias = torch.tensor([112.0, -16.5], device="cuda")
    capability, shipped = 10 * torch.cuda.get_device_capability()[0], dict(triton_block.CONFIGS)
    try:
        for config in triton_block.CANDIDATES:
            for largest in BLOCKS:
                triton_block.CONFIGS[capability] = config

                def call(largest=largest):
                    sweep.triton(x, y, scale_and_bias, 0, largest=largest)
                    torch.cuda.synchronize()

                yield f"S={largest}, {config}", call
    finally:
        triton_block.CONFIGS.update(shipped)


def _jax_variants(size: int, dim: int) -> Iterator[tuple[str, Callable]]:
    import jax
    import jax.numpy as jnp

    from diptych.backends.jax.sigmoid_loss import pallas_gpu
    from diptych.backends.jax.sigmoid_loss.loss import OneDevice, loss_and_gradients_by
    from diptych.backends.jax.sigmoid_loss.sweep import Block

    x, y = _arguments(size, dim, lambda array: jnp.asarray(array, jnp.bfloat16))
    for config in pallas_gpu.CANDIDATES:
        for largest in BLOCKS:
            multiple = math.lcm(config.tile_m, config.tile_n)
            compute = partial(pallas_gpu.negatives_block, config=config)
            block = Block(compute, largest=largest // multiple * multiple, multiple=multiple)

            def call(block=block):
                jax.block_until_ready(loss_and_gradients_by(OneDevice(block, 0, size), x, y, 112.0, -16.5))

            yield f"S={largest}, {config}", call


VARIANTS = {"torch": _torch_variants, "jax": _jax_variants}


if __name__ == "__main__":
    main()
