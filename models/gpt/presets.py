"""GPT's sizes by name."""

from diptych.models.gpt.config import GPTConfig
from diptych.models.sizes import transformer_size

PRESETS = {
    "gpt1": GPTConfig(**transformer_size("B")),
    "gpt1_small": GPTConfig(width=256, depth=4, mlp_dim=1024, num_heads=4, vocab_size=4_096, context_length=128),
    "gpt1_tiny": GPTConfig(width=64, depth=2, mlp_dim=256, num_heads=1, vocab_size=512, context_length=64),
}
"""Configurations by name; their weights are fresh. "gpt1" is the paper's (section 4.1, "Model specifications"):
116,534,784 parameters. The small ones go with a vocabulary of one's own.
"""
