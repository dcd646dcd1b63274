"""The numbers that every implementation of the sigmoid loss shares; plain Python, so that each framework's room may use
it.

docs/sigmoid_loss.md has the derivations.
"""

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
