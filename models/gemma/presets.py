"""Gemma's sizes by name."""

from dataclasses import replace

from diptych.models.gemma.config import GemmaConfig


def _gemma2(*, width: int, depth: int, mlp_dim: int, num_heads: int, num_key_value_heads: int, **others) -> GemmaConfig:
    return GemmaConfig(
        width=width,
        depth=depth,
        mlp_dim=mlp_dim,
        num_heads=num_heads,
        num_key_value_heads=num_key_value_heads,
        **{
            "post_norms": True,
            "attention_soft_cap": 50.0,
            "logits_soft_cap": 30.0,
            "sliding_window": 4_096,
            **others,
        },
    )


_TINY = GemmaConfig(
    width=48,
    depth=2,
    mlp_dim=96,
    num_heads=4,
    num_key_value_heads=1,
    head_dim=16,
    vocab_size=320,
    context_length=128,
)

PRESETS = {
    "gemma_2b": GemmaConfig(width=2_048, depth=18, mlp_dim=16_384, num_heads=8, num_key_value_heads=1),
    "gemma_7b": GemmaConfig(width=3_072, depth=28, mlp_dim=24_576, num_heads=16, num_key_value_heads=16),
    "gemma2_2b": _gemma2(width=2_304, depth=26, mlp_dim=9_216, num_heads=8, num_key_value_heads=4),
    "gemma2_9b": _gemma2(width=3_584, depth=42, mlp_dim=14_336, num_heads=16, num_key_value_heads=8),
    "gemma2_27b": _gemma2(
        width=4_608,
        depth=46,
        mlp_dim=36_864,
        num_heads=32,
        num_key_value_heads=16,
        head_dim=128,
        query_width=144.0,
    ),
    "gemma_tiny": _TINY,
    "gemma2_tiny": replace(
        _TINY,
        num_key_value_heads=2,
        query_width=24.0,
        post_norms=True,
        attention_soft_cap=50.0,
        logits_soft_cap=30.0,
        sliding_window=8,
    ),
}
"""Configurations by name; their weights are fresh. The tiny ones go with a vocabulary of one's own."""
