"""The configuration of a captioning decoder, and its costs by arithmetic."""

from dataclasses import dataclass

from diptych.models.bit.config import BiTConfig
from diptych.models.clip.resnet_config import CLIPResNetConfig
from diptych.models.parts.config_checks import MAX_DEPTH, MAX_SIZE, check_size
from diptych.models.siglip.config import SigLIPConfig


@dataclass(frozen=True, kw_only=True)
class CaptionerConfig:
    """A transformer decoder that reads the tokens of an image tower."""

    width: int
    depth: int
    mlp_dim: int
    num_heads: int
    vocab_size: int
    """Of the tokens that are predicted. The table has one row more, for the mask token of parallel prediction."""
    context_length: int = 64
    """The longest sequence; there is a learned position for each place."""
    encoder_width: int
    """Width of the image tokens that are attended to."""
    use_bias: bool = False
    """Whether the blocks' norms and MLPs have biases, which CapPa's released configuration has not; attention never
    has.
    """
    tie_embeddings: bool = False
    """Whether the token table is the logits' kernel too: half of a small model's weights saved. CapPa has two
    tables.
    """

    def __post_init__(self):
        sizes = ("width", "depth", "mlp_dim", "num_heads", "vocab_size", "context_length", "encoder_width")
        for field in sizes:
            check_size(field, getattr(self, field), most=MAX_DEPTH if field == "depth" else MAX_SIZE)
        if self.width % self.num_heads:
            raise ValueError(
                f"width must be a multiple of num_heads, got width {self.width} and {self.num_heads} heads."
            )

    @property
    def mask_id(self) -> int:
        """The row of the table that stands for a token to be predicted in parallel."""
        return self.vocab_size


def captioner_config(
    config: SigLIPConfig,
    *,
    depth: int | None = None,
    context_length: int | None = None,
    use_bias: bool = False,
    tie_embeddings: bool = False,
) -> CaptionerConfig:
    """The decoder that goes with two towers: the text tower's sizes, with half of its layers (SigLIP 2, section 2.2).

    Args:
        depth: None for half of the text tower's, rounded down, and at least 1. The paper does not say what half of
            So400m's 27 layers is.
        context_length: None for the text tower's.
        use_bias, tie_embeddings: see `CaptionerConfig`.
    """
    vision, text = config.vision, config.text
    return CaptionerConfig(
        width=text.width,
        depth=max(1, text.depth // 2) if depth is None else depth,
        mlp_dim=text.mlp_dim,
        num_heads=text.num_heads,
        vocab_size=text.vocab_size,
        context_length=text.context_length if context_length is None else context_length,
        encoder_width=vision.channels if isinstance(vision, CLIPResNetConfig | BiTConfig) else vision.width,
        use_bias=use_bias,
        tie_embeddings=tie_embeddings,
    )


def count_captioner_parameters(config: CaptionerConfig) -> dict[str, int]:
    """-> {"embedding", "blocks", "logits", "total"}: numbers of trained scalars.

    With d width, e encoder width, m mlp_dim: 8 d² or so of a block's weights are attention (4 d² among tokens, 2 d² + 2
    e d to the image), 2 d m are its MLP. "blocks" includes the final norm.
    """
    d, e, m, vocab = config.width, config.encoder_width, config.mlp_dim, config.vocab_size
    norms = 3 * d * (1 + config.use_bias)
    attention = 4 * d * d + 2 * d * d + 2 * e * d
    mlp = 2 * d * m + config.use_bias * (m + d)
    parts = {
        "embedding": (vocab + 1) * d + config.context_length * d,
        "blocks": config.depth * (norms + attention + mlp) + 2 * d,
        "logits": vocab if config.tie_embeddings else (d + 1) * vocab,
    }
    return {**parts, "total": sum(parts.values())}


def captioner_flops(
    config: CaptionerConfig, *, image_tokens: int, tasks: int = 3, length: int | None = None
) -> dict[str, int]:
    """Floating-point operations of a forward pass for one example: -> {"blocks", "logits", "total"}.

    A multiply-add counts as two; norms, GELU, softmax and lookups count as none. Attention among tokens counts every
    pair, as it is computed, masked or not.

    Args:
        image_tokens: of the image, after the tower.
        tasks: sequences for each image.
        length: of the sequences; None for the context length.
    """
    d, e, m = config.width, config.encoder_width, config.mlp_dim
    length = config.context_length if length is None else length
    tokens = tasks * length
    own = tokens * 4 * d * d + 2 * tokens * length * d
    image = image_tokens * 2 * e * d + tokens * 2 * d * d + 2 * tokens * image_tokens * d
    parts = {
        "blocks": config.depth * 2 * (own + image + tokens * 2 * d * m),
        "logits": 2 * tokens * d * config.vocab_size,
    }
    return {**parts, "total": sum(parts.values())}
