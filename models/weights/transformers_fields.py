"""Hugging Face transformers: the `config.json` of model types siglip, siglip2 and clip, read and written.

A configuration on the hub is sparse: what it leaves out has transformers' defaults.
"""

import math
from collections.abc import Mapping
from pathlib import Path

from diptych.models.clip.config import CLIPConfig, CLIPTextConfig, CLIPVisionConfig
from diptych.models.clip.resnet_config import CLIPResNetConfig
from diptych.models.siglip.config import NaFlexVisionConfig, SigLIPConfig, TextConfig, VisionConfig

NO_BIAS = '{} SigLIP has a logit bias, and this model none. Save it with format="open_clip" or "diptych".'
NO_RESNET = 'transformers has no ResNet image tower for CLIP. Save it with format="open_clip" or "diptych".'

_SIGLIP_TOWER = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "hidden_act": "gelu_pytorch_tanh",
    "layer_norm_eps": 1e-6,
}
_CLIP_TOWER = _SIGLIP_TOWER | {"hidden_act": "quick_gelu", "layer_norm_eps": 1e-5}
DEFAULTS: Mapping[str, tuple[dict, dict]] = {
    "siglip": (
        _SIGLIP_TOWER | {"image_size": 224, "patch_size": 16, "num_channels": 3, "vision_use_head": True},
        _SIGLIP_TOWER | {"vocab_size": 32_000, "max_position_embeddings": 64},
    ),
    "siglip2": (
        _SIGLIP_TOWER | {"num_patches": 256, "patch_size": 16, "num_channels": 3, "vision_use_head": True},
        _SIGLIP_TOWER | {"vocab_size": 32_000, "max_position_embeddings": 64},
    ),
    "clip": (
        _CLIP_TOWER | {"image_size": 224, "patch_size": 32, "num_channels": 3},
        _CLIP_TOWER
        | {
            "hidden_size": 512,
            "intermediate_size": 2048,
            "num_attention_heads": 8,
            "vocab_size": 49_408,
            "max_position_embeddings": 77,
            "eos_token_id": 49_407,
        },
    ),
}
_SIGLIP_FIELDS = {"hidden_act": "gelu_pytorch_tanh", "layer_norm_eps": 1e-6, "attention_dropout": 0.0}
_ACTIVATIONS = {"gelu_pytorch_tanh": "gelu_tanh", "quick_gelu": "quick_gelu", "gelu": "gelu"}
_IMAGE_ONLY = "_vision_model"
_LARGEST_ID_IS_END = 2  # what OpenAI's own repositories have as eos_token_id: the text is then read at its largest id


def config_of(fields: Mapping, source: Path) -> SigLIPConfig | CLIPConfig:
    """The configuration that a `config.json` describes.

    Raises:
        ValueError: for another model type, or a field whose value no model here computes with.
    """
    kind = str(fields.get("model_type"))
    if kind.endswith(_IMAGE_ONLY) and kind.removesuffix(_IMAGE_ONLY) in DEFAULTS:
        kind = kind.removesuffix(_IMAGE_ONLY)
        fields = {"vision_config": fields, "projection_dim": fields.get("projection_dim", 512)}
        fields |= {"text_config": {"projection_size": fields["vision_config"].get("hidden_size", 768)}}
    if kind not in DEFAULTS:
        raise ValueError(
            f"{source}: model_type is {fields.get('model_type')!r}, expected one of {', '.join(DEFAULTS)} (or "
            "diptych's own layout)."
        )
    vision_defaults, text_defaults = DEFAULTS[kind]
    vision = vision_defaults | _part(fields, "vision")
    text = text_defaults | _part(fields, "text")
    for part, expected in ((vision, vision_defaults), (text, text_defaults)):
        _check_computed(kind, part, expected, source)
    _expect(vision, "num_channels", 3, source)
    if kind == "clip":
        embed_dim = fields.get("projection_dim", 512)
        return CLIPConfig(
            vision=CLIPVisionConfig(
                **_tower(vision),
                patch_size=vision["patch_size"],
                image_size=vision["image_size"],
                embed_dim=embed_dim,
                activation=_activation(vision, source),
            ),
            text=CLIPTextConfig(
                **_tower(text),
                vocab_size=text["vocab_size"],
                context_length=text["max_position_embeddings"],
                embed_dim=embed_dim,
                activation=_activation(text, source),
                eot_id=None if text["eos_token_id"] == _LARGEST_ID_IS_END else text["eos_token_id"],
            ),
        )
    _expect(vision, "vision_use_head", True, source)
    return SigLIPConfig(
        vision=_siglip_vision(kind, vision, source),
        text=TextConfig(
            **_tower(text),
            vocab_size=text["vocab_size"],
            context_length=text["max_position_embeddings"],
            embed_dim=text.get("projection_size", text["hidden_size"]),
        ),
    )


def vision_of(fields: Mapping, source: Path) -> VisionConfig | NaFlexVisionConfig:
    """The image tower alone that a `config.json` of siglip or siglip2 describes; errors as for `config_of`."""
    kind = str(fields.get("model_type"))
    if kind not in ("siglip", "siglip2"):
        raise ValueError(f"{source}: model_type is {kind!r}, expected siglip or siglip2.")
    defaults = DEFAULTS[kind][0]
    vision = defaults | _part(fields, "vision")
    _check_computed(kind, vision, defaults, source)
    _expect(vision, "num_channels", 3, source)
    return _siglip_vision(kind, vision, source)


def _siglip_vision(kind: str, vision: Mapping, source: Path) -> VisionConfig | NaFlexVisionConfig:
    if kind == "siglip":
        return VisionConfig(**_tower(vision), patch_size=vision["patch_size"], image_size=vision["image_size"])
    grid = math.isqrt(vision["num_patches"])
    if grid**2 != vision["num_patches"]:
        raise ValueError(f"{source}: vision_config.num_patches is {vision['num_patches']}, expected a square number.")
    return NaFlexVisionConfig(
        **_tower(vision), patch_size=vision["patch_size"], position_grid=grid, max_num_patches=vision["num_patches"]
    )


def _check_computed(kind: str, part: Mapping, expected: Mapping, source: Path) -> None:
    _expect(part, "layer_norm_eps", expected["layer_norm_eps"], source)
    if kind != "clip":
        _expect(part, "hidden_act", expected["hidden_act"], source, also="gelu_tanh")


def fields_of(config: SigLIPConfig | CLIPConfig) -> dict:
    """The `config.json` of a model, nothing left to a default.

    Raises:
        ValueError: for a model that transformers has no class for.
    """
    if isinstance(config, CLIPConfig):
        return _clip_fields(config)
    vision, text = config.own_towers
    if config.init_logit_bias is None:
        raise ValueError(NO_BIAS.format("transformers'"))
    if vision.pooling != "map" or vision.has_own_parts or text.pooling != "last" or not text.embed_dim:
        raise ValueError(
            "transformers' SigLIP pools images by attention without a projection and reads text at its last position "
            f'with one; this model has {vision} and {text}. Save it with format="diptych".'
        )
    kind, name = ("siglip2", "Siglip2Model") if isinstance(vision, NaFlexVisionConfig) else ("siglip", "SiglipModel")
    return {
        "architectures": [name],
        "model_type": kind,
        "initializer_factor": 1.0,
        "dtype": "float32",
        "vision_config": vision_fields(vision),
        "text_config": {
            "model_type": f"{kind}_text_model",
            **_tower_fields(text),
            **_SIGLIP_FIELDS,
            "vocab_size": text.vocab_size,
            "max_position_embeddings": text.context_length,
            "projection_size": text.embed_dim,
        },
    }


def vision_fields(vision: VisionConfig | NaFlexVisionConfig) -> dict:
    """The `vision_config` of SigLIP's image towers."""
    if isinstance(vision, NaFlexVisionConfig):
        kind, size = "siglip2", {"num_patches": vision.position_grid**2}
    else:
        kind, size = "siglip", {"image_size": vision.image_size}
    return {
        "model_type": f"{kind}_vision_model",
        **_tower_fields(vision),
        **_SIGLIP_FIELDS,
        **size,
        "patch_size": vision.patch_size,
        "num_channels": 3,
        "vision_use_head": True,
    }


def _clip_fields(config: CLIPConfig) -> dict:
    vision, text = config.vision, config.text
    if isinstance(vision, CLIPResNetConfig):
        raise ValueError(NO_RESNET)
    common = {"layer_norm_eps": 1e-5, "attention_dropout": 0.0, "projection_dim": vision.embed_dim}
    names = {ours: theirs for theirs, ours in _ACTIVATIONS.items()}
    return {
        "architectures": ["CLIPModel"],
        "model_type": "clip",
        "initializer_factor": 1.0,
        "logit_scale_init_value": math.log(config.init_logit_scale),
        "projection_dim": vision.embed_dim,
        "dtype": "float32",
        "vision_config": {
            "model_type": "clip_vision_model",
            **_tower_fields(vision),
            **common,
            "hidden_act": names[vision.activation],
            "image_size": vision.image_size,
            "patch_size": vision.patch_size,
            "num_channels": 3,
        },
        "text_config": {
            "model_type": "clip_text_model",
            **_tower_fields(text),
            **common,
            "hidden_act": names[text.activation],
            "vocab_size": text.vocab_size,
            "max_position_embeddings": text.context_length,
            "eos_token_id": _LARGEST_ID_IS_END if text.eot_id is None else text.eot_id,
        },
    }


def _tower_fields(config) -> dict:
    return {
        "hidden_size": config.width,
        "num_hidden_layers": config.depth,
        "intermediate_size": config.mlp_dim,
        "num_attention_heads": config.num_heads,
    }


def _tower(part: Mapping) -> dict:
    return {
        "width": part["hidden_size"],
        "depth": part["num_hidden_layers"],
        "mlp_dim": part["intermediate_size"],
        "num_heads": part["num_attention_heads"],
    }


def _part(fields: Mapping, name: str) -> dict:
    """A tower's fields; early CLIP repositories have some of them a second time, under a name that wins."""
    return {**(fields.get(f"{name}_config") or {}), **(fields.get(f"{name}_config_dict") or {})}


def _activation(part: Mapping, source: Path) -> str:
    if part["hidden_act"] not in _ACTIVATIONS:
        raise ValueError(f"{source}: hidden_act is {part['hidden_act']!r}, expected one of {', '.join(_ACTIVATIONS)}.")
    return _ACTIVATIONS[part["hidden_act"]]


def _expect(part: Mapping, name: str, value, source: Path, also=None) -> None:
    if part[name] not in (value, also):
        raise ValueError(f"{source}: {name} is {part[name]!r}; models here compute with {value!r}.")
