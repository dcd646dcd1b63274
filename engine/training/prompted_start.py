"""The start of a model that is asked: a PaliGemma's checkpoint, or an image tower and a language model, or a size."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from diptych.core.data.examples.naflex import NaFlex
from diptych.core.data.pixels import FixedSize
from diptych.core.data.processor.files import read_pixels
from diptych.core.data.processor.prompted import RESIZING
from diptych.core.training import checkpoint as saved
from diptych.core.training.recipe import Data, Model, Optimization, Recipe, Run
from diptych.core.weights.hub import preset_folder
from diptych.engine.training.checks import refuse_options
from diptych.engine.training.origins import Origin, origin_of
from diptych.engine.training.start import Start, sized
from diptych.models import GemmaConfig, NaFlexVisionConfig, PaliGemmaConfig, VisionConfig
from diptych.models.checkpoints import read_checkpoint
from diptych.models.paligemma.model import TOKEN_TABLE, with_new_rows
from diptych.models.paligemma.presets import PRESETS
from diptych.models.pretrained import trained_preset

OF_PAIRS: tuple[tuple[type, str, tuple[str, ...]], ...] = (
    (Data, "data", ("english_share", "captions_per_image", "opening_examples", "augment", "image_views")),
    (Data, "data", ("language_temperature", "balance")),
    (Model, "model", ("text_size", "text_depth", "sequence_lengths", "init_logit_scale", "init_logit_bias")),
    (Model, "model", ("max_logit_scale", "keep_logit_bias", "lock_text")),
    (Optimization, "optimization", ("text_layer_decay", "loss")),
    (Run, "run", ("retention", "loss_implementation", "embed_images_once", "embeddings_dir")),
)
"""Options that say something of pairs, or of how their pictures are changed."""

TOWER = ("image/patch_embedding/", "image/position_embedding/", "image/encoder/")
"""What PaliGemma has of an image tower: its tokens, and nothing that pools them."""


@dataclass(frozen=True, kw_only=True)
class PromptedStart(Start):
    """What a PaliGemma begins from: `image` and `text` are one checkpoint, or the tower and the language model are
    checkpoints of their own, or fresh.
    """

    seed: int = 0

    @property
    def pixels(self) -> FixedSize | NaFlex:
        if self.image and self.image.pixels:
            return self.image.pixels
        size = self.config.vision.image_size
        return FixedSize(height=size, width=size, resize=RESIZING["transformers"])

    def weights(self) -> saved.Checkpoint:
        if self.checkpoint or not self.pretrained:
            return super().weights()
        weights: dict[str, np.ndarray] = {}
        if self.image:
            weights |= {path: x for path, x in self.image.tower_weights("image") if path.startswith(TOWER)}
        if self.text:
            weights |= dict(self.text.weights())
            weights[TOKEN_TABLE] = with_new_rows(weights[TOKEN_TABLE], self.config.text.vocab_size, self.seed)
        return saved.Checkpoint(step=0, groups={"weights": weights, "optimizer": {}}, state={})


def start_of(recipe: Recipe) -> PromptedStart:
    """What a recipe begins from.

    Raises:
        FileNotFoundError, ValueError, HubError: for a checkpoint that is not there, cannot be read or is of another
            kind, and for options of pairs.
    """
    refuse_options(recipe, OF_PAIRS, "is for pairs of pictures and texts, and a PaliGemma is trained on its answers")
    model, seed = recipe.model, recipe.run.seed
    if model.pretrained is not None:
        origin = _checkpoint(model.pretrained, "--pretrained", PaliGemmaConfig, "a PaliGemma")
        return PromptedStart(size=model.model, config=_square(origin.config), image=origin, text=origin, seed=seed)
    if model.model not in PRESETS:
        raise ValueError(f"--model {model.model} is no size of PaliGemma: there are {', '.join(PRESETS)}.")
    config, image, text = PRESETS[model.model], None, None
    if model.pretrained_image is not None:
        image = origin_of(model.pretrained_image, "--pretrained-image", recipe)
        vision = image.config.vision
        if not isinstance(vision, VisionConfig | NaFlexVisionConfig):
            raise ValueError(
                f"--pretrained-image {model.pretrained_image} is a {vision.describes}, and an image tower of SigLIP or "
                "SigLIP 2 is expected, whose tokens a language model can read."
            )
        config = replace(config, vision=replace(vision, pooling="gap", embed_dim=None))
    if model.pretrained_text is not None:
        text = _checkpoint(model.pretrained_text, "--pretrained-text", GemmaConfig, "a Gemma")
        config = replace(config, text=replace(text.config, sliding_window=None))
    return PromptedStart(size=model.model, config=_square(config), image=image, text=text, seed=seed)


def square_of(config: PaliGemmaConfig) -> VisionConfig:
    """The image tower's, for square pictures; raises TypeError for another."""
    if not isinstance(config.vision, VisionConfig):
        raise TypeError(f"{config.vision.describes} takes patches, and square pictures are trained on.")
    return config.vision


def sized_config(start: PromptedStart, image_size: int | None) -> PaliGemmaConfig:
    """The start's, for square pictures of another size where one is given."""
    return replace(start.config, vision=sized(start.config.vision, image_size))


def _square(config: PaliGemmaConfig) -> PaliGemmaConfig:
    if isinstance(config.vision, NaFlexVisionConfig):
        raise ValueError(
            "A PaliGemma with a NaFlex tower answers, and is not trained here: give one with square pictures, or a "
            "square tower by --pretrained-image."
        )
    return config


def _checkpoint(name: str, flag: str, kind: type, called: str) -> Origin:
    path = preset_folder(trained_preset(name), known=PRESETS)
    checkpoint, folder = read_checkpoint(path), path if path.is_dir() else path.parent
    if not isinstance(checkpoint.config, kind):
        parts = " A tower is given by --pretrained-image, a Gemma by --pretrained-text."
        advice = parts if flag == "--pretrained" else ""
        raise ValueError(f"{flag} {name} is a {checkpoint.config.describes}, and {called} is expected.{advice}")
    pixels: Any = None
    if kind is PaliGemmaConfig:
        try:
            pixels = read_pixels(folder)
        except FileNotFoundError:  # big_vision's archives say nothing of it
            pixels = None
    return Origin(name=name, checkpoint=checkpoint, pixels=pixels, folder=folder if path.is_dir() else None)
