"""Hugging Face transformers: the names in the safetensors of model types siglip, siglip2 and clip.

The names are the same from version 4 to 5. `transformers_fields` has their `config.json`.
"""

from pathlib import Path

from diptych.core.files.json_objects import write_config
from diptych.core.weights.files import WeightFiles
from diptych.core.weights.mapping import (
    CONV,
    FLAT_PATCHES_TRANSPOSED,
    LEADING_AXIS,
    SAME,
    SQUARE_GRID,
    STACKED,
    STACKED_TRANSPOSED,
    TRANSPOSED,
    Arrays,
    Rule,
    Table,
    split,
)
from diptych.core.weights.safetensors import write_safetensors_folder
from diptych.models.clip.config import CLIPConfig, CLIPVisionConfig
from diptych.models.clip.resnet_config import CLIPResNetConfig
from diptych.models.siglip.config import NaFlexVisionConfig, SigLIPConfig, VisionConfig
from diptych.models.weights.transformers_fields import NO_RESNET, fields_of

IGNORED = ("*.position_ids",)
PATCHES = "vision_model.embeddings.patch_embedding"


def table(config: SigLIPConfig | CLIPConfig, files: WeightFiles | None = None) -> Table:
    """Our names and transformers'."""
    if isinstance(config.vision, CLIPResNetConfig):
        raise ValueError(NO_RESNET)
    rules = [
        Rule("text/token_embedding/embedding", "text_model.embeddings.token_embedding.weight"),
        Rule("text/position_embedding/embedding", "text_model.embeddings.position_embedding.weight"),
        *_norm("text/encoder/norm", "text_model.final_layer_norm"),
        *_blocks("text/encoder", "text_model.encoder.layers", config.text.depth),
    ]
    if isinstance(config, CLIPConfig):
        rules += [
            Rule("pair_logits/log_logit_scale", "logit_scale"),
            Rule("image/class_token/token", "vision_model.embeddings.class_embedding"),
            *_vision_trunk(config.vision),
            Rule("image/patch_embedding/kernel", f"{PATCHES}.weight", CONV),
            *_norm("image/input_norm", "vision_model.pre_layrnorm"),
            Rule("image/projection/kernel", "visual_projection.weight", TRANSPOSED),
            Rule("text/projection/kernel", "text_projection.weight", TRANSPOSED),
        ]
        return Table(rules, ignored=IGNORED)
    rules += [
        Rule("pair_logits/log_logit_scale", "logit_scale", LEADING_AXIS),
        Rule("pair_logits/logit_bias", "logit_bias", LEADING_AXIS),
        *vision_rules(config.own_vision),
        *_linear("text/projection/kernel", "text/projection/bias", "text_model.head"),
    ]
    return Table(rules, ignored=IGNORED)


def vision_rules(vision: VisionConfig | NaFlexVisionConfig | CLIPVisionConfig) -> list[Rule]:
    """The rules of SigLIP's image towers."""
    naflex = isinstance(vision, NaFlexVisionConfig)
    return [
        *_vision_trunk(vision),
        Rule("image/patch_embedding/kernel", f"{PATCHES}.weight", FLAT_PATCHES_TRANSPOSED if naflex else CONV),
        Rule("image/patch_embedding/bias", f"{PATCHES}.bias"),
        *(_map_head() if vision.pooling == "map" else ()),
    ]


def _vision_trunk(vision: VisionConfig | NaFlexVisionConfig | CLIPVisionConfig) -> list[Rule]:
    """What the image towers of all families have."""
    return [
        Rule(
            "image/position_embedding/embedding",
            "vision_model.embeddings.position_embedding.weight",
            SQUARE_GRID if isinstance(vision, NaFlexVisionConfig) else SAME,
        ),
        *_norm("image/encoder/norm", "vision_model.post_layernorm"),
        *_blocks("image/encoder", "vision_model.encoder.layers", vision.depth),
    ]


def _norm(ours: str, theirs: str) -> list[Rule]:
    return [Rule(f"{ours}/scale", f"{theirs}.weight"), Rule(f"{ours}/bias", f"{theirs}.bias")]


def _linear(kernel: str, bias: str, theirs: str) -> list[Rule]:
    return [Rule(kernel, f"{theirs}.weight", TRANSPOSED), Rule(bias, f"{theirs}.bias")]


def _blocks(ours: str, theirs: str, depth: int) -> list[Rule]:
    rules = []
    for layer in range(depth):
        block, other = f"{ours}/block_{layer:02d}", f"{theirs}.{layer}"
        attention = [f"{other}.self_attn.{part}_proj" for part in ("q", "k", "v")]
        rules += [
            *_norm(f"{block}/attention_norm", f"{other}.layer_norm1"),
            Rule(f"{block}/attention/qkv_kernel", tuple(f"{part}.weight" for part in attention), STACKED_TRANSPOSED),
            Rule(f"{block}/attention/qkv_bias", tuple(f"{part}.bias" for part in attention), STACKED),
            *_linear(f"{block}/attention/out_kernel", f"{block}/attention/out_bias", f"{other}.self_attn.out_proj"),
            *_norm(f"{block}/mlp_norm", f"{other}.layer_norm2"),
            *_linear(f"{block}/mlp/in_kernel", f"{block}/mlp/in_bias", f"{other}.mlp.fc1"),
            *_linear(f"{block}/mlp/out_kernel", f"{block}/mlp/out_bias", f"{other}.mlp.fc2"),
        ]
    return rules


def _map_head() -> list[Rule]:
    ours, theirs = "image/map_head", "vision_model.head"
    kernels, biases = ((f"{ours}/query_{part}", f"{ours}/key_value_{part}") for part in ("kernel", "bias"))
    return [
        Rule(f"{ours}/probe", f"{theirs}.probe"),
        Rule(kernels, f"{theirs}.attention.in_proj_weight", split(TRANSPOSED, 1, 2)),
        Rule(biases, f"{theirs}.attention.in_proj_bias", split(SAME, 1, 2)),
        *_linear(f"{ours}/out_kernel", f"{ours}/out_bias", f"{theirs}.attention.out_proj"),
        *_norm(f"{ours}/norm", f"{theirs}.layernorm"),
        *_linear(f"{ours}/mlp/in_kernel", f"{ours}/mlp/in_bias", f"{theirs}.mlp.fc1"),
        *_linear(f"{ours}/mlp/out_kernel", f"{ours}/mlp/out_bias", f"{theirs}.mlp.fc2"),
    ]


def write(folder: Path, config: SigLIPConfig | CLIPConfig, arrays: Arrays) -> None:
    """Writes `config.json` and the safetensors of a model."""
    fields = fields_of(config)
    write_safetensors_folder(folder, table(config).save(arrays), metadata={"format": "pt"})
    write_config(folder / "config.json", fields)
