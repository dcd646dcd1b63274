"""Descriptions of the parts that teach the towers beside them: a decoder, heads, a mask token."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

from diptych.core.training.patterns import compiled
from diptych.models.bit.config import BiTConfig
from diptych.models.captioner.config import CaptionerConfig, count_captioner_parameters
from diptych.models.checkpoints import Config, towers_of
from diptych.models.clip.resnet_config import CLIPResNetConfig
from diptych.models.clip.resnet_counting import convolutions
from diptych.models.gemma.config import GemmaConfig
from diptych.models.siglip.config import AnyTextConfig, AnyVisionConfig, PairConfig, VisionConfig

if TYPE_CHECKING:
    import keras


class Part(Protocol):
    """What a student may have beside its towers, by a name that its weights' paths begin with."""

    def build(
        self, towers: PairConfig, *, name: str, seed: int, dtype: str | None, rematerialize: bool
    ) -> "keras.layers.Layer":
        """The layer or model, built; one seed gives the same weights on every backend."""
        ...

    def parameters(self, towers: PairConfig) -> int:
        """How many scalars it trains."""
        ...


@dataclass(frozen=True, kw_only=True)
class DecoderPart:
    """The decoder that writes captions and boxes."""

    config: CaptionerConfig

    def build(self, towers: PairConfig, *, name: str, seed: int, dtype: str | None, rematerialize: bool):
        from diptych.models.captioner.model import Captioner

        return Captioner(self.config, seed=seed, dtype=dtype, rematerialize=rematerialize, name=name)

    def parameters(self, towers: PairConfig) -> int:
        return count_captioner_parameters(self.config)["total"]


@dataclass(frozen=True, kw_only=True)
class HeadPart:
    """A head with prototypes, on the image tower's pooled vector or on each of its tokens
    (`parts.distillation_head`).
    """

    reads: Literal["pooled", "tokens"]
    hidden: int
    bottleneck: int
    outputs: int

    def build(self, towers: PairConfig, *, name: str, seed: int, dtype: str | None, rematerialize: bool):
        from diptych.models.parts.distillation_head import DistillationHead

        refuse_others(towers)
        sizes = {"hidden": self.hidden, "bottleneck": self.bottleneck, "outputs": self.outputs}
        head = DistillationHead(**sizes, seed=f"{seed}/{name}", name=name, dtype="float32")
        head.build((None, self.width(towers)))
        return head

    def width(self, towers: PairConfig) -> int:
        """Of what it reads."""
        return towers.vision.output_width if self.reads == "pooled" else towers.vision.width

    def parameters(self, towers: PairConfig) -> int:
        maps = sum(inputs * outputs + outputs for inputs, outputs in self._maps(towers))
        return maps + self.bottleneck * self.outputs

    def flops(self, towers: PairConfig) -> int:
        """Floating-point operations of a forward pass for one vector."""
        return 2 * (sum(inputs * outputs for inputs, outputs in self._maps(towers)) + self.bottleneck * self.outputs)

    def _maps(self, towers: PairConfig) -> list[tuple[int, int]]:
        return [(self.width(towers), self.hidden), (self.hidden, self.hidden), (self.hidden, self.bottleneck)]


@dataclass(frozen=True, kw_only=True)
class MaskTokenPart:
    """The vector that stands for a hidden patch."""

    def build(self, towers: PairConfig, *, name: str, seed: int, dtype: str | None, rematerialize: bool):
        from diptych.models.parts.mask_token import MaskToken

        refuse_others(towers)
        return MaskToken(width=towers.vision.width, seed=f"{seed}/{name}", name=name)

    def parameters(self, towers: PairConfig) -> int:
        return towers.vision.width


@dataclass(frozen=True, kw_only=True)
class AdaptersPart:
    """Low-rank adapters of the kernels that patterns choose among those of the towers' blocks, by default all of them,
    but for those that are locked (`parts.low_rank`).
    """

    rank: int
    alpha: float
    targets: tuple[str, ...] = (".*",)
    locked: tuple[str, ...] = ()

    def build(self, towers: Config, *, name: str, seed: int, dtype: str | None, rematerialize: bool):
        from diptych.models.parts.low_rank import LowRank

        shapes, draw = self.shapes(towers), f"{seed}/{name}"
        adapters = LowRank(shapes=shapes, rank=self.rank, alpha=self.alpha, seed=draw, name=name, dtype=dtype)
        adapters.build()
        return adapters

    def parameters(self, towers: Config) -> int:
        return sum(self.rank * (inputs + outputs) for inputs, outputs in self.shapes(towers).values())

    def shapes(self, towers: Config) -> dict[str, tuple[int, int]]:
        """The adapted kernels' shapes as matrices by path; raises ValueError for a pattern that chooses none."""
        shapes = {
            f"{name}/{path}": shape
            for name, tower in towers_of(towers).items()
            for path, shape in block_kernels(tower).items()
        }
        chosen: set[str] = set()
        for target in self.targets:
            expression = compiled(target)
            matched = {path for path in shapes if expression.fullmatch(path)}
            chosen |= matched
            if not matched:
                raise ValueError(
                    f"The pattern {target!r} of --lora-targets matches none of the blocks' kernels, which are called "
                    f"{', '.join(list(shapes)[:4])} and so on."
                )
        return {path: shape for path, shape in shapes.items() if path in chosen.difference(self.locked)}


def block_kernels(tower: AnyVisionConfig | AnyTextConfig | GemmaConfig) -> dict[str, tuple[int, int]]:
    """The kernels of a tower's blocks by their paths in it, as matrices `[in, out]`: a convolution's takes all pixels
    that it looks at.
    """
    if isinstance(tower, BiTConfig):
        return {}  # what is added to a kernel would be standardised with it
    if isinstance(tower, CLIPResNetConfig):
        return {
            f"{one.name}/kernel": (one.kernel_size**2 * one.inputs, one.outputs)
            for one in convolutions(tower)
            if one.name.startswith("stage_")
        }
    if isinstance(tower, GemmaConfig):
        return gemma_kernels(tower)
    width, hidden = tower.width, tower.mlp_dim
    kernels = {"attention/qkv": (width, 3 * width), "attention/out": (width, width)}
    kernels |= {"mlp/in": (width, hidden), "mlp/out": (hidden, width)}
    return {
        f"encoder/block_{block:02d}/{kind}_kernel": shape
        for block in range(tower.depth)
        for kind, shape in kernels.items()
    }


def gemma_kernels(decoder: GemmaConfig) -> dict[str, tuple[int, int]]:
    """As `block_kernels`, of Gemma's decoder."""
    width, hidden, head = decoder.width, decoder.mlp_dim, decoder.head_dim
    heads = decoder.num_heads + 2 * decoder.num_key_value_heads
    kernels = {"attention/qkv": (width, heads * head), "attention/out": (decoder.num_heads * head, width)}
    kernels |= {"mlp/gate": (width, hidden), "mlp/in": (width, hidden), "mlp/out": (hidden, width)}
    return {
        f"block_{block:02d}/{kind}_kernel": shape for block in range(decoder.depth) for kind, shape in kernels.items()
    }


def refuse_others(towers: PairConfig) -> None:
    """Raises ValueError for an image tower that is not SigLIP's for square pictures."""
    if not isinstance(towers.vision, VisionConfig):
        raise ValueError(
            "Self-distillation and masked prediction need square pictures and SigLIP's own image tower, got a "
            f"{towers.vision.describes} (SigLIP 2, section 2.4.2, trains NaFlex without them). Leave those losses out."
        )
