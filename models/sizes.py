"""The field's size names: "B/16" -> width, depth, mlp_dim, num_heads, patch_size.

Reference: big_vision `models/siglip/vit.py`, `decode_variant`.
"""

from typing import TypedDict

from diptych.core.spelling import did_you_mean

# name: (width, depth, mlp_dim, num_heads)
SIZES = {
    "mu": (32, 1, 128, 2),
    "Ti": (192, 12, 768, 3),
    "S": (384, 12, 1536, 6),
    "M": (512, 12, 2048, 8),
    "B": (768, 12, 3072, 12),
    "L": (1024, 24, 4096, 16),
    "So400m": (1152, 27, 4304, 16),
    "H": (1280, 32, 5120, 16),
    "g": (1408, 40, 6144, 16),
    "g-opt": (1536, 40, 6144, 16),
    "G": (1664, 48, 8192, 16),
    "G-opt": (1536, 48, 8192, 16),
    "e": (1792, 56, 15360, 16),
}


class TransformerSize(TypedDict):
    """Fields of a transformer's configuration."""

    width: int
    depth: int
    mlp_dim: int
    num_heads: int


class VisionSize(TransformerSize):
    """Those of a vision transformer's."""

    patch_size: int


def transformer_size(name: str) -> TransformerSize:
    """`transformer_size("B")` -> {"width": 768, "depth": 12, "mlp_dim": 3072, "num_heads": 12}."""
    if name not in SIZES:
        raise ValueError(f"Unknown size {name!r}: expected one of {', '.join(SIZES)}.{did_you_mean(name, SIZES)}")
    width, depth, mlp_dim, num_heads = SIZES[name]
    return {"width": width, "depth": depth, "mlp_dim": mlp_dim, "num_heads": num_heads}


def vision_size(name: str) -> VisionSize:
    """`vision_size("B/16")` -> the transformer's size and patch_size 16."""
    size, slash, patch = name.partition("/")
    if not slash or not patch.isdigit():
        raise ValueError(f"A vision size is written like 'B/16' (size/patch), got {name!r}.")
    return {**transformer_size(size), "patch_size": int(patch)}
