"""What a tower is made of: frozen, keyword-only descriptions that models are built from and that files are written from."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)


def _check_tower(config, *own_fields: str) -> None:
    for field in ("width", "depth", "mlp_dim", "num_heads", *own_fields):
        value = getattr(config, field)
        _require(isinstance(value, int) and value > 0, f"{field} must be a positive integer, got {value!r}.")
    _require(
        config.embed_dim is None or (isinstance(config.embed_dim, int) and config.embed_dim > 0),
        f"embed_dim must be a positive integer, or None for no projection, got {config.embed_dim!r}.",
    )
    _require(
        config.width % config.num_heads == 0,
        f"width must be a multiple of num_heads, got width {config.width} and {config.num_heads} heads.",
    )


@dataclass(frozen=True, kw_only=True)
class VisionConfig:
    """A vision transformer. Sizes by name ("B/16") come from `diptych.models.sizes`."""

    width: int
    depth: int
    mlp_dim: int
    num_heads: int
    patch_size: int = 16
    image_size: int = 224
    pooling: Literal["map", "gap", "cls"] = "map"
    embed_dim: int | None = None
    """Width of a linear projection behind the pooling; None, as in SigLIP, for no projection."""

    def __post_init__(self):
        _check_tower(self, "patch_size", "image_size")
        _require(
            self.patch_size <= self.image_size,
            f"patch_size must be at most image_size, got {self.patch_size} for images of {self.image_size} px.",
        )
        _require(
            self.pooling in ("map", "gap", "cls"), f"pooling of images must be map, gap or cls, got {self.pooling!r}."
        )

    @property
    def num_patches(self) -> int:
        return (self.image_size // self.patch_size) ** 2

    @property
    def output_width(self) -> int:
        return self.embed_dim or self.width


@dataclass(frozen=True, kw_only=True)
class TextConfig:
    """A bidirectional text transformer without masks (big_vision `text_transformer.py`)."""

    width: int
    depth: int
    mlp_dim: int
    num_heads: int
    vocab_size: int = 32_000
    context_length: int = 64
    pooling: Literal["last", "first", "gap", "map"] = "last"
    """"last" reads position `context_length - 1`, padding or not; the released SigLIP models do so."""
    embed_dim: int | None = None
    """Width of the projection to the image tower's width; None for no projection."""

    def __post_init__(self):
        _check_tower(self, "vocab_size", "context_length")
        _require(
            self.pooling in ("last", "first", "gap", "map"),
            f"pooling of text must be last, first, gap or map, got {self.pooling!r}.",
        )

    @property
    def output_width(self) -> int:
        return self.embed_dim or self.width


@dataclass(frozen=True, kw_only=True)
class SigLIPConfig:
    """Two towers and the scale and bias of their logits."""

    vision: VisionConfig
    text: TextConfig
    init_logit_scale: float = 10.0
    init_logit_bias: float | None = -10.0

    def __post_init__(self):
        for field, kind in (("vision", VisionConfig), ("text", TextConfig)):
            value = getattr(self, field)
            if isinstance(value, Mapping):
                object.__setattr__(self, field, kind(**value))
        _require(self.init_logit_scale > 0, f"init_logit_scale must be positive, got {self.init_logit_scale}.")
        _require(
            self.vision.output_width == self.text.output_width,
            f"The towers' outputs differ in width: image {self.vision.output_width}, text {self.text.output_width}. "
            "Set embed_dim of one of them.",
        )
