"""keras-hub presets of SigLIP and SigLIP 2: `config.json` and the places of the weights in `model.weights.h5` (0.32).

Keras files name weights by the layers' classes and their order, "vars/0" for a layer's first.
"""

from collections.abc import Mapping

from diptych.core.weights.files import WeightFiles
from diptych.core.weights.mapping import Rule, Table, heads_in, heads_out
from diptych.models.siglip.config import SigLIPConfig, TextConfig, VisionConfig

IGNORED = ("*/seed_generator*", "*_embedding/vars/0")
"""What keras-hub stores beside weights; `vars/0` of an embedding is the list of positions 0, 1, 2, ..."""

_IMAGE, _TEXT = "layers/sig_lip_vision_encoder/layers", "layers/sig_lip_text_encoder/layers"


def config_of(fields: Mapping) -> SigLIPConfig:
    """The configuration that a keras-hub `config.json` describes."""
    if fields.get("class_name") != "SigLIPBackbone":
        raise ValueError(f"A keras-hub preset of class SigLIPBackbone is needed, got {fields.get('class_name')!r}.")
    vision, text = (fields["config"][f"{part}_encoder"]["config"] for part in ("vision", "text"))
    side, other_side = vision["image_shape"][:2]
    if side != other_side:
        raise ValueError(f"Square images are needed, the preset has {vision['image_shape']}.")
    return SigLIPConfig(
        vision=VisionConfig(**_tower(vision), patch_size=vision["patch_size"], image_size=side),
        text=TextConfig(
            **_tower(text),
            vocab_size=text["vocabulary_size"],
            context_length=text["max_sequence_length"],
            embed_dim=text["projection_dim"] or text["hidden_dim"],
        ),
    )


def table(config: SigLIPConfig, files: WeightFiles) -> Table:
    """Our names and keras-hub's."""
    image, text = f"{_IMAGE}/sig_lip_vision_embedding", f"{_TEXT}/sig_lip_text_embedding"
    pooling, head = "image/map_head", f"{_IMAGE}/sig_lip_multi_head_attention_pooling"
    image_heads, text_heads = config.own_vision.num_heads, config.text.num_heads
    parts = tuple(f"{head}/attention/{part}_dense" for part in ("query", "key", "value"))
    rules = [
        Rule("pair_logits/log_logit_scale", "layers/sig_lip_head/vars/0"),
        Rule("pair_logits/logit_bias", "layers/sig_lip_head/vars/1"),
        *_layer("image/patch_embedding", "kernel", "bias", f"{image}/patch_embedding"),
        Rule("image/position_embedding/embedding", f"{image}/position_embedding/vars/0"),
        *_encoder("image/encoder", _IMAGE, config.vision.depth, image_heads),
        Rule(f"{pooling}/probe", f"{head}/vars/0"),
        Rule(f"{pooling}/query_kernel", f"{parts[0]}/vars/0", heads_out(image_heads)),
        Rule(f"{pooling}/query_bias", f"{parts[0]}/vars/1", heads_out(image_heads)),
        Rule(f"{pooling}/key_value_kernel", tuple(f"{part}/vars/0" for part in parts[1:]), heads_out(image_heads)),
        Rule(f"{pooling}/key_value_bias", tuple(f"{part}/vars/1" for part in parts[1:]), heads_out(image_heads)),
        Rule(f"{pooling}/out_kernel", f"{head}/attention/output_dense/vars/0", heads_in(image_heads)),
        Rule(f"{pooling}/out_bias", f"{head}/attention/output_dense/vars/1"),
        *_layer(f"{pooling}/norm", "scale", "bias", f"{head}/layer_norm"),
        *_layer(f"{pooling}/mlp", "in_kernel", "in_bias", f"{head}/mlp/fc1"),
        *_layer(f"{pooling}/mlp", "out_kernel", "out_bias", f"{head}/mlp/fc2"),
        Rule("text/token_embedding/embedding", f"{text}/token_embedding/vars/0"),
        Rule("text/position_embedding/embedding", f"{text}/position_embedding/vars/0"),
        *_encoder("text/encoder", _TEXT, config.text.depth, text_heads),
        *_layer("text/projection", "kernel", "bias", f"{_TEXT}/dense"),
    ]
    return Table(rules, ignored=IGNORED)


def _encoder(ours: str, theirs: str, depth: int, heads: int) -> list[Rule]:
    rules = _layer(f"{ours}/norm", "scale", "bias", f"{theirs}/layer_normalization")
    for layer in range(depth):
        block = f"{ours}/block_{layer:02d}"
        other = f"{theirs}/sig_lip_encoder_layer" + (f"_{layer}" if layer else "")
        parts = tuple(f"{other}/self_attn/{part}_dense" for part in ("query", "key", "value"))
        rules += [
            *_layer(f"{block}/attention_norm", "scale", "bias", f"{other}/layer_norm1"),
            Rule(f"{block}/attention/qkv_kernel", tuple(f"{part}/vars/0" for part in parts), heads_out(heads)),
            Rule(f"{block}/attention/qkv_bias", tuple(f"{part}/vars/1" for part in parts), heads_out(heads)),
            Rule(f"{block}/attention/out_kernel", f"{other}/self_attn/output_dense/vars/0", heads_in(heads)),
            Rule(f"{block}/attention/out_bias", f"{other}/self_attn/output_dense/vars/1"),
            *_layer(f"{block}/mlp_norm", "scale", "bias", f"{other}/layer_norm2"),
            *_layer(f"{block}/mlp", "in_kernel", "in_bias", f"{other}/mlp/fc1"),
            *_layer(f"{block}/mlp", "out_kernel", "out_bias", f"{other}/mlp/fc2"),
        ]
    return rules


def _layer(ours: str, first: str, second: str, theirs: str) -> list[Rule]:
    return [Rule(f"{ours}/{first}", f"{theirs}/vars/0"), Rule(f"{ours}/{second}", f"{theirs}/vars/1")]


def _tower(part: Mapping) -> dict:
    return {
        "width": part["hidden_dim"],
        "depth": part["num_layers"],
        "mlp_dim": part["intermediate_dim"],
        "num_heads": part["num_heads"],
    }
