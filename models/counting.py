"""What a model costs before it is built: parameters, floating-point operations and memory, by arithmetic on its configuration.

Letters: n tokens, d width, m mlp_dim, h heads, p patch size, L depth, B batch size, D embedding width. A multiply-add counts
as two operations; LayerNorm, GELU, softmax, biases and table lookups count as none.
"""

from diptych.models.config import SigLIPConfig, TextConfig, VisionConfig

Tower = VisionConfig | TextConfig

_FLOAT32_BYTES = 4


def count_parameters(config: SigLIPConfig) -> dict[str, int]:
    """-> {"image", "text", "logits", "total"}: numbers of trained scalars; "logits" is the scale and, if any, the bias."""
    parts = {
        "image": count_tower_parameters(config.vision),
        "text": count_tower_parameters(config.text),
        "logits": 1 if config.init_logit_bias is None else 2,
    }
    return {**parts, "total": sum(parts.values())}


def count_tower_parameters(config: Tower) -> int:
    """Trained scalars of one tower, its pooling head and projection included."""
    d, m = config.width, config.mlp_dim
    norm, attention, mlp = 2 * d, 4 * (d * d + d), 2 * d * m + m + d
    if isinstance(config, VisionConfig):
        embedding = 3 * config.patch_size**2 * d + d + config.num_patches * d
    else:
        embedding = config.vocab_size * d + config.context_length * d
    encoder = config.depth * (2 * norm + attention + mlp) + norm
    pooling = {"map": d + attention + norm + mlp, "cls": d}.get(config.pooling, 0)
    projection = (d + 1) * config.embed_dim if config.embed_dim else 0
    return embedding + encoder + pooling + projection


def count_flops(config: SigLIPConfig, *, batch_size: int, rematerialize: bool = False) -> dict[str, int]:
    """Floating-point operations of an example.

    Returns:
        "image", "text": a forward pass of each tower for one example; "loss": one example's share of the pairwise loss and its
        gradient, 6 B D; "training": forward and backward pass of both towers, the backward counted as two forwards, and
        the loss. With `rematerialize` the blocks' second forward pass is included, about 4 forwards in all: that is what the
        hardware does, while utilisation is stated without it.

    Against the usual table (MAP head with 2d² for its query and output projections) the query's d² is missing: the probe is
    the same for every example, so its projection is computed once a batch.
    """
    image, text = _forward_flops(config.vision), _forward_flops(config.text)
    loss = 6 * batch_size * config.vision.output_width
    training = 3 * (image + text) + loss
    if rematerialize:
        training += _blocks_flops(config.vision) + _blocks_flops(config.text)
    return {"image": image, "text": text, "loss": loss, "training": training}


def _forward_flops(config: Tower) -> int:
    n, d, m = _tokens(config), config.width, config.mlp_dim
    flops = _blocks_flops(config)
    if isinstance(config, VisionConfig):
        flops += 2 * config.num_patches * 3 * config.patch_size**2 * d
    if config.pooling == "map":
        flops += 2 * (2 * n * d * d + 2 * n * d + d * d + 2 * d * m)
    if config.embed_dim:
        flops += 2 * d * config.embed_dim
    return flops


def _blocks_flops(config: Tower) -> int:
    n, d, m = _tokens(config), config.width, config.mlp_dim
    return config.depth * 2 * (4 * n * d * d + 2 * n * n * d + 2 * n * d * m)


def _tokens(config: Tower) -> int:
    if isinstance(config, VisionConfig):
        return config.num_patches + (config.pooling == "cls")
    return config.context_length
