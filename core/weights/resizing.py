"""Weights at another resolution: tables of positions for another grid, patch kernels for another patch size."""

import numpy as np


def interpolation_matrix(old: int, new: int, *, antialias: bool) -> np.ndarray:
    """Linear interpolation of `old` samples at `new` places between half-pixel centres, float64 [new, old]; rows sum to
    one.

    With `antialias` the triangle is as wide as the wider of both spacings, so that shrinking averages what it skips.
    """
    scale = old / new
    width = max(scale, 1.0) if antialias else 1.0
    centres = (np.arange(new) + 0.5) * scale
    distance = np.abs(np.arange(old) + 0.5 - centres[:, None]) / width
    weights = np.maximum(1.0 - distance, 0.0)
    return weights / weights.sum(axis=1, keepdims=True)


def resize_positions(table: np.ndarray, grid: int | tuple[int, int]) -> np.ndarray:
    """A table of learned positions [rows, columns, width] for another grid, bilinear with antialiasing, float32.

    This is what NaFlex does for each image (SigLIP 2, section 2.4.2). big_vision's `vit.resample_posemb` aligns corners
    instead and does not antialias.
    """
    rows, columns = (grid, grid) if isinstance(grid, int) else grid
    if table.ndim != 3 or rows < 1 or columns < 1:
        raise ValueError(
            f"expected a table [rows, columns, width] and a grid of 1 or more, got {table.shape} and {grid}."
        )
    if table.shape[:2] == (rows, columns):
        return table
    across = interpolation_matrix(table.shape[0], rows, antialias=True)
    along = interpolation_matrix(table.shape[1], columns, antialias=True)
    return np.einsum("ia,jb,abw->ijw", across, along, table.astype(np.float64), optimize=True).astype(np.float32)


def resize_patch_kernel(kernel: np.ndarray, patch_size: int) -> np.ndarray:
    """A patch embedding's kernel [patch, patch, channels, width] for another patch size, float32.

    The pseudo-inverse resize of FlexiViT (Beyer et al. 2023, section 3.4): with B the bilinear resize of a patch as a
    matrix, the new kernel is (Bᵀ)⁺ w. Then ⟨B x, w'⟩ = ⟨x, w⟩ for every patch x when patches grow, and is closest to it
    on average when they shrink.
    """
    if kernel.ndim != 4 or kernel.shape[0] != kernel.shape[1] or patch_size < 1:
        raise ValueError(
            f"expected a kernel [patch, patch, channels, width] and a patch size of 1 or more, got {kernel.shape} and "
            f"{patch_size}."
        )
    old = kernel.shape[0]
    if old == patch_size:
        return kernel
    line = interpolation_matrix(old, patch_size, antialias=False)
    inverse = np.linalg.pinv(np.kron(line, line).T)
    flat = kernel.astype(np.float64).reshape(old * old, -1)
    return (inverse @ flat).reshape(patch_size, patch_size, *kernel.shape[2:]).astype(np.float32)
