"""The costs of a model before it is built: parameters, operations and memory, by arithmetic on its configuration.

Letters: n tokens, d width, m mlp_dim, h heads, p patch size, L depth, B batch size, D embedding width. A multiply-add
counts as two operations; LayerNorm, GELU, softmax, biases and table lookups count as none. CLIP's ResNets are counted
in `models/clip/resnet_counting.py`, BiT's in `models/bit/counting.py`.
"""

from collections.abc import Collection
from dataclasses import replace
from functools import partial

from diptych.models.bit import counting as bit_counting
from diptych.models.bit.config import BiTConfig
from diptych.models.classifier.config import ClassifierConfig
from diptych.models.clip import resnet_counting
from diptych.models.clip.config import CLIPConfig, CLIPTextConfig, CLIPVisionConfig
from diptych.models.clip.resnet_config import CLIPResNetConfig
from diptych.models.gpt.config import GPTConfig, count_gpt_parameters
from diptych.models.gpt.double_heads_config import GPTDoubleHeadsConfig, count_double_heads_parameters
from diptych.models.siglip.config import (
    AnyTextConfig,
    AnyVisionConfig,
    NaFlexVisionConfig,
    PairConfig,
    VisionConfig,
)

Vision = VisionConfig | NaFlexVisionConfig | CLIPVisionConfig
Transformer = Vision | AnyTextConfig
Tower = AnyVisionConfig | AnyTextConfig | GPTConfig
Config = PairConfig | ClassifierConfig | GPTConfig | GPTDoubleHeadsConfig
OfText = GPTConfig | GPTDoubleHeadsConfig

_FLOAT32_BYTES = 4


def count_parameters(config: Config) -> dict[str, int]:
    """-> {"image", "text", "logits", "total"}: numbers of trained scalars; "logits" is the scale and, if any, the
    bias. Of a classifier {"image", "classifier", "total"}, of a GPT those of `count_gpt_parameters`.
    """
    if isinstance(config, GPTConfig):
        return count_gpt_parameters(config)
    if isinstance(config, GPTDoubleHeadsConfig):
        return count_double_heads_parameters(config)
    if isinstance(config, ClassifierConfig):
        image = count_tower_parameters(config.vision)
        head = (config.vision.output_width + 1) * len(config.classes)
        return {"image": image, "classifier": head, "total": image + head}
    parts = {
        "image": count_tower_parameters(config.vision),
        "text": count_tower_parameters(config.text),
        "logits": 1 if isinstance(config, CLIPConfig) or config.init_logit_bias is None else 2,
    }
    return {**parts, "total": sum(parts.values())}


def count_tower_parameters(config: Tower) -> int:
    """Trained scalars of one tower, its pooling head and projection included."""
    if isinstance(config, CLIPResNetConfig):
        return resnet_counting.parameters(config)
    if isinstance(config, BiTConfig):
        return bit_counting.parameters(config)
    if isinstance(config, GPTConfig):
        return count_gpt_parameters(config)["total"]
    d, m = config.width, config.mlp_dim
    norm, attention, mlp = 2 * d, 4 * (d * d + d), 2 * d * m + m + d
    if isinstance(config, Vision):
        embedding = 3 * config.patch_size**2 * d + d + _positions(config) * d
    else:
        embedding = config.vocab_size * d + config.context_length * d
    encoder = config.depth * (2 * norm + attention + mlp) + norm
    if isinstance(config, CLIPVisionConfig | CLIPTextConfig):
        class_and_norm = (
            norm if isinstance(config, CLIPVisionConfig) else 0
        )  # the class token is as large as the bias it has not
        return embedding + class_and_norm + encoder + d * config.embed_dim
    pooling = {"map": d + attention + norm + mlp}.get(config.pooling, 0)
    representation = _representation_width(config)
    projection = ((representation or d) + 1) * config.embed_dim if config.embed_dim else 0
    return embedding + encoder + pooling + (d + 1) * representation + projection


def _positions(config: Vision) -> int:
    """Learned vectors for places; a class token has none, and is as large."""
    if isinstance(config, NaFlexVisionConfig):
        return config.position_grid**2
    if isinstance(config, VisionConfig) and config.positions != "learned":
        return int(config.pooling == "cls")
    return _tokens(config)


def _representation_width(config: Transformer) -> int:
    """Of the layer with tanh, 0 where there is none."""
    return (config.representation_width or 0) if isinstance(config, VisionConfig) else 0


def count_flops(config: Config, *, batch_size: int, rematerialize: bool = False) -> dict[str, int]:
    """Floating-point operations of an example.

    Returns:
        "image", "text": a forward pass of each tower for one example; "loss": one example's share of the pairwise loss
        and its gradient, 6 B D; "training": forward and backward pass of both towers, the backward counted as two
        forwards, and the loss. With `rematerialize` the blocks' second forward pass is included, about 4 forwards in
        all: that is what the hardware does, while utilisation is stated without it. Of a GPT "decoder", for a text of
        its whole length with the logits, and "training".

    Against the usual table (MAP head with 2d² for its query and output projections) the query's d² is missing: the
    probe is the same for every example, so its projection is computed once a batch.
    """
    towers = _towers(config)
    forward = {name: _sequences(config) * count_tower_flops(tower) for name, tower in towers.items()}
    if not isinstance(config, OfText):
        forward = {**forward, "text": forward.get("text", 0)}
        forward["loss"] = 6 * batch_size * config.vision.output_width if "text" in towers else 0
    training = 3 * sum(forward[name] for name in towers) + forward.get("loss", 0)
    if rematerialize:
        training += _sequences(config) * sum(map(_recomputed_flops, towers.values()))
    return {**forward, "training": training}


def _towers(config: Config) -> dict[str, Tower]:
    if isinstance(config, GPTConfig):
        return {"decoder": config}
    if isinstance(config, GPTDoubleHeadsConfig):
        return {"decoder": replace(config.decoder, context_length=config.context_length)}
    image: dict[str, Tower] = {"image": config.vision}
    return image if isinstance(config, ClassifierConfig) else {**image, "text": config.text}


def _sequences(config: Config) -> int:
    """How many sequences of an example go through a tower; the head of a task costs next to nothing."""
    return config.task.sequences if isinstance(config, GPTDoubleHeadsConfig) else 1


def _recomputed_flops(config: Tower) -> int:
    """Those of the blocks that rematerialisation computes again; CLIP's ResNets have none of these."""
    if isinstance(config, CLIPResNetConfig):
        return 0
    return bit_counting.flops(config) if isinstance(config, BiTConfig) else _blocks_flops(config)


def count_tower_flops(config: Tower) -> int:
    """Those of a forward pass of one tower for one example, its pooling head and projection included."""
    if isinstance(config, CLIPResNetConfig):
        return resnet_counting.flops(config)
    if isinstance(config, BiTConfig):
        return bit_counting.flops(config)
    n, d, m = _tokens(config), config.width, config.mlp_dim
    flops = _blocks_flops(config)
    if isinstance(config, GPTConfig):
        return flops + 2 * n * d * config.predicted_rows
    if isinstance(config, Vision):
        flops += 2 * config.num_patches * 3 * config.patch_size**2 * d
    if config.pooling == "map":
        flops += 2 * (2 * n * d * d + 2 * n * d + d * d + 2 * d * m)
    representation = _representation_width(config)
    flops += 2 * d * representation
    if config.embed_dim:
        flops += 2 * (representation or d) * config.embed_dim
    return flops


def _blocks_flops(config: Transformer | GPTConfig) -> int:
    n, d, m = _tokens(config), config.width, config.mlp_dim
    return config.depth * 2 * (4 * n * d * d + 2 * n * n * d + 2 * n * d * m)


def _tokens(config: Transformer | GPTConfig) -> int:
    if isinstance(config, Vision):
        return config.num_patches + (config.pooling == "cls")
    return config.context_length


def estimate_memory(
    config: Config,
    *,
    batch_size: int,
    optimizer_slots: float = 2,
    ema: bool = False,
    rematerialize: bool = False,
    dtype: str = "float32",
    fused_attention: bool = False,
    locked: Collection[str] = (),
) -> dict[str, int]:
    """Bytes that a training step holds on one device.

    "activations" is what the forward pass keeps for the backward pass; the short-lived results of single operations
    come on top. Against measurements at batch 32 to 128 it is within 5% of the tensors that torch saves (with
    `fused_attention`) and within a factor of 2 of the temporary memory that jax's compiler reports on a CPU, where
    rematerialisation does not lower it.

    Args:
        optimizer_slots: float32 values an optimizer keeps for each weight: AdamW 2, Lion 1.
        ema: whether an average of the weights is kept.
        dtype: "float32", or "mixed_bfloat16" for activations of two bytes.
        fused_attention: whether attention matrices are never stored, as by torch's kernels; jax and tensorflow store
            probabilities unless they find a kernel for the device.
        locked: the towers, of "image", "text" and "decoder", of which nothing moves, so that they keep no activations.

    Returns:
        "weights", "gradients", "optimizer", "ema", "activations" and their "total"; and "recomputed", what of the
        activations lives while a block is computed again, 0 without `rematerialize`.
    """
    compute_bytes = {"float32": 4, "mixed_bfloat16": 2}.get(dtype)
    if compute_bytes is None:
        raise ValueError(f"dtype must be float32 or mixed_bfloat16, got {dtype!r}.")
    weights = _FLOAT32_BYTES * count_parameters(config)["total"]
    kept = [tower for name, tower in _towers(config).items() if name not in locked]
    of_tower = partial(tower_activation_bytes, compute_bytes=compute_bytes, fused_attention=fused_attention)
    of_block = partial(_block_bytes, compute_bytes=compute_bytes, fused_attention=fused_attention)
    towers = _sequences(config) * sum(of_tower(tower, rematerialize=rematerialize) for tower in kept)
    again = [tower for tower in kept if rematerialize and not isinstance(tower, CLIPResNetConfig | BiTConfig)]
    pairs = 0
    if not isinstance(config, ClassifierConfig | OfText):
        pairs = _FLOAT32_BYTES * (2 * batch_size**2 + 4 * batch_size * config.vision.output_width)
    parts = {
        "weights": weights,
        "gradients": weights,
        "optimizer": round(optimizer_slots * weights),
        "ema": weights if ema else 0,
        "activations": batch_size * towers + pairs + _cast_weight_bytes(config, compute_bytes),
    }
    recomputed = batch_size * _sequences(config) * sum(map(of_block, again))
    return {**parts, "total": sum(parts.values()), "recomputed": recomputed}


def tower_activation_bytes(config: Tower, *, compute_bytes: int, rematerialize: bool, fused_attention: bool) -> int:
    """Bytes of one example that a tower keeps for its backward pass."""
    if isinstance(config, CLIPResNetConfig):
        return resnet_counting.activation_bytes(config, compute_bytes=compute_bytes)
    if isinstance(config, BiTConfig):
        return bit_counting.activation_bytes(config, compute_bytes=compute_bytes, rematerialize=rematerialize)
    n, d, m = _tokens(config), config.width, config.mlp_dim
    norm, block = (
        _norm_bytes(config),
        _block_bytes(config, compute_bytes=compute_bytes, fused_attention=fused_attention),
    )
    # Rematerialised blocks keep their inputs; in the backward pass one of them is whole at a time.
    encoder = config.depth * n * d * compute_bytes + block if rematerialize else config.depth * block
    embedding = config.num_patches * 3 * config.patch_size**2 * compute_bytes if isinstance(config, Vision) else 8 * n
    pools = not isinstance(config, GPTConfig) and config.pooling == "map"
    pooling = (3 * n * d + 4 * d + 2 * m) * compute_bytes if pools else 0
    return embedding + encoder + norm + pooling


def _norm_bytes(config: Transformer | GPTConfig) -> int:
    """Of a norm: its float32 input, mean and deviation."""
    return _tokens(config) * _FLOAT32_BYTES * (config.width + 2)


def _block_bytes(config: Transformer | GPTConfig, *, compute_bytes: int, fused_attention: bool) -> int:
    """Of a block that is not computed again."""
    n, d, m, h = _tokens(config), config.width, config.mlp_dim, config.num_heads
    attention = n * h * _FLOAT32_BYTES if fused_attention else h * n * n * compute_bytes
    # Outputs of both norms; query, key, value, attention's result in two layouts; the MLP before and after its GELU.
    return 2 * _norm_bytes(config) + attention + n * (7 * d + 2 * m) * compute_bytes


def _cast_weight_bytes(config: Config, compute_bytes: int) -> int:
    """Copies of the weights in the compute dtype; the token table is looked up in float32 and has none."""
    if compute_bytes == _FLOAT32_BYTES:
        return 0
    tables = [tower for tower in _towers(config).values() if isinstance(tower, AnyTextConfig | GPTConfig)]
    table = sum(tower.vocab_size * tower.width for tower in tables)
    return compute_bytes * (count_parameters(config)["total"] - table)
