"""Configurations of SigLIP's and SigLIP 2's towers: frozen values from which models and files are made."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

from diptych.models.bit.config import BiTConfig
from diptych.models.clip.config import CLIPConfig, CLIPTextConfig, CLIPVisionConfig
from diptych.models.clip.resnet_config import CLIPResNetConfig
from diptych.models.parts.config_checks import check_pair, check_size, check_tower, require


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
    """Of fresh position embeddings; None, as in big_vision, for width^-0.5. That is a fifth of what patches are
    embedded to, and a short run never hears it: more makes patches tell their places from the first step."""
    positions: Literal["learned", "sincos2d"] = "learned"
    """"sincos2d" adds fixed sines and cosines of rows and columns instead of a learned table, as the ViT-S/16 baseline
    does (Beyer et al. 2022, arXiv 2205.01580)."""
    representation_width: int | None = None
    """Width of a linear layer with tanh behind the pooling, in front of any projection (big_vision's `rep_size`, which
    that baseline's configuration has); None for none."""

    def __post_init__(self):
        check_tower(self, "patch_size", "image_size")
        require(
            self.position_stddev is None or self.position_stddev > 0,
            f"position_stddev must be positive, or None for width^-0.5, got {self.position_stddev!r}.",
        )
        require(
            self.patch_size <= self.image_size,
            f"patch_size must be at most image_size, got {self.patch_size} for images of {self.image_size} px.",
        )
        require(
            self.pooling in ("map", "gap", "cls"), f"pooling of images must be map, gap or cls, got {self.pooling!r}."
        )
        if self.representation_width is not None:
            check_size("representation_width", self.representation_width, also=", or None for no such layer")
        require(
            self.positions in ("learned", "sincos2d"),
            f"positions must be learned or sincos2d, got {self.positions!r}.",
        )
        require(
            self.positions == "learned" or (self.width % 4 == 0 and self.width >= 8),
            f"positions sincos2d need a width of 8 or more that 4 divides, got {self.width}.",
        )
        require(
            self.positions == "learned" or self.position_stddev is None,
            "position_stddev is of learned positions, and sincos2d are fixed: leave it None.",
        )

    @property
    def num_patches(self) -> int:
        return (self.image_size // self.patch_size) ** 2

    @property
    def output_width(self) -> int:
        return self.embed_dim or self.representation_width or self.width

    @property
    def has_own_parts(self) -> bool:
        """Whether it has parts that released image towers of SigLIP have not, and so the layouts of others neither."""
        return bool(self.embed_dim or self.representation_width) or self.positions != "learned"


@dataclass(frozen=True, kw_only=True)
class NaFlexVisionConfig:
    """A vision transformer for images of any size and aspect, cut into at most so many patches (SigLIP 2, section
    2.4.2).
    """

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
        check_tower(self, "patch_size", "position_grid", "max_num_patches")
        require(self.pooling in ("map", "gap"), f"pooling of patches must be map or gap, got {self.pooling!r}.")

    @property
    def num_patches(self) -> int:
        return self.max_num_patches

    @property
    def output_width(self) -> int:
        return self.embed_dim or self.width

    @property
    def has_own_parts(self) -> bool:
        """As of a `VisionConfig`."""
        return bool(self.embed_dim)


@dataclass(frozen=True, kw_only=True)
class TextConfig:
    """A bidirectional text transformer without masks (big_vision `text_transformer.py`)."""

    describes: ClassVar[str] = "TextTransformer"
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
        check_tower(self, "vocab_size", "context_length")
        require(
            self.pooling in ("last", "first", "gap", "map"),
            f"pooling of text must be last, first, gap or map, got {self.pooling!r}.",
        )

    @property
    def output_width(self) -> int:
        return self.embed_dim or self.width


AnyVisionConfig = VisionConfig | NaFlexVisionConfig | CLIPVisionConfig | CLIPResNetConfig | BiTConfig
AnyTextConfig = TextConfig | CLIPTextConfig


@dataclass(frozen=True, kw_only=True)
class SigLIPConfig:
    """Two towers and the scale and bias of their logits. The towers are SigLIP's; one or both may be CLIP's, and that
    of images BiT's, which the sigmoid loss trains as well.
    """

    describes: ClassVar[str] = "SigLIP"
    vision: AnyVisionConfig
    text: AnyTextConfig
    init_logit_scale: float = 10.0
    init_logit_bias: float | None = -10.0
    max_logit_scale: float | None = None
    """The largest scale that training leaves; None for no bound, as in SigLIP."""

    def __post_init__(self):
        if isinstance(self.vision, Mapping):
            object.__setattr__(self, "vision", vision_kind(self.vision)(**self.vision))
        if isinstance(self.text, Mapping):
            kind = CLIPTextConfig if "eot_id" in self.text else TextConfig
            object.__setattr__(self, "text", kind(**self.text))
        check_pair(self)

    @property
    def own_vision(self) -> VisionConfig | NaFlexVisionConfig:
        """The image tower where it is SigLIP's own; raises ValueError where it is CLIP's or BiT's."""
        if isinstance(self.vision, VisionConfig | NaFlexVisionConfig):
            return self.vision
        raise ValueError(f"SigLIP's own image tower is needed here, got a {self.vision.describes}.")

    @property
    def own_towers(self) -> tuple[VisionConfig | NaFlexVisionConfig, TextConfig]:
        """The towers where both are SigLIP's own.

        Raises:
            ValueError: where one is CLIP's or BiT's, which no layout but diptych's has beside this loss.
        """
        vision, text = self.vision, self.text
        if isinstance(vision, VisionConfig | NaFlexVisionConfig) and isinstance(text, TextConfig):
            return vision, text
        raise ValueError(
            f"This model has a {vision.describes} and a {text.describes} under SigLIP's logits, which other layouts do "
            'not have. Save it with format="diptych".'
        )


PairConfig = SigLIPConfig | CLIPConfig


def image_alone(vision: AnyVisionConfig) -> SigLIPConfig:
    """The configuration around an image tower that stands alone in a checkpoint; its text tower is a stand-in of size
    one.
    """
    text = TextConfig(
        width=1, depth=1, mlp_dim=1, num_heads=1, vocab_size=1, context_length=1, embed_dim=vision.output_width
    )
    return SigLIPConfig(vision=vision, text=text)


def pair_config(
    vision: AnyVisionConfig,
    text: AnyTextConfig,
    *,
    init_logit_scale: float,
    init_logit_bias: float | None,
    max_logit_scale: float | None,
) -> PairConfig:
    """The configuration of two towers: CLIP's where both are CLIP's and the logits have no bias, otherwise SigLIP's.

    Raises:
        ValueError: where their outputs differ in width.
    """
    if (
        isinstance(vision, CLIPVisionConfig | CLIPResNetConfig)
        and isinstance(text, CLIPTextConfig)
        and init_logit_bias is None
    ):
        return CLIPConfig(vision=vision, text=text, init_logit_scale=init_logit_scale, max_logit_scale=max_logit_scale)
    return SigLIPConfig(
        vision=vision,
        text=text,
        init_logit_scale=init_logit_scale,
        init_logit_bias=init_logit_bias,
        max_logit_scale=max_logit_scale,
    )


def vision_kind(fields: Mapping) -> type[AnyVisionConfig]:
    """The kind of image tower that has fields of these names."""
    own: dict[str, type[AnyVisionConfig]] = {
        "position_grid": NaFlexVisionConfig,
        "pre_activation": BiTConfig,
        "stage_depths": CLIPResNetConfig,
        "activation": CLIPVisionConfig,
    }
    return next((kind for name, kind in own.items() if name in fields), VisionConfig)
