"""The `open_clip_config.json` of a model, for models that open_clip and timm can build."""

import math
from collections.abc import Mapping

from diptych.models.clip.config import CLIPConfig, CLIPTextConfig, CLIPVisionConfig
from diptych.models.clip.resnet_config import CLIPResNetConfig
from diptych.models.siglip.config import NaFlexVisionConfig, SigLIPConfig, TextConfig, VisionConfig
from diptych.models.sizes import SIZES

RELEASE = "3.3.0 with timm 1.0.31"
"""What can build every model that is written here. The name of a timm tower fixes its image size."""
_TIMM_TOWERS: Mapping[str, tuple[str, dict[int, tuple[int, ...]]]] = {
    "B": ("base", {16: (224, 256, 384, 512), 32: (256,)}),
    "L": ("large", {16: (256, 384, 512)}),
    "So400m": ("so400m", {14: (224, 378, 384), 16: (256, 384, 512)}),
    "g-opt": ("giantopt", {16: (256, 384)}),
}
"""Our name of a size: timm's, and the image sizes of each patch size."""
_TIMM_NAFLEX = ("base", "so400m")
_NAFLEX = (16, 16, 256)  # patch size, side of the table of positions, patches: the release has no field for others
_TOWER_NAMES = (
    ", ".join(
        f"{name}/{patch} at {', '.join(map(str, sides[:-1]))}{' or ' if sides[:-1] else ''}{sides[-1]} px"
        for name, (_, patches) in _TIMM_TOWERS.items()
        for patch, sides in patches.items()
    )
    + ", and NaFlex B/16 and So400m/16 of 256 patches"
)
CLIP_HEAD_WIDTH = 64


def fields_of(config: SigLIPConfig | CLIPConfig) -> dict:
    """The `open_clip_config.json` of a model.

    Raises:
        ValueError: for a model that open_clip cannot build.
    """
    if isinstance(config, CLIPConfig):
        return {"model_cfg": _clip_fields(config)}
    return {"model_cfg": _siglip_fields(config)}


def _siglip_fields(config: SigLIPConfig) -> dict:
    vision, text = config.own_towers
    tower = _timm_tower(vision)
    if tower is None or vision.pooling != "map" or vision.has_own_parts or text.pooling != "last" or not text.embed_dim:
        raise ValueError(
            f"open_clip {RELEASE} builds SigLIP from timm's towers {_TOWER_NAMES}, pooled by attention without a "
            f"projection, and text read at its last position with one; this model has {vision} and {text}. Save it "
            'with format="diptych" or "transformers".'
        )
    return {
        "embed_dim": vision.output_width,
        "init_logit_bias": config.init_logit_bias,
        "custom_text": True,
        "vision_cfg": {**tower, "timm_model_pretrained": False, "timm_pool": "map", "timm_proj": "none"},
        "text_cfg": {
            **_text_sizes(text),
            "no_causal_mask": True,
            "proj_bias": True,
            "pool_type": "last",
            "norm_kwargs": {"eps": 1e-6},
            "act_kwargs": {"approximate": "tanh"},
        },
    }


def _timm_tower(vision: VisionConfig | NaFlexVisionConfig) -> dict | None:
    """The fields of an image tower that timm has under a name; None for any other."""
    sizes = (vision.width, vision.depth, vision.mlp_dim, vision.num_heads)
    size, image_sizes = next(
        (tower for name, tower in _TIMM_TOWERS.items() if SIZES[name] == sizes), ("", dict[int, tuple[int, ...]]())
    )
    if isinstance(vision, NaFlexVisionConfig):
        fits = size in _TIMM_NAFLEX and (vision.patch_size, vision.position_grid, vision.max_num_patches) == _NAFLEX
        name, image_size = f"naflexvit_{size}_patch{vision.patch_size}_siglip", vision.position_grid * vision.patch_size
    else:
        fits = vision.image_size in image_sizes.get(vision.patch_size, ())
        name, image_size = f"vit_{size}_patch{vision.patch_size}_siglip_{vision.image_size}", vision.image_size
    return {"timm_model_name": name, "image_size": image_size} if fits else None


def _text_sizes(text: TextConfig | CLIPTextConfig) -> dict:
    """The fields of text_cfg that all of open_clip's text towers have."""
    return {
        "context_length": text.context_length,
        "vocab_size": text.vocab_size,
        "width": text.width,
        "heads": text.num_heads,
        "layers": text.depth,
        "mlp_ratio": _mlp_ratio(text),
    }


def _mlp_ratio(config: TextConfig | CLIPTextConfig | CLIPVisionConfig) -> float:
    """What open_clip multiplies the width by and cuts to a whole number, which has to be `mlp_dim`."""
    ratio = config.mlp_dim / config.width
    return ratio if int(config.width * ratio) == config.mlp_dim else math.nextafter(ratio, math.inf)


def _clip_fields(config: CLIPConfig) -> dict:
    vision, text = config.vision, config.text
    if text.activation not in ("gelu", "quick_gelu") or text.eot_id is not None:
        raise ValueError(
            f"open_clip's CLIP has gelu or quick_gelu and reads text at its largest id, got {text.activation} and "
            f"eot_id {text.eot_id}."
        )
    if isinstance(vision, CLIPResNetConfig):
        head_width = vision.channels // vision.num_heads
        tower: dict = {"layers": list(vision.stage_depths), "width": vision.width, "head_width": head_width}
    elif vision.width != vision.num_heads * CLIP_HEAD_WIDTH or vision.activation != text.activation:
        raise ValueError(
            f"open_clip's image towers have heads of {CLIP_HEAD_WIDTH} and the text's activation, got {vision}."
        )
    else:
        tower = {"layers": vision.depth, "width": vision.width, "patch_size": vision.patch_size}
        tower["mlp_ratio"] = _mlp_ratio(vision)
    return {
        "embed_dim": vision.embed_dim,
        "quick_gelu": text.activation == "quick_gelu",
        "vision_cfg": {"image_size": vision.image_size, **tower},
        "text_cfg": _text_sizes(text),
    }
