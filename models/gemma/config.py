"""The configuration of Gemma 1 and 2, and its parameters by arithmetic."""

from dataclasses import dataclass
from typing import ClassVar

from diptych.models.parts.config_checks import MAX_DEPTH, check_size, require


@dataclass(frozen=True, kw_only=True)
class GemmaConfig:
    """A decoder of text alone (Gemma 1: Mesnard et al. 2024; Gemma 2: Rivière et al. 2024, tables 1 and 2).

    What sets Gemma 2 apart from Gemma 1 are `post_norms`, the two caps and, in text alone, `sliding_window`.
    """

    describes: ClassVar[str] = "Gemma"
    width: int
    depth: int
    mlp_dim: int
    num_heads: int
    num_key_value_heads: int
    head_dim: int = 256
    """num_heads · head_dim need not be the width."""
    vocab_size: int = 256_000
    """Rows of the token table, which is the logits' kernel too."""
    predicted_ids: int | None = None
    """How many rows of the table, from the first on, stand for tokens that are predicted; None for all. Tables are
    filled up with rows that stand for nothing, as transformers does for PaliGemma."""
    context_length: int = 8_192
    """The longest text in training. Positions are angles: there is no table of them that ends."""
    query_width: float | None = None
    """What the products of queries and keys are divided by the root of; None for head_dim. 27B has width / num_heads
    (transformers' query_pre_attn_scalar)."""
    post_norms: bool = False
    """Whether there is a norm behind attention and MLP too, before what they add is added."""
    attention_soft_cap: float | None = None
    """Of the scores of attention, see `Attention`; None for none."""
    logits_soft_cap: float | None = None
    """Of the logits, see `diptych.core.losses.products.soft_capped`; None for none."""
    sliding_window: int | None = None
    """In each second block, from the first on, a token sees itself and the `sliding_window - 1` before it; None for
    all before it everywhere."""

    def __post_init__(self):
        sizes = ("width", "depth", "mlp_dim", "num_heads", "num_key_value_heads", "head_dim", "vocab_size")
        for field in (*sizes, "context_length"):
            most = {"most": MAX_DEPTH} if field == "depth" else {}
            check_size(field, getattr(self, field), **most)
        for field in ("predicted_ids", "sliding_window"):
            if getattr(self, field) is not None:
                check_size(field, getattr(self, field), also=", or None")
        require(
            self.num_heads % self.num_key_value_heads == 0,
            f"num_heads must be a multiple of num_key_value_heads, got {self.num_heads} and "
            f"{self.num_key_value_heads}.",
        )
        require(self.head_dim % 2 == 0, f"head_dim must be even, for rotary positions, got {self.head_dim}.")
        require(
            self.predicted_ids is None or self.predicted_ids <= self.vocab_size,
            f"predicted_ids must be at most vocab_size {self.vocab_size}, got {self.predicted_ids}.",
        )
        for field in ("query_width", "attention_soft_cap", "logits_soft_cap"):
            value = getattr(self, field)
            require(value is None or value > 0, f"{field} must be positive, or None, got {value!r:.100}.")

    @property
    def num_predicted(self) -> int:
        """The number of logits of a place."""
        return self.predicted_ids or self.vocab_size

    def window(self, layer: int) -> int | None:
        """How far the tokens see in a block, itself counted; None for as far as there are tokens."""
        return None if layer % 2 else self.sliding_window


def count_gemma_parameters(config: GemmaConfig) -> dict[str, int]:
    """-> {"tokens", "blocks", "total"}: numbers of trained scalars; "blocks" includes the final norm.

    With d width, m mlp_dim, h head_dim, n and k the heads of queries and of keys: 2 d (n + k) h of a block's weights
    are attention and 3 d m its gated MLP; there are no biases. The logits' kernel is the token table and counts once.
    """
    d, h = config.width, config.head_dim
    attention = 2 * d * (config.num_heads + config.num_key_value_heads) * h
    norms = (4 if config.post_norms else 2) * d
    parts = {
        "tokens": config.vocab_size * d,
        "blocks": config.depth * (attention + 3 * d * config.mlp_dim + norms) + d,
    }
    return {**parts, "total": sum(parts.values())}
