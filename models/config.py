"""What a tower is made of: frozen, keyword-only descriptions that models are built from and that files are written from."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

from diptych.models.clip_resnet_config import CLIPResNetConfig


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


def _check_activation(config) -> None:
    known = ("quick_gelu", "gelu", "gelu_tanh")
    _require(config.activation in known, f"activation must be one of {', '.join(known)}, got {config.activation!r}.")


def _check_pair(config) -> None:
    _require(config.init_logit_scale > 0, f"init_logit_scale must be positive, got {config.init_logit_scale}.")
    _require(
        config.vision.output_width == config.text.output_width,
        f"The towers' outputs differ in width: image {config.vision.output_width}, text {config.text.output_width}. "
        "Set embed_dim of one of them.",
    )


@dataclass(frozen=True, kw_only=True)
class VisionConfig:
    """A vision transformer. Sizes by name ("B/16") come from `diptych.models.sizes`."""

    describes: ClassVar[str] = "VisionTransformer"
    width: int
    depth: int
    mlp_dim: int
    num_heads: int
    patch_size: int = 16
    image_size: int = 224
    pooling: Literal["map", "gap", "cls"] = "map"
    embed_dim: int | None = None
    """Width of a linear projection behind the pooling; None, as in SigLIP, for no projection."""
    position_stddev: float | None = None
    """Of fresh position embeddings; None, as in big_vision, for width^-0.5. That is a fifth of what patches are embedded to, and a
    short run never hears it: more makes patches tell their places from the first step."""

    def __post_init__(self):
        _check_tower(self, "patch_size", "image_size")
        _require(
            self.position_stddev is None or self.position_stddev > 0,
            f"position_stddev must be positive, or None for width^-0.5, got {self.position_stddev!r}.",
        )
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
class NaFlexVisionConfig:
    """A vision transformer for images of any size and aspect, cut into at most so many patches (SigLIP 2, section 2.4.2)."""

    describes: ClassVar[str] = "NaFlexVisionTransformer"
    width: int
    depth: int
    mlp_dim: int
    num_heads: int
    patch_size: int = 16
    position_grid: int = 16
    """Side of the square table of learned positions, which is resized to each image's own grid."""
    max_num_patches: int = 256
    """What the model was released for; it takes any number."""
    pooling: Literal["map", "gap"] = "map"
    embed_dim: int | None = None

    def __post_init__(self):
        _check_tower(self, "patch_size", "position_grid", "max_num_patches")
        _require(self.pooling in ("map", "gap"), f"pooling of patches must be map or gap, got {self.pooling!r}.")

    @property
    def num_patches(self) -> int:
        return self.max_num_patches

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

    describes: ClassVar[str] = "SigLIP"
    vision: VisionConfig | NaFlexVisionConfig
    text: TextConfig
    init_logit_scale: float = 10.0
    init_logit_bias: float | None = -10.0

    def __post_init__(self):
        if isinstance(self.vision, Mapping):
            kind = NaFlexVisionConfig if "position_grid" in self.vision else VisionConfig
            object.__setattr__(self, "vision", kind(**self.vision))
        if isinstance(self.text, Mapping):
            object.__setattr__(self, "text", TextConfig(**self.text))
        _check_pair(self)


@dataclass(frozen=True, kw_only=True)
class CLIPVisionConfig:
    """CLIP's vision transformer (Radford et al. 2021): class token with a position, a norm before the blocks, no patch bias."""

    describes: ClassVar[str] = "CLIPVisionTransformer"
    width: int
    depth: int
    mlp_dim: int
    num_heads: int
    patch_size: int = 32
    image_size: int = 224
    embed_dim: int = 512
    activation: str = "quick_gelu"
    """One of `diptych.models.layers.ACTIVATIONS`: quick_gelu in OpenAI's own models, gelu in most others."""
    pooling: ClassVar[str] = "cls"

    def __post_init__(self):
        _check_tower(self, "patch_size", "image_size", "embed_dim")
        _check_activation(self)

    @property
    def num_patches(self) -> int:
        return (self.image_size // self.patch_size) ** 2

    @property
    def output_width(self) -> int:
        return self.embed_dim


@dataclass(frozen=True, kw_only=True)
class CLIPTextConfig:
    """CLIP's text transformer: causal, read at the end-of-text token."""

    width: int
    depth: int
    mlp_dim: int
    num_heads: int
    vocab_size: int = 49_408
    context_length: int = 77
    embed_dim: int = 512
    activation: str = "quick_gelu"
    """One of `diptych.models.layers.ACTIVATIONS`: quick_gelu in OpenAI's own models, gelu in most others."""
    eot_id: int | None = None
    """The text is read at the first token of this id; None for the largest id, which end-of-text has in CLIP's vocabulary."""
    pooling: ClassVar[str] = "eot"

    def __post_init__(self):
        _check_tower(self, "vocab_size", "context_length", "embed_dim")
        _check_activation(self)

    @property
    def output_width(self) -> int:
        return self.embed_dim


@dataclass(frozen=True, kw_only=True)
class CLIPConfig:
    """CLIP's two towers and the scale of their logits; the image tower is a transformer or a ResNet."""

    describes: ClassVar[str] = "CLIP"
    vision: CLIPVisionConfig | CLIPResNetConfig
    text: CLIPTextConfig
    init_logit_scale: float = 1 / 0.07

    def __post_init__(self):
        if isinstance(self.vision, Mapping):
            kind = CLIPResNetConfig if "stage_depths" in self.vision else CLIPVisionConfig
            object.__setattr__(self, "vision", kind(**self.vision))
        if isinstance(self.text, Mapping):
            object.__setattr__(self, "text", CLIPTextConfig(**self.text))
        _check_pair(self)
