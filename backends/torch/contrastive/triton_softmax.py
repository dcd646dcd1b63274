"""The blocks of CLIP's softmax loss on NVIDIA GPUs: the normalisers of a block of pairs, and its weights, in Triton.

The kernel is that of `triton_block`, with two other epilogues. It works in units of log(2): what comes in and goes out
here is in natural logarithms.
"""

import math

import torch

from diptych.backends.torch.contrastive.triton_block import NORMALISERS, SOFTMAX, Config, config_on, launch, programs


def normalisers_block(
    x: torch.Tensor,
    y: torch.Tensor,
    scale: torch.Tensor,
    offset: int,
    config: Config | None = None,
    *,
    left_free: int = 0,
) -> tuple[torch.Tensor, torch.Tensor]:
    """log Σ_j exp(t x_i·y_j) `[m]` and log Σ_i exp(t x_i·y_j) `[n]`, float32, of all pairs but (i, i + offset).

    Args:
        x, y, offset, config: as for `negatives_block`.
        scale: float32 `[1]`, t, on the device.
        left_free: multiprocessors on which nothing runs.
    """
    config = config or config_on(x.device)
    (m, n), device = (len(x), len(y)), x.device
    rows = torch.empty(-(-n // config.block_n), m, device=device)
    columns = torch.empty(-(-m // config.block_m), n, device=device)
    sums = torch.empty(programs(m, n, device, config, left_free=left_free), 3, device=device)
    launch(x, y, scale, offset, None, sums, config=config, epilogue=NORMALISERS, rows=rows, columns=columns)
    return rows.mul_(math.log(2.0)).logsumexp(0), columns.mul_(math.log(2.0)).logsumexp(0)


def weights_block(
    x: torch.Tensor,
    y: torch.Tensor,
    scale: torch.Tensor,
    offset: int,
    rows: torch.Tensor,
    columns: torch.Tensor,
    weights: torch.Tensor,
    sums: torch.Tensor,
    config: Config | None = None,
) -> None:
    """Write w = exp(t x_i·y_j - rows_i) + exp(t x_i·y_j - columns_j), 0 for the pairs (i, i + offset), and sum it up.

    Args:
        x, y, offset, config: as for `negatives_block`, and weights as its probabilities.
        scale: float32 `[1]`, t, on the device.
        rows, columns: float32 `[m]` and `[n]`, contiguous.
        sums: float32 `[programs, 3]`, whose second column gets Σ w s.
    """
    rows, columns = rows / math.log(2.0), columns / math.log(2.0)
    config = config or config_on(x.device)
    launch(x, y, scale, offset, weights, sums, config=config, epilogue=SOFTMAX, rows=rows, columns=columns)
