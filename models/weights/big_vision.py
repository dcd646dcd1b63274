"""big_vision's .npz checkpoints: names by flax module, attention kernels by head.

Reference: big_vision `models/proj/image_text/two_towers.py`.

Names may stand under `params/`, and the blocks of a tower may be stacked along a first axis ("scan"). There is no
configuration: the shapes tell it, down to the number of heads.
"""

import math
from pathlib import Path

from diptych.core.weights.files import WeightFiles
from diptych.core.weights.mapping import (
    FLAT_PATCHES,
    LEADING_AXIS,
    SAME,
    Arrays,
    Rule,
    Table,
    heads_in,
    heads_out,
    stacked_layers,
)
from diptych.core.weights.npz import write_npz
from diptych.models.clip.config import CLIPConfig
from diptych.models.siglip.config import NaFlexVisionConfig, SigLIPConfig, TextConfig, VisionConfig
from diptych.models.weights.transformers_fields import NO_BIAS

FILE = "weights.npz"
PREFIX = "params/"
_ATTENTION, _MLP = "MultiHeadDotProductAttention_0", "MlpBlock_0"
IMAGE, _TEXT = "img/Transformer", "txt/Encoder_0"


def config_of(files: WeightFiles) -> SigLIPConfig:
    """The configuration that a checkpoint's shapes belong to.

    384 px in patches of 14 leave 6 px over: such an image tower is described as one for 378 px, which sees the same
    pixels of images resized to 378 px and gives the same result for the first 378 of 384.
    """
    shapes = {name.removeprefix(PREFIX): shape for name, shape in files.shapes.items()}
    expected = (
        "img/embedding/kernel",
        "img/pos_embedding",
        "txt/Embed_0/embedding",
        "txt/pos_embedding",
        "txt/head/kernel",
    )
    if absent := [name for name in expected if name not in shapes]:
        raise ValueError(f"{files.source} is no image-text model of big_vision: it has no {', '.join(absent)}.")
    kernel, positions = shapes["img/embedding/kernel"], shapes["img/pos_embedding"]
    tower = tower_sizes(shapes, IMAGE)
    vision: VisionConfig | NaFlexVisionConfig
    if len(kernel) == 2:
        patch_size = math.isqrt(kernel[0] // 3)
        grid = positions[0]
        vision = NaFlexVisionConfig(**tower, patch_size=patch_size, position_grid=grid, max_num_patches=grid**2)
    else:
        image_size = math.isqrt(positions[1]) * kernel[0]
        vision = VisionConfig(**tower, patch_size=kernel[0], image_size=image_size)
    text = TextConfig(
        **tower_sizes(shapes, _TEXT),
        vocab_size=shapes["txt/Embed_0/embedding"][0],
        context_length=shapes["txt/pos_embedding"][1],
        embed_dim=shapes["txt/head/kernel"][1],
    )
    return SigLIPConfig(vision=vision, text=text)


def table(config: SigLIPConfig, files: WeightFiles | None = None) -> Table:
    """Our names and big_vision's, as the files have them; without files, unstacked under `params/`."""
    names = [f"{PREFIX}t"] if files is None else list(files.shapes)
    prefix = PREFIX if any(name.startswith(PREFIX) for name in names) else ""
    vision = config.own_vision
    naflex = isinstance(vision, NaFlexVisionConfig)
    head, pooling = "img/MAPHead_0", "image/map_head"
    heads = vision.num_heads
    attention = f"{head}/{_ATTENTION}"
    key_and_value = [f"{attention}/key", f"{attention}/value"]
    rules = [
        Rule("pair_logits/log_logit_scale", "t", LEADING_AXIS),
        Rule("pair_logits/logit_bias", "b", LEADING_AXIS),
        Rule("image/patch_embedding/kernel", "img/embedding/kernel", FLAT_PATCHES if naflex else SAME),
        Rule("image/patch_embedding/bias", "img/embedding/bias"),
        Rule("image/position_embedding/embedding", "img/pos_embedding", SAME if naflex else LEADING_AXIS),
        *encoder_rules("image/encoder", IMAGE, vision.depth, heads, names, prefix),
        Rule(f"{pooling}/probe", f"{head}/probe"),
        Rule(f"{pooling}/query_kernel", f"{attention}/query/kernel", heads_out(heads)),
        Rule(f"{pooling}/query_bias", f"{attention}/query/bias", heads_out(heads)),
        Rule(f"{pooling}/key_value_kernel", [f"{part}/kernel" for part in key_and_value], heads_out(heads)),
        Rule(f"{pooling}/key_value_bias", [f"{part}/bias" for part in key_and_value], heads_out(heads)),
        Rule(f"{pooling}/out_kernel", f"{attention}/out/kernel", heads_in(heads)),
        Rule(f"{pooling}/out_bias", f"{attention}/out/bias"),
        *_norm(f"{pooling}/norm", f"{head}/LayerNorm_0"),
        *_mlp(f"{pooling}/mlp", f"{head}/{_MLP}"),
        Rule("text/token_embedding/embedding", "txt/Embed_0/embedding"),
        Rule("text/position_embedding/embedding", "txt/pos_embedding", LEADING_AXIS),
        *encoder_rules("text/encoder", _TEXT, config.text.depth, config.text.num_heads, names, prefix),
        Rule("text/projection/kernel", "txt/head/kernel"),
        Rule("text/projection/bias", "txt/head/bias"),
    ]
    return Table([Rule(rule.ours, [prefix + name for name in rule.theirs], rule.layout) for rule in rules])


def write(folder: Path, config: SigLIPConfig | CLIPConfig, arrays: Arrays) -> None:
    """Writes one .npz file, `weights.npz`."""
    if isinstance(config, CLIPConfig):
        raise ValueError('big_vision has no CLIP. Save it with format="transformers", "open_clip" or "diptych".')
    vision, text = config.own_towers
    if config.init_logit_bias is None:
        raise ValueError(NO_BIAS.format("big_vision's"))
    if vision.pooling != "map" or vision.has_own_parts or text.pooling != "last" or not text.embed_dim:
        raise ValueError(
            "What is read from big_vision's files pools images by attention without a projection and reads text at its "
            f'last position with one; this model has {vision} and {text}. Save it with format="diptych".'
        )
    folder.mkdir(parents=True, exist_ok=True)
    write_npz(folder / FILE, table(config).save(arrays))


def encoder_rules(ours: str, theirs: str, depth: int, heads: int, names: list[str], prefix: str) -> list[Rule]:
    """The rules of an encoder, its blocks stacked where they are among the names."""
    blocks = [f"{ours}/block_{layer:02d}" for layer in range(depth)]
    rules = _norm(f"{ours}/norm", f"{theirs}/encoder_norm")
    if any(name.startswith(f"{prefix}{theirs}/encoderblock/") for name in names):
        by_layer = zip(*(_block(block, f"{theirs}/encoderblock", heads) for block in blocks), strict=True)
        for same in by_layer:
            ours_of_all = [name for rule in same for name in rule.ours]
            rules.append(Rule(ours_of_all, same[0].theirs, stacked_layers(same[0].layout)))
        return rules
    for layer, block in enumerate(blocks):
        rules += _block(block, f"{theirs}/encoderblock_{layer}", heads)
    return rules


def _block(ours: str, theirs: str, heads: int) -> list[Rule]:
    attention = f"{theirs}/{_ATTENTION}"
    parts = [f"{attention}/{part}" for part in ("query", "key", "value")]
    return [
        *_norm(f"{ours}/attention_norm", f"{theirs}/LayerNorm_0"),
        Rule(f"{ours}/attention/qkv_kernel", [f"{part}/kernel" for part in parts], heads_out(heads)),
        Rule(f"{ours}/attention/qkv_bias", [f"{part}/bias" for part in parts], heads_out(heads)),
        Rule(f"{ours}/attention/out_kernel", f"{attention}/out/kernel", heads_in(heads)),
        Rule(f"{ours}/attention/out_bias", f"{attention}/out/bias"),
        *_norm(f"{ours}/mlp_norm", f"{theirs}/LayerNorm_1"),
        *_mlp(f"{ours}/mlp", f"{theirs}/{_MLP}"),
    ]


def _norm(ours: str, theirs: str) -> list[Rule]:
    return [Rule(f"{ours}/scale", f"{theirs}/scale"), Rule(f"{ours}/bias", f"{theirs}/bias")]


def _mlp(ours: str, theirs: str) -> list[Rule]:
    return [
        Rule(f"{ours}/in_kernel", f"{theirs}/Dense_0/kernel"),
        Rule(f"{ours}/in_bias", f"{theirs}/Dense_0/bias"),
        Rule(f"{ours}/out_kernel", f"{theirs}/Dense_1/kernel"),
        Rule(f"{ours}/out_bias", f"{theirs}/Dense_1/bias"),
    ]


def tower_sizes(shapes: dict[str, tuple[int, ...]], path: str) -> dict:
    """The sizes of the encoder under a path, by the names of a configuration's fields."""
    stacked = f"{path}/encoderblock/{_ATTENTION}/query/kernel"
    if stacked in shapes:
        depth, width, heads, _ = shapes[stacked]
        mlp_dim = shapes[f"{path}/encoderblock/{_MLP}/Dense_0/kernel"][2]
    else:
        depth = sum(name.startswith(f"{path}/encoderblock_") and name.endswith("LayerNorm_0/scale") for name in shapes)
        width, heads, _ = shapes[f"{path}/encoderblock_0/{_ATTENTION}/query/kernel"]
        mlp_dim = shapes[f"{path}/encoderblock_0/{_MLP}/Dense_0/kernel"][1]
    return {"width": width, "depth": depth, "mlp_dim": mlp_dim, "num_heads": heads}
