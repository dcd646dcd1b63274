"""The numbers that all implementations of the contrastive losses share, in plain Python for every framework's room.

docs/sigmoid_loss.md has the derivations.
"""

from functools import cache

LOG1P = (
    1.0,
    -0.499981802,
    0.332840613,
    -0.245368507,
    0.178471634,
    -0.109022249,
    0.0449861596,
    -0.00877881748,
)
"""P, ascending, with log1p(e) = e P(e) for e in [0, 1] to a relative 3.6e-7 in float32, for the smallest e as well.

A kernel's own logarithm of 1 + e is off by e's rounding below 1e-6, and 0 below 6e-8, where most of SigLIP's pairs are.
"""

FLOAT16_SCALE = 2.0**15
"""What probabilities are multiplied by before they are rounded to float16: at a bias of -10 they are near its
smallest.
"""


def block_size(length: int, largest: int, multiple: int) -> int:
    """The size of nearly equal blocks that cover `length`: at most `largest`, a multiple of `multiple`.

    >>> block_size(10_000, largest=8448, multiple=128)  # two blocks of 5,120 rather than 8,448 and a remainder
    5120
    """
    if length < 1 or multiple < 1 or largest < multiple or largest % multiple:
        raise ValueError(
            f"Cannot cut a length of {length} into blocks of at most {largest}: expected a length of at least 1, and a "
            f"largest block that is a multiple of {multiple}."
        )
    blocks = -(-length // largest)
    return -(-length // (blocks * multiple)) * multiple


LARGEST_BLOCK = 16_384
"""Rows and columns of the largest block on a GPU, whose probabilities take 537 MB in 16 bits."""

LEFT_TO_TRANSFERS = 8
"""Multiprocessors of a GPU that our kernels leave free while something is sent: a transfer has blocks of its own, one a
multiprocessor, and a program of a kernel that found none free would run after all others. Nobody has measured how many
are best.
"""

LIBRARY_TILES = ((128, 128), (128, 192), (192, 128), (128, 256), (256, 128))
"""Tiles that cuBLAS cuts a product's result into on Hopper, one a multiprocessor; which of them is its own choice."""


@cache
def whole_waves(length: int, width: int, processors: int, *, largest: int = LARGEST_BLOCK, multiple: int = 128) -> int:
    """The size of nearly equal blocks that cover `length`, for which the gradients' products, `[size, width]`, keep a
    GPU's multiprocessors busy.

    A product's tiles run in waves of one tile a multiprocessor, and a last wave that is not full costs as much as one
    that is: 8,192 by 768 in tiles of 128 by 256 are 192 tiles, 1.45 waves of 132, which take as long as 2. The number
    of blocks is the smallest whose waves, for the worst of the library's tiles, are within 2% of the fewest.

    Args:
        length: rows to be covered.
        width: of the embeddings.
        processors: the GPU's multiprocessors.
        largest, multiple: as for `block_size`.

    >>> whole_waves(8_192, 768, 132), whole_waves(65_536, 768, 132), whole_waves(100_000, 768, 132)
    (8192, 16384, 11136)
    """
    fewest = -(-length // largest)
    sizes = [
        block_size(length, -(-length // (blocks * multiple)) * multiple, multiple)
        for blocks in range(fewest, 2 * fewest + 1)
    ]
    costs = [max(_work(length, size, width, processors, tile) for tile in LIBRARY_TILES) for size in sizes]
    return next(size for size, cost in zip(sizes, costs, strict=True) if cost <= 1.02 * min(costs))


def _work(length: int, size: int, width: int, processors: int, tile: tuple[int, int]) -> float:
    """What the products of all blocks of this size occupy the multiprocessors with, over what is needed."""
    blocks, last = divmod(length, size)

    def waves(rows: int) -> int:
        tiles = -(-rows // tile[0]) * -(-width // tile[1])
        return -(-tiles // processors)

    return (blocks * waves(size) + waves(last)) * processors * tile[0] * tile[1] / (length * width)
