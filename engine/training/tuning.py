"""Locked towers and layer-wise rates: which weights of a run stay as they are, and how fast the others move."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from diptych.core.training.patterns import multipliers
from diptych.core.training.recipe import Model, Optimization
from diptych.models import ClassifierConfig, SigLIPConfig

_BLOCK = re.compile(r"encoder/block_(\d+)/")
_BELOW = ("patch_embedding/", "token_embedding/", "position_embedding/", "class_token/")


@dataclass(frozen=True)
class TowerLayers:
    """The layers of one tower, from 0, its embeddings, to depth + 1, all that follows its blocks."""

    name: str
    depth: int

    def of(self, path: str) -> int | None:
        """The layer that a weight belongs to; None for a weight of anything else."""
        tower, _, inside = path.partition("/")
        if tower != self.name:
            return None
        if inside.startswith(_BELOW):
            return 0
        block = _BLOCK.match(inside)
        return self.depth + 1 if block is None else int(block.group(1)) + 1


def tower_layers(config: SigLIPConfig | ClassifierConfig) -> list[TowerLayers]:
    """Those of each tower that a model has."""
    image = TowerLayers("image", config.vision.depth)
    return [image] if isinstance(config, ClassifierConfig) else [image, TowerLayers("text", config.text.depth)]


def locked_weights(model: Model, config: SigLIPConfig | ClassifierConfig, paths: Sequence[str]) -> list[str]:
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
        lock, open_blocks = asked[tower.name]
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


def rate_multipliers(
    optimization: Optimization, config: SigLIPConfig | ClassifierConfig, paths: Sequence[str]
) -> Mapping[str, float]:
    """Pattern -> factor on the rate of each weight: --learning-rate-multipliers, times the layer's own.

    A tower's layers are its embeddings, its blocks, and what follows them; with a decay of d, layer i of depth + 1 has
    the rate d^(depth + 1 - i), as in BEiT (Bao et al. 2022) and timm.
    """
    decays = {"image": optimization.image_layer_decay, "text": optimization.text_layer_decay}
    if all(decay is None for decay in decays.values()):
        return optimization.learning_rate_multipliers
    factors = dict(zip(paths, multipliers(optimization.learning_rate_multipliers, paths), strict=True))
    for tower in tower_layers(config):
        decay = decays[tower.name]
        for path in paths:
            if decay is not None and (layer := tower.of(path)) is not None:
                factors[path] *= decay ** (tower.depth + 1 - layer)
    return {re.escape(path): factor for path, factor in factors.items()}
