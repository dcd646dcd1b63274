"""The costs of Gemma's decoder by arithmetic: operations and activations of a text, or of pictures and a text.

Letters: t tokens, d width, m mlp_dim, n and k heads of queries and of keys, h head_dim. As in `models/counting.py`.
"""

from diptych.models.gemma.config import GemmaConfig

_FLOAT32_BYTES = 4


def blocks_flops(config: GemmaConfig) -> int:
    """Of a forward pass of `context_length` tokens through the blocks."""
    t, d, n, k, h = config.context_length, config.width, config.num_heads, config.num_key_value_heads, config.head_dim
    return config.depth * 2 * (2 * t * d * (n + k) * h + 2 * t * t * n * h + 3 * t * d * config.mlp_dim)


def logits_flops(config: GemmaConfig, predicting: int) -> int:
    """Of the logits at so many places."""
    return 2 * predicting * config.width * config.num_predicted


def activation_bytes(config: GemmaConfig, *, compute_bytes: int, rematerialize: bool, fused_attention: bool) -> int:
    """Bytes that `context_length` tokens keep for the backward pass, without logits."""
    t, d, m, n, k, h = (
        config.context_length,
        config.width,
        config.mlp_dim,
        config.num_heads,
        config.num_key_value_heads,
        config.head_dim,
    )
    norm = t * _FLOAT32_BYTES * (d + 1)  # its float32 input and root mean square
    attention = t * n * _FLOAT32_BYTES if fused_attention else n * t * t * (_FLOAT32_BYTES + compute_bytes)
    # Outputs of both norms; queries, keys and values, rotated and not; attention's result; the gated MLP's three parts.
    kept = t * (2 * d + 2 * (n + 2 * k) * h + n * h + d + 4 * m) * compute_bytes
    block = (4 if config.post_norms else 2) * norm + attention + kept
    blocks = config.depth * t * d * compute_bytes + block if rematerialize else config.depth * block
    return 8 * t + blocks + norm
