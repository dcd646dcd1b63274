"""Features of patches in which classes or depths are planted, and the maps of pixels that belong to them."""

import numpy as np

CLASSES = 5
PIXELS = 4  # a side of a patch


def class_maps(
    images: int, *, noise: float, seed: int, side: int = 8, width: int = 24
) -> tuple[np.ndarray, np.ndarray]:
    """Blocks of four patches a class each, a centre a class: features [images, side, side, width] and labels."""
    centres = np.random.default_rng(99).normal(size=(CLASSES, width))
    rng = np.random.default_rng(seed)
    classes = rng.integers(0, CLASSES, (images, side // 4, side // 4)).repeat(4, axis=1).repeat(4, axis=2)
    features = centres[classes] + noise * rng.normal(size=(images, side, side, width))
    return features.astype(np.float32), pixels(classes).astype(np.uint8)


def depth_maps(
    images: int, *, noise: float, seed: int, side: int = 6, width: int = 10
) -> tuple[np.ndarray, np.ndarray]:
    """Slanted planes 1 to 9 metres away, whose depth is a linear function of the features, and the depths of the
    pixels.
    """
    rng = np.random.default_rng(seed)
    steps = np.linspace(-1, 1, side * PIXELS)
    slants = rng.uniform(-1.5, 1.5, (2, images, 1, 1))
    depths = 5 + slants[0] * steps[:, None] + slants[1] * steps
    of_patch = depths.reshape(images, side, PIXELS, side, PIXELS).mean(axis=(2, 4))
    features = rng.normal(size=(images, side, side, width))
    direction = np.random.default_rng(98).normal(size=width)
    direction /= np.linalg.norm(direction)
    features += (of_patch - features @ direction)[..., None] * direction
    return (features + noise * rng.normal(size=features.shape)).astype(np.float32), depths.astype(np.float32)


def pixels(patches: np.ndarray) -> np.ndarray:
    """Values of patches [images, rows, columns] for each of their pixels."""
    return patches.repeat(PIXELS, axis=1).repeat(PIXELS, axis=2)
