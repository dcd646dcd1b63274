"""The same weights in a model of another resolution, patch size or kind of image tower."""

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import TypeVar

import keras
import numpy as np

from diptych.core.weights.resizing import resize_patch_kernel, resize_positions
from diptych.models.abstract import give_values, shapes_only
from diptych.models.siglip.config import AnyVisionConfig, NaFlexVisionConfig, SigLIPConfig, VisionConfig
from diptych.models.siglip.model import SigLIP, image_tower
from diptych.models.siglip.presets import naflex_config
from diptych.models.tower import ImageTower

Vision = TypeVar("Vision", bound=AnyVisionConfig)

KERNEL = "image/patch_embedding/kernel"
POSITIONS = ("image/position_embedding/embedding", "image/attention_pool/position_embedding/embedding")
TEXT_POSITIONS = "text/position_embedding/embedding"


def adapt(model: SigLIP, *, image_size: int | None = None, patch_size: int | None = None) -> SigLIP:
    """A model for images or patches of another size, in pixels; positions and patch kernel are resized, all else is as
    it was.

    Raises:
        ValueError: for NaFlex and image_size: such a model takes any size.
    """
    vision = model.config.own_vision
    if isinstance(vision, NaFlexVisionConfig):
        if image_size is not None:
            raise ValueError("A NaFlex model takes images of any size; image_size is for models with square images.")
        return _rebuilt(
            model, replace(model.config, vision=replace(vision, patch_size=patch_size or vision.patch_size))
        )
    resized = replace(vision, image_size=image_size or vision.image_size, patch_size=patch_size or vision.patch_size)
    return _rebuilt(model, replace(model.config, vision=resized))


def to_naflex(model: SigLIP, *, max_num_patches: int = 256) -> SigLIP:
    """A model for images of any aspect from one for square images; on square images of the old size it computes the
    same.
    """
    return _rebuilt(model, naflex_config(model.config, max_num_patches=max_num_patches))


def to_square(model: SigLIP, *, image_size: int | None = None) -> SigLIP:
    """A model for square images from a NaFlex one; by default of the size at which its table of positions stays as it
    is.
    """
    vision = model.config.vision
    if not isinstance(vision, NaFlexVisionConfig):
        raise ValueError(f"A NaFlex model is needed, got one for images of {vision.image_size} px: see `adapt`.")
    square = VisionConfig(
        width=vision.width,
        depth=vision.depth,
        mlp_dim=vision.mlp_dim,
        num_heads=vision.num_heads,
        patch_size=vision.patch_size,
        image_size=image_size or vision.position_grid * vision.patch_size,
        pooling=vision.pooling,
        embed_dim=vision.embed_dim,
    )
    return _rebuilt(model, replace(model.config, vision=square))


def _rebuilt(model: SigLIP, config: SigLIPConfig) -> SigLIP:
    """A new model with this model's weights, those of the image's first layers resized."""
    with shapes_only():
        new = SigLIP(config, dtype=model.dtype_policy.name, name=model.name)
    shapes = {variable.path: tuple(variable.shape) for variable in new.weights}
    give_values(new, _resized(model, shapes))
    return new


def _resized(model: SigLIP, shapes: dict[str, tuple[int, ...]]) -> Iterator[tuple[str, np.ndarray]]:
    for variable in model.weights:
        value = np.array(keras.ops.convert_to_numpy(variable.value))  # a copy: backends may share memory with NumPy
        fitted = fit_weight(variable.path, value, shapes[variable.path])
        yield variable.path, value if fitted is None else fitted


def fit_weight(path: str, value: np.ndarray, shape: tuple[int, ...]) -> np.ndarray | None:
    """Positions, or a patch kernel, in another shape; None for any other weight.

    An image tower's are resized; its positions may be a flat list or a square table, before and after, and where a list
    has one more, as CLIP's class token does, that one is in front and stays. A text tower's are cut, or followed by new
    ones that are drawn as widely as those that are there.
    """
    if path == TEXT_POSITIONS and value.shape[1] == shape[1]:
        new = np.random.default_rng(0).normal(0, value.std(), (max(0, shape[0] - len(value)), shape[1]))
        return np.concatenate([value, new.astype(value.dtype)])[: shape[0]]
    if path == KERNEL:
        return resize_patch_kernel(value, shape[0])
    if path not in POSITIONS:
        return None
    width = value.shape[-1]
    old, new = value.reshape(-1, width), math.prod(shape) // width
    old_side, new_side = math.isqrt(len(old)), math.isqrt(new)
    front = len(old) - old_side**2
    if front > 1 or front != new - new_side**2:
        return None
    grid = resize_positions(old[front:].reshape(old_side, old_side, width), new_side)
    return np.concatenate([old[:front], grid.reshape(-1, width)]).reshape(shape)


def with_pooling(tower: ImageTower, pooling: str) -> ImageTower:
    """An image tower that pools its tokens otherwise ("map", "gap", "cls"), with this tower's weights; those that it
    has not are drawn by the tower's seed, and those that are not needed are left out.

    Raises:
        ValueError: for a tower that has no other pooling.
    """
    arguments = tower.get_config()
    config = type(tower).config_class(**arguments["config"])
    if config.pooling == pooling:
        return tower
    options = {name: arguments[name] for name in ("seed", "dtype", "rematerialize", "name")}
    new = image_tower(pooled_by(config, pooling), **options)
    values = {variable.path: variable for variable in tower.weights}
    for variable in new.weights:
        if (old := values.get(variable.path)) is not None:
            variable.assign(np.array(keras.ops.convert_to_numpy(old.value)))
    return new


def pooled_by(vision: Vision, pooling: str) -> Vision:
    """An image tower's configuration with another pooling; raises ValueError for one that has no other."""
    if vision.pooling == pooling:
        return vision
    if not isinstance(vision, VisionConfig | NaFlexVisionConfig):
        raise ValueError(f"A {vision.describes} pools by {vision.pooling!r} alone, got pooling {pooling!r}.")
    return replace(vision, pooling=pooling)  # type: ignore[arg-type]
