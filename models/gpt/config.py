"""The configuration of a GPT, and its parameters by arithmetic."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from diptych.models.parts.config_checks import MAX_DEPTH, MAX_SIZE, check_activation, check_size, require

RATES = ("embedding_dropout", "attention_dropout", "addition_dropout")


@dataclass(frozen=True, kw_only=True)
class GPTConfig:
    """A decoder of text alone (Radford et al. 2018, section 4.1); the defaults are the paper's vocabulary and rates."""

    describes: ClassVar[str] = "GPT"
    width: int
    depth: int
    mlp_dim: int
    num_heads: int
    vocab_size: int = 40_478
    """Rows of the token table: the vocabulary's entries, and special tokens that were added behind them."""
    context_length: int = 512
    """The longest text; there is a learned position for each place."""
    activation: str = "gelu_tanh"
    norm_epsilon: float = 1e-5
    embedding_dropout: float = 0.1
    attention_dropout: float = 0.1
    addition_dropout: float = 0.1
    """Of what attention and MLP add to a token (transformers' resid_pdrop)."""
    dropout_on: Literal["sum", "table"] = "sum"
    """What `embedding_dropout` is of. "sum": of each token's embedding with its position, as in all ports. "table": of
    the numbers of the tables, before rows are looked up, as in OpenAI's code: one mask for all texts of a batch, under
    which the same table gives the logits. The default keeps texts of a batch independent of each other, so that
    micro-batches and devices add up to the whole batch.
    """
    predicts: Literal["tokens", "rows"] = "tokens"
    """What the softmax is over. "tokens": the rows of the token table, as in all ports and as checkpoints are used.
    "rows": those and the position table's, as in OpenAI's code, where both are one table; probability that goes to a
    position is lost, so that no text is as probable as by "tokens".
    """

    def __post_init__(self):
        for field in ("width", "depth", "mlp_dim", "num_heads", "vocab_size", "context_length"):
            check_size(field, getattr(self, field), most=MAX_DEPTH if field == "depth" else MAX_SIZE)
        require(
            self.width % self.num_heads == 0,
            f"width must be a multiple of num_heads, got width {self.width} and {self.num_heads} heads.",
        )
        check_activation(self)
        require(self.norm_epsilon > 0, f"norm_epsilon must be positive, got {self.norm_epsilon!r}.")
        for field in RATES:
            rate = getattr(self, field)
            require(0 <= rate < 1, f"{field} must be at least 0 and below 1, got {rate!r}.")
        require(
            self.dropout_on in ("sum", "table"), f"dropout_on must be 'sum' or 'table', got {self.dropout_on!r:.100}."
        )
        require(
            self.predicts in ("tokens", "rows"), f"predicts must be 'tokens' or 'rows', got {self.predicts!r:.100}."
        )

    @property
    def predicted_rows(self) -> int:
        """The number of logits of a place."""
        return self.vocab_size + (self.context_length if self.predicts == "rows" else 0)


def count_gpt_parameters(config: GPTConfig) -> dict[str, int]:
    """-> {"tokens", "positions", "blocks", "total"}: numbers of trained scalars.

    The logits' kernel is the token table and counts once. With d width and m mlp_dim a block has 4 d² + 4 d for its
    attention, 2 d m + m + d for its MLP and 4 d for its norms; there is no norm behind the last.
    """
    d, m = config.width, config.mlp_dim
    parts = {
        "tokens": config.vocab_size * d,
        "positions": config.context_length * d,
        "blocks": config.depth * (4 * (d * d + d) + 2 * d * m + m + d + 4 * d),
    }
    return {**parts, "total": sum(parts.values())}
