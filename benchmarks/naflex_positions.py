"""NaFlex positions: our two interpolation matrices against transformers' resize, image after image, in one run.

    KERAS_BACKEND=jax python -m benchmarks.naflex_positions

Both resize a 16 x 16 table of width 768 to the grids of a batch of images; nothing is timed unless they agree to 3e-6. Ours is compiled
as the backend compiles for inference; transformers is torch, whatever KERAS_BACKEND is.
"""

import argparse

import numpy as np

from benchmarks.contest import take_turns
from benchmarks.device import device_name, write_results
from diptych.backends.selection import select_backend
from diptych.core.data.naflex import target_size

GRID, WIDTH, PATCH = 16, 768, 16
TOLERANCE = 3e-6
BATCHES = ((8, 256), (64, 256), (8, 1024), (64, 1024))
"""(images, patches of each)"""


def grids(images: int, patches: int) -> np.ndarray:
    """Rows and columns of pictures of all aspects, int32 [images, 2]."""
    sides = np.random.default_rng(0).integers(100, 2000, (images, 2))
    return (
        np.array([target_size(*side, patch_size=PATCH, max_num_patches=patches) for side in sides.tolist()], np.int32)
        // PATCH
    )


def main() -> None:
    """Checks, times, prints a table and writes the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=9, help="timed calls of each")
    options = parser.parse_args()
    backend = select_backend()
    import keras
    import torch
    from transformers.models.siglip2.modeling_siglip2 import Siglip2VisionEmbeddings

    from benchmarks.encoding import driver_of
    from diptych import backends
    from diptych.models.naflex import ResizedPositionEmbedding

    layer = ResizedPositionEmbedding(grid=GRID)
    layer.build((None, None, WIDTH))
    table = np.array(keras.ops.convert_to_numpy(layer.embedding.value))
    resize, driver = Siglip2VisionEmbeddings.resize_positional_embeddings, driver_of(backend)
    device = backends.device_name()
    print(f"{backend} on {device_name(device)}: table {GRID} x {GRID} x {WIDTH}, float32")
    rows = []
    for images, patches in BATCHES:
        shapes = grids(images, patches)
        zeros = np.zeros((images, patches, WIDTH), np.float32)
        ours = driver.ways(layer, (zeros, shapes), compile=False)[""]
        arguments = torch.from_numpy(table), torch.from_numpy(shapes.astype(np.int64)), patches
        got, expected = np.asarray(keras.ops.convert_to_numpy(ours())), resize(*arguments).numpy()
        exists = np.arange(patches) < shapes.prod(axis=1)[:, None]
        np.testing.assert_allclose(got[exists], expected[exists], atol=TOLERANCE)
        theirs = lambda arguments=arguments: resize(*arguments)  # noqa: E731
        contestants = {"diptych": ours, "transformers": theirs}
        times = take_turns(contestants, dict.fromkeys(contestants, "diptych"), repeats=options.repeats)
        ratio = times["transformers"]["ratio"]
        print(
            f"{images:3} images, {patches:5,} patches: {times['diptych']['ms']:8.2f} ms, "
            f"transformers {times['transformers']['ms']:8.2f} ms ({ratio:.2f} of ours)"
        )
        rows.append({"images": images, "patches": patches, **times})
    print(write_results(f"naflex_positions-{backend}", {"backend": backend, "rows": rows}, accelerator=device))


if __name__ == "__main__":
    main()
