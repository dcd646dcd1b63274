"""open_clip's and timm's checkpoints of SigLIP, SigLIP 2, NaFlex and CLIP: configuration and names of weights.

Read are `open_clip_config.json` and the names in `open_clip_model.safetensors`.

SigLIP's image tower there is timm's ("visual.trunk."), CLIP's is open_clip's own; both have one text tower of OpenAI's
names.
"""

import math
from collections.abc import Mapping
from pathlib import Path

from diptych.core.files.json_objects import write_config
from diptych.core.weights.files import WeightFiles
from diptych.core.weights.mapping import (
    CONV,
    FLAT_PATCHES_TRANSPOSED,
    LEADING_AXIS,
    TRANSPOSED,
    Arrays,
    Rule,
    Table,
)
from diptych.core.weights.safetensors import write_safetensors_folder
from diptych.models.clip.config import CLIPConfig, CLIPTextConfig, CLIPVisionConfig
from diptych.models.clip.resnet_config import CLIPResNetConfig
from diptych.models.siglip.config import NaFlexVisionConfig, SigLIPConfig, TextConfig, VisionConfig, image_alone
from diptych.models.sizes import SIZES
from diptych.models.weights import open_clip_fields
from diptych.models.weights.open_clip_fields import CLIP_HEAD_WIDTH

CONFIG_FILE, WEIGHTS_FILE = "open_clip_config.json", "open_clip_model.safetensors"
_TRUNK = "visual.trunk"


def config_of(fields: Mapping, files: WeightFiles) -> SigLIPConfig | CLIPConfig:
    """The configuration of an `open_clip_config.json`; the size of timm's towers is told by the weights' shapes."""
    model = fields.get("model_cfg", fields)
    vision, text = model["vision_cfg"], model["text_cfg"]
    if "timm_model_name" in vision:
        return _siglip_config(vision, text, model, files)
    activation = "quick_gelu" if model.get("quick_gelu") else "gelu"
    text_config = CLIPTextConfig(
        width=text["width"],
        depth=text["layers"],
        mlp_dim=round(text.get("mlp_ratio", 4.0) * text["width"]),
        num_heads=text["heads"],
        vocab_size=text.get("vocab_size", 49_408),
        context_length=text.get("context_length", 77),
        embed_dim=model["embed_dim"],
        activation=activation,
    )
    width = vision.get("width", 64 if isinstance(vision["layers"], list) else 768)
    if isinstance(vision["layers"], list):
        image: CLIPResNetConfig | CLIPVisionConfig = CLIPResNetConfig(
            stage_depths=tuple(vision["layers"]),
            width=width,
            num_heads=width * 32 // vision.get("head_width", CLIP_HEAD_WIDTH),
            image_size=vision.get("image_size", 224),
            embed_dim=model["embed_dim"],
        )
    else:
        image = CLIPVisionConfig(
            width=width,
            depth=vision["layers"],
            mlp_dim=round(vision.get("mlp_ratio", 4.0) * width),
            num_heads=width // vision.get("head_width", CLIP_HEAD_WIDTH),
            patch_size=vision.get("patch_size", 16),
            image_size=vision.get("image_size", 224),
            embed_dim=model["embed_dim"],
            activation=activation,
        )
    return CLIPConfig(vision=image, text=text_config)


def table(config: SigLIPConfig | CLIPConfig, files: WeightFiles | None = None) -> Table:
    """Our names and open_clip's."""
    if isinstance(config, SigLIPConfig):
        return Table(_siglip_rules(config))
    custom = files is not None and "text.token_embedding.weight" in files.shapes
    return Table(_clip_rules(config, "text." if custom else ""), ignored=("*attn_mask", "*num_batches_tracked"))


def write(folder: Path, config: SigLIPConfig | CLIPConfig, arrays: Arrays) -> None:
    """Writes `open_clip_config.json` and `open_clip_model.safetensors`."""
    fields = open_clip_fields.fields_of(config)
    write_safetensors_folder(folder, table(config).save(arrays), stem="open_clip_model")
    write_config(folder / CONFIG_FILE, fields)


def _siglip_config(vision: Mapping, text: Mapping, model: Mapping, files: WeightFiles) -> SigLIPConfig:
    return SigLIPConfig(
        vision=_trunk_config(files, f"{_TRUNK}.", vision),
        text=TextConfig(
            width=text["width"],
            depth=text["layers"],
            mlp_dim=files.shapes["text.transformer.resblocks.0.mlp.c_fc.weight"][0],
            num_heads=text["heads"],
            vocab_size=text["vocab_size"],
            context_length=text["context_length"],
            embed_dim=model["embed_dim"],
        ),
        init_logit_bias=-10.0 if "logit_bias" in files.shapes else None,
    )


def trunk_config_of(files: WeightFiles) -> SigLIPConfig:
    """The configuration around one of timm's image towers alone."""
    return image_alone(_trunk_config(files, "", {}))


def trunk_table(config: SigLIPConfig, files: WeightFiles | None = None) -> Table:
    """Our names and those of timm's image tower alone."""
    return Table(_siglip_rules(config)).only("image/", without=f"{_TRUNK}.")


def _trunk_config(files: WeightFiles, prefix: str, fields: Mapping) -> VisionConfig | NaFlexVisionConfig:
    shapes = files.shapes
    naflex = f"{prefix}embeds.proj.weight" in shapes
    kernel = f"{prefix}embeds.proj.weight" if naflex else f"{prefix}patch_embed.proj.weight"
    if kernel not in shapes:
        raise ValueError(f"{files.source} has no {kernel}: its image tower is not timm's vision transformer.")
    width = shapes[kernel][0]
    num_heads = next((heads for known, _, _, heads in SIZES.values() if known == width), None)
    if num_heads is None:
        raise ValueError(
            f"{files.source}: no vision transformer of width {width} is known; sizes are in diptych.models.sizes."
        )
    tower: dict = {
        "width": width,
        "depth": sum(name.startswith(f"{prefix}blocks.") and name.endswith(".norm1.weight") for name in shapes),
        "mlp_dim": shapes[f"{prefix}blocks.0.mlp.fc1.weight"][0],
        "num_heads": num_heads,
    }
    if naflex:
        patch_size, grid = math.isqrt(shapes[kernel][1] // 3), shapes[f"{prefix}embeds.pos_embed"][1]
        tokens = fields.get("image_seq_len", grid**2)
        return NaFlexVisionConfig(**tower, patch_size=patch_size, position_grid=grid, max_num_patches=tokens)
    patch_size, patches = shapes[kernel][2], shapes[f"{prefix}pos_embed"][1]
    image_size = fields.get("image_size", math.isqrt(patches) * patch_size)
    return VisionConfig(**tower, patch_size=patch_size, image_size=image_size)


def _siglip_rules(config: SigLIPConfig) -> list[Rule]:
    pooling, head = "image/map_head", f"{_TRUNK}.attn_pool"
    if isinstance(config.vision, NaFlexVisionConfig):
        embedding = [
            Rule("image/patch_embedding/kernel", f"{_TRUNK}.embeds.proj.weight", FLAT_PATCHES_TRANSPOSED),
            Rule("image/patch_embedding/bias", f"{_TRUNK}.embeds.proj.bias"),
            Rule("image/position_embedding/embedding", f"{_TRUNK}.embeds.pos_embed", LEADING_AXIS),
        ]
    else:
        embedding = [
            Rule("image/patch_embedding/kernel", f"{_TRUNK}.patch_embed.proj.weight", CONV),
            Rule("image/patch_embedding/bias", f"{_TRUNK}.patch_embed.proj.bias"),
            Rule("image/position_embedding/embedding", f"{_TRUNK}.pos_embed", LEADING_AXIS),
        ]
    for layer in range(config.vision.depth):
        embedding += _block(f"image/encoder/block_{layer:02d}", f"{_TRUNK}.blocks.{layer}", _TIMM_NAMES)
    return [
        Rule("pair_logits/log_logit_scale", "logit_scale"),
        *([] if config.init_logit_bias is None else [Rule("pair_logits/logit_bias", "logit_bias")]),
        *embedding,
        *_norm("image/encoder/norm", f"{_TRUNK}.norm"),
        Rule(f"{pooling}/probe", f"{head}.latent"),
        *_linear(f"{pooling}/query", f"{head}.q"),
        *_linear(f"{pooling}/key_value", f"{head}.kv"),
        *_linear(f"{pooling}/out", f"{head}.proj"),
        *_norm(f"{pooling}/norm", f"{head}.norm"),
        *_linear(f"{pooling}/mlp/in", f"{head}.mlp.fc1"),
        *_linear(f"{pooling}/mlp/out", f"{head}.mlp.fc2"),
        *_text(config, "text."),
        Rule("text/projection/kernel", "text.text_projection.weight", TRANSPOSED),
        Rule("text/projection/bias", "text.text_projection.bias"),
    ]


def _clip_rules(config: CLIPConfig, prefix: str) -> list[Rule]:
    rules = [
        Rule("pair_logits/log_logit_scale", "logit_scale"),
        *_text(config, prefix),
        Rule("text/projection/kernel", f"{prefix}text_projection"),
    ]
    if isinstance(config.vision, CLIPResNetConfig):
        from diptych.models.weights import clip_resnet

        return rules + clip_resnet.rules(config.vision)
    for layer in range(config.vision.depth):
        rules += _block(f"image/encoder/block_{layer:02d}", f"visual.transformer.resblocks.{layer}", _OPENAI_NAMES)
    return rules + [
        Rule("image/class_token/token", "visual.class_embedding"),
        Rule("image/patch_embedding/kernel", "visual.conv1.weight", CONV),
        Rule("image/position_embedding/embedding", "visual.positional_embedding"),
        *_norm("image/input_norm", "visual.ln_pre"),
        *_norm("image/encoder/norm", "visual.ln_post"),
        Rule("image/projection/kernel", "visual.proj"),
    ]


def _text(config: SigLIPConfig | CLIPConfig, prefix: str) -> list[Rule]:
    rules = [
        Rule("text/token_embedding/embedding", f"{prefix}token_embedding.weight"),
        Rule("text/position_embedding/embedding", f"{prefix}positional_embedding"),
        *_norm("text/encoder/norm", f"{prefix}ln_final"),
    ]
    for layer in range(config.text.depth):
        rules += _block(f"text/encoder/block_{layer:02d}", f"{prefix}transformer.resblocks.{layer}", _OPENAI_NAMES)
    return rules


_TIMM_NAMES = ("norm1", "attn.qkv.", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2")
_OPENAI_NAMES = ("ln_1", "attn.in_proj_", "attn.out_proj", "ln_2", "mlp.c_fc", "mlp.c_proj")


def _block(ours: str, theirs: str, names: tuple[str, ...]) -> list[Rule]:
    attention_norm, qkv, attention_out, mlp_norm, mlp_in, mlp_out = (f"{theirs}.{name}" for name in names)
    return [
        *_norm(f"{ours}/attention_norm", attention_norm),
        Rule(f"{ours}/attention/qkv_kernel", f"{qkv}weight", TRANSPOSED),
        Rule(f"{ours}/attention/qkv_bias", f"{qkv}bias"),
        *_linear(f"{ours}/attention/out", attention_out),
        *_norm(f"{ours}/mlp_norm", mlp_norm),
        *_linear(f"{ours}/mlp/in", mlp_in),
        *_linear(f"{ours}/mlp/out", mlp_out),
    ]


def _linear(ours: str, theirs: str) -> list[Rule]:
    return [Rule(f"{ours}_kernel", f"{theirs}.weight", TRANSPOSED), Rule(f"{ours}_bias", f"{theirs}.bias")]


def _norm(ours: str, theirs: str) -> list[Rule]:
    return [Rule(f"{ours}/scale", f"{theirs}.weight"), Rule(f"{ours}/bias", f"{theirs}.bias")]
