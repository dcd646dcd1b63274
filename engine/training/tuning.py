"""Locked towers and layer-wise rates: which weights of a run stay as they are, and how fast the others move."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from diptych.core.training.patterns import compiled, multipliers
from diptych.core.training.recipe import Model, Optimization
from diptych.models import BiTConfig, CLIPResNetConfig
from diptych.models.checkpoints import Config, towers_of
from diptych.models.parts.low_rank import adapted_kernel
from diptych.models.siglip.config import AnyTextConfig, AnyVisionConfig
from diptych.models.siglip.parts import AdaptersPart

_BLOCK = re.compile(r"(encoder|stage_\d)/block_(\d+)/")
_BELOW = ("patch_embedding/", "token_embedding/", "position_embedding/", "class_token/", "input_norm/", "stem/")


@dataclass(frozen=True)
class TowerLayers:
    """The layers of one tower, from 0, its embeddings or stem, to depth + 1, all that follows its blocks.

    Attributes:
        name: of the tower.
        blocks: how many blocks there are under each name that they stand under, in order: {"encoder": 12}, or of a
            ResNet {"stage_1": 3, ...}.
    """

    name: str
    blocks: Mapping[str, int]

    @classmethod
    def of_tower(cls, name: str, config: AnyVisionConfig | AnyTextConfig) -> "TowerLayers":
        """Those of a tower."""
        if isinstance(config, CLIPResNetConfig | BiTConfig):
            return cls(name, {f"stage_{number}": depth for number, depth in enumerate(config.stage_depths, 1)})
        return cls(name, {"encoder": config.depth})

    @property
    def depth(self) -> int:
        """Blocks of the tower."""
        return sum(self.blocks.values())

    def of(self, path: str) -> int | None:
        """The layer that a weight, or the kernel that it adapts, belongs to; None for a weight of anything else."""
        tower, _, inside = adapted_kernel(path).partition("/")
        if tower != self.name:
            return None
        if inside.startswith(_BELOW):
            return 0
        block = _BLOCK.match(inside)
        if block is None:
            return self.depth + 1
        names = list(self.blocks)
        before = sum(self.blocks[name] for name in names[: names.index(block.group(1))])
        return before + int(block.group(2)) + 1


def tower_layers(config: Config) -> list[TowerLayers]:
    """Those of each tower that a model has."""
    return [TowerLayers.of_tower(name, tower) for name, tower in towers_of(config).items()]


def locked_weights(model: Model, config: Config, paths: Sequence[str]) -> list[str]:
    """The paths of the weights that --lock-image, --lock-text and --lora-rank hold still.

    Raises:
        ValueError: for more open blocks than a tower has, and for open blocks of a tower that is not locked.
    """
    asked = {
        "image": (model.lock_image, model.lock_image_unlocked_blocks),
        "text": (model.lock_text, model.lock_text_unlocked_blocks),
    }
    locked: list[str] = []
    for tower in tower_layers(config):
        lock, open_blocks = asked.get(tower.name, (False, 0))
        flag = f"--lock-{tower.name}"
        if not 0 <= open_blocks <= tower.depth or (open_blocks and not lock):
            raise ValueError(
                f"{flag}-unlocked-blocks is the number of last blocks that move with {flag}, from 0 to {tower.depth} "
                f"of them; got {open_blocks} {'with' if lock else 'without'} {flag}."
            )
        if model.lora_rank is not None:
            locked += [path for path in paths if tower.of(path) is not None]
        elif lock:
            first_open = tower.depth + 1 - open_blocks if open_blocks else tower.depth + 2
            locked += [path for path in paths if (layer := tower.of(path)) is not None and layer < first_open]
    return locked


def adapters(model: Model, config: Config, lock: Sequence[str] = ()) -> AdaptersPart | None:
    """The low-rank adapters that --lora-rank asks for, on kernels that --lock-image, --lock-text and the patterns of
    `lock` leave open.

    Raises:
        ValueError: where none is left.
    """
    if model.lora_rank is None:
        return None
    alpha = 2.0 * model.lora_rank if model.lora_alpha is None else model.lora_alpha
    part = AdaptersPart(rank=model.lora_rank, alpha=alpha)
    if model.lora_targets:
        part = replace(part, targets=model.lora_targets)
    kernels = list(part.shapes(config))
    locked = locked_weights(replace(model, lora_rank=None), config, kernels)
    locked += [path for path in kernels if any(compiled(pattern).fullmatch(path) for pattern in lock)]
    if not set(kernels).difference(locked):
        raise ValueError(
            "--lora-rank adapts kernels of the blocks that --lock-image, --lock-text and --lock leave open, and here "
            "they leave none of --lora-targets. Leave out a lock, or --lora-rank."
        )
    return replace(part, locked=tuple(locked))


def rate_multipliers(optimization: Optimization, config: Config, paths: Sequence[str]) -> Mapping[str, float]:
    """Path of a weight, as a pattern -> factor on its rate, where it is not 1: --learning-rate-multipliers, times the
    layer's own.

    A tower's layers are its embeddings, its blocks, and what follows them; with a decay of d, layer i of depth + 1 has
    the rate d^(depth + 1 - i), as in BEiT (Bao et al. 2022) and timm.
    """
    decays = {"image": optimization.image_layer_decay, "text": optimization.text_layer_decay}
    factors = dict(zip(paths, multipliers(optimization.learning_rate_multipliers, paths), strict=True))
    for tower in tower_layers(config):
        decay = decays.get(tower.name)
        for path in paths:
            if decay is not None and (layer := tower.of(path)) is not None:
                factors[path] *= decay ** (tower.depth + 1 - layer)
    return _as_patterns(factors)


def decay_multipliers(optimization: Optimization, paths: Sequence[str]) -> Mapping[str, float]:
    """Path of a weight, as a pattern -> factor on its weight decay, where it is not 1."""
    return _as_patterns(dict(zip(paths, multipliers(optimization.weight_decay_multipliers, paths), strict=True)))


def _as_patterns(factors: Mapping[str, float]) -> dict[str, float]:
    return {re.escape(path): factor for path, factor in factors.items() if factor != 1}
