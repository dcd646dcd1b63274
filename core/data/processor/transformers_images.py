"""Image preprocessing in transformers' files: preprocessor_config.json, and processor_config.json from 5 on."""

from dataclasses import dataclass
from typing import Any

from diptych.core.data.examples.naflex import NaFlex
from diptych.core.data.image import ResizeMethod
from diptych.core.data.pixels import CLIP_MEAN, CLIP_STD, HALVES, FixedSize, Normalization
from diptych.core.files.fields import Fields, Triple

MOST_PIXELS_A_SIDE = 4096
MOST_PATCHES = 65_536

_RESAMPLE: dict[int, ResizeMethod] = {2: "bilinear_antialias", 3: "bicubic_antialias"}  # Pillow's numbers
RELEASED_SIZE = 224


@dataclass(frozen=True)
class _Defaults:
    """What a class of image processors takes for fields that its file leaves out."""

    resample: int
    mean: Triple = HALVES
    std: Triple = HALVES
    crops: bool = False


_CLASSES = {
    "SiglipImageProcessor": _Defaults(resample=3),
    "Siglip2ImageProcessor": _Defaults(resample=2),
    "CLIPImageProcessor": _Defaults(resample=3, mean=CLIP_MEAN, std=CLIP_STD, crops=True),
}
_CLASS_OF_MODEL = {
    "siglip": "SiglipImageProcessor",
    "siglip2": "Siglip2ImageProcessor",
    "clip": "CLIPImageProcessor",
    "paligemma": "SiglipImageProcessor",
}


def read_images(fields: Fields, model_type: str) -> FixedSize | NaFlex:
    """The preprocessing of an image processor's fields; those that are left out are its class's.

    `model_type`, of config.json, says which class where the file does not.

    Raises:
        WeightFileError: for a class that is none of SigLIP's, SigLIP 2's and CLIP's, for steps that no model here could
        use, and for
            values of a wrong type.
    """
    name = _class_name(fields, model_type)
    defaults = _CLASSES[name]
    if not fields.get("do_resize", bool, True):
        raise fields.wrong("do_resize", "true: the model takes images of its own size")
    normalizes = fields.get("do_normalize", bool, True)
    normalization = Normalization(
        scale=fields.get("rescale_factor", float, 1 / 255) if fields.get("do_rescale", bool, True) else 1.0,
        mean=fields.three("image_mean", defaults.mean) if normalizes else (0.0, 0.0, 0.0),
        std=fields.three("image_std", defaults.std) if normalizes else (1.0, 1.0, 1.0),
    )
    resample = fields.get("resample", int, defaults.resample)
    if resample not in _RESAMPLE:
        raise fields.wrong("resample", "2 (bilinear) or 3 (bicubic)")
    if name == "Siglip2ImageProcessor":
        return NaFlex(
            patch_size=fields.count("patch_size", 16, most=MOST_PIXELS_A_SIDE),
            max_num_patches=fields.count("max_num_patches", 256, most=MOST_PATCHES),
            resize=_RESAMPLE[resample],
            normalization=normalization,
        )
    return _fixed_size(fields, defaults, _RESAMPLE[resample], normalization)


def write_images(pixels: FixedSize | NaFlex) -> dict[str, Any]:
    """The fields of preprocessor_config.json, all of them spelt out.

    Raises:
        ValueError: for a way of resizing that transformers does not have.
    """
    resample = next((number for number, method in _RESAMPLE.items() if method == pixels.resize), None)
    if resample is None:
        raise ValueError(
            "transformers resizes with antialiasing and rounds to whole grey levels, this processor by "
            f"{pixels.resize!r}. Make a "
            'Processor with resize="bilinear_antialias", evaluate the model with it, and save that, or save with '
            'format="diptych".'
        )
    normalization = pixels.normalization
    fields: dict[str, Any] = {
        "do_convert_rgb": True,
        "do_resize": True,
        "resample": resample,
        "do_rescale": True,
        "rescale_factor": normalization.scale,
        "do_normalize": True,
        "image_mean": list(normalization.mean),
        "image_std": list(normalization.std),
    }
    if isinstance(pixels, NaFlex):
        patches = {"patch_size": pixels.patch_size, "max_num_patches": pixels.max_num_patches}
        return {"image_processor_type": "Siglip2ImageProcessor", **fields, **patches}
    size = {"height": pixels.height, "width": pixels.width}
    if pixels.shortest_edge is None:
        return {"image_processor_type": "SiglipImageProcessor", **fields, "size": size}
    crop = {"size": {"shortest_edge": pixels.shortest_edge}, "do_center_crop": True, "crop_size": size}
    return {"image_processor_type": "CLIPImageProcessor", **fields, **crop}


def _class_name(fields: Fields, model_type: str) -> str:
    given = fields.optional("image_processor_type", str) or fields.optional("feature_extractor_type", str)
    if given is None and model_type in _CLASS_OF_MODEL:
        return _CLASS_OF_MODEL[model_type]
    name = (given or "").replace("FeatureExtractor", "ImageProcessor").removesuffix("Fast").removesuffix("Pil")
    if name not in _CLASSES:
        raise fields.wrong("image_processor_type", f"one of {', '.join(_CLASSES)}, Fast or not")
    return name


def _fixed_size(fields: Fields, defaults: _Defaults, method: ResizeMethod, normalization: Normalization) -> FixedSize:
    size = _sides(fields, "size")
    crop = _sides(fields, "crop_size") if fields.get("do_center_crop", bool, defaults.crops) else None
    if isinstance(crop, int):
        crop = crop, crop
    if isinstance(size, int) and not defaults.crops and not isinstance(fields.values.get("size"), dict):
        size = size, size  # a bare number is the side of a square for SigLIP, the shortest edge for CLIP
    if isinstance(size, tuple):
        if crop not in (None, size):
            raise fields.wrong("crop_size", f"the same as size, {size}: nothing is cropped after squashing")
        return FixedSize(height=size[0], width=size[1], resize=method, normalization=normalization)
    if crop is None:
        raise fields.wrong("size", "height and width, or a crop after resizing: the model takes images of one size")
    if size < max(crop):
        raise fields.wrong("crop_size", f"no more than the shortest edge, {size}")
    return FixedSize(height=crop[0], width=crop[1], shortest_edge=size, resize=method, normalization=normalization)


def _sides(fields: Fields, name: str) -> int | tuple[int, int]:
    """(height, width), or one number: the shortest edge, or what stands there bare."""
    if not isinstance(fields.values.get(name), dict):
        return fields.count(name, RELEASED_SIZE, most=MOST_PIXELS_A_SIDE)
    inner = fields.object(name)
    if "shortest_edge" in inner:
        return inner.count("shortest_edge", RELEASED_SIZE, most=MOST_PIXELS_A_SIDE)
    if "height" not in inner or "width" not in inner:
        raise fields.wrong(name, "a number, or an object with height and width, or with shortest_edge")
    height, width = (inner.count(side, RELEASED_SIZE, most=MOST_PIXELS_A_SIDE) for side in ("height", "width"))
    return height, width
