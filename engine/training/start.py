"""The start of a run's towers: fresh weights of a size, or checkpoints with all that comes with them."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import keras

from diptych.core.data.examples.naflex import NaFlex
from diptych.core.data.examples.preprocess import Preprocess
from diptych.core.data.pixels import CLIP_MEAN, CLIP_STD, FixedSize, Normalization
from diptych.core.data.tokenizers.base import Tokenizer
from diptych.core.data.tokenizers.vocabularies import is_t5_vocabulary
from diptych.core.training import checkpoint as saved
from diptych.core.training.recipe import Model, Recipe
from diptych.engine.training.origins import Origin, origin_of
from diptych.models import CLIPResNetConfig, CLIPTextConfig, CLIPVisionConfig, NaFlexVisionConfig
from diptych.models.checkpoints import Checkpoint
from diptych.models.counting import count_parameters
from diptych.models.parts.heads import bias_for_batch
from diptych.models.presets import preset_config
from diptych.models.siglip.config import AnyTextConfig, AnyVisionConfig, PairConfig, pair_config
from diptych.models.siglip.student import Student
from diptych.models.sizes import transformer_size

GEMMA = 256_000
"""Pieces of SigLIP 2's vocabulary."""

TOKEN_TABLE, TEXT_PROJECTION = "text/token_embedding/", "text/projection/"

CLIP_PIXELS = FixedSize(
    height=224,
    width=224,
    resize="bicubic_antialias",
    shortest_edge=224,
    normalization=Normalization(mean=CLIP_MEAN, std=CLIP_STD),
)
"""How CLIP's image towers take pictures where a checkpoint does not say it (Radford et al. 2021, OpenAI's code)."""


@dataclass(frozen=True, kw_only=True)
class Start:
    """What a run begins from.

    Attributes:
        size: the size that fresh towers have.
        config: of its towers, as they lie there and fit each other, or of another kind of model.
        image, text: the checkpoint that a tower begins from, one and the same where both towers and their scale and
            bias do; None for fresh weights.
        projection_anew: whether the text tower's projection begins anew, because another width is wanted of it.
    """

    size: str
    config: Any
    image: Origin | None = None
    text: Origin | None = None
    projection_anew: bool = False

    @property
    def checkpoint(self) -> Checkpoint | None:
        """That of both towers, of their scale and bias; None where there is not one of all."""
        return self.image.checkpoint if self.image is not None and self.image is self.text else None

    @property
    def pretrained(self) -> bool:
        """Whether any weights are a checkpoint's."""
        return self.image is not None or self.text is not None

    @property
    def folder(self) -> Path | None:
        """Of the vocabulary that comes with the text tower; None where none does."""
        return self.text.folder if self.text else None

    @property
    def name(self) -> str:
        """For people."""
        if self.checkpoint and self.image:
            return self.image.name
        return " and ".join(origin.name if origin else f"{self.size} (fresh)" for origin in (self.image, self.text))

    @property
    def pixels(self) -> FixedSize | NaFlex:
        """How pictures are resized and normalised."""
        if self.image and self.image.pixels:
            return self.image.pixels
        clip = isinstance(self.config.vision, CLIPVisionConfig | CLIPResNetConfig)
        return CLIP_PIXELS if clip else FixedSize(height=224, width=224)

    @property
    def shortest_edge_ratio(self) -> float | None:
        """See `Preprocess`."""
        pixels = self.pixels
        if isinstance(pixels, NaFlex) or pixels.shortest_edge is None:
            return None
        return pixels.shortest_edge / pixels.height

    def weights(self) -> saved.Checkpoint:
        """The weights of its checkpoints, in the form in which a stage leaves its own."""
        if not self.pretrained:
            raise ValueError(f"{self.size} is a size, which has no weights to begin from.")
        if self.checkpoint and self.image:
            weights = dict(self.image.weights())
        else:
            weights = dict(self.image.tower_weights("image")) if self.image else {}
            weights |= dict(self.text.tower_weights("text")) if self.text else {}
        return saved.Checkpoint(step=0, groups={"weights": weights, "optimizer": {}}, state={})


def start_of(recipe: Recipe) -> Start:
    """What a recipe begins from.

    Raises:
        FileNotFoundError, ValueError, HubError: for a checkpoint that is not there or cannot be read, for one without
            the tower that is asked of it, and for fresh towers that would never move.
    """
    model = recipe.model
    if model.pretrained is not None:
        origin = origin_of(model.pretrained, "--pretrained", recipe)
        return Start(size=model.model, config=origin.config, image=origin, text=origin)
    size = _with_text_size(preset_config(model.model), model)
    if not model.from_checkpoint:
        return Start(size=model.model, config=size)
    image = origin_of(model.pretrained_image, "--pretrained-image", recipe) if model.pretrained_image else None
    text = origin_of(model.pretrained_text, "--pretrained-text", recipe) if model.pretrained_text else None
    _refuse_locked_fresh(model, image, text)
    vision = (image.config if image else size).vision
    reading = (text.config if text else size).text
    fits = vision.output_width == reading.output_width
    if not fits and image is None:
        vision = replace(vision, embed_dim=reading.output_width)
    elif not fits:
        reading = replace(reading, embed_dim=vision.output_width)
    config = pair_config(vision, reading, init_logit_scale=10.0, init_logit_bias=-10.0, max_logit_scale=None)
    return Start(
        size=model.model, config=config, image=image, text=text, projection_anew=bool(image and text) and not fits
    )


def _with_text_size(size: PairConfig, model: Model) -> PairConfig:
    """A size with the text tower that --text-size and --text-depth name, as wide in the end as the image tower."""
    changed: dict[str, Any] = {}
    if model.text_size is not None:
        changed |= transformer_size(model.text_size) | {"embed_dim": size.vision.output_width}
    if model.text_depth is not None:
        changed["depth"] = model.text_depth
    text: Any = replace(size.text, **changed)
    return replace(size, text=text)


def _refuse_locked_fresh(model: Model, image: Origin | None, text: Origin | None) -> None:
    for tower, origin, lock in (("image", image, model.lock_image), ("text", text, model.lock_text)):
        if origin is None and (lock or model.lora_rank is not None):
            flag = f"--lock-{tower}" if lock else "--lora-rank"
            raise ValueError(
                f"{flag} leaves the {tower} tower as it is, and here its weights are fresh and know nothing. Leave it "
                f"out, or give --pretrained-{tower}."
            )


def lacks_vocabulary(recipe: Recipe, start: Start) -> bool:
    """Whether the size is made for Gemma's vocabulary, which diptych does not bring, and none is given."""
    return recipe.data.tokenizer is None and start.folder is None and start.config.text.vocab_size == GEMMA


def towers_config(recipe: Recipe, start: Start, preprocess: Preprocess) -> PairConfig:
    """The towers of the first stage: the beginning's for the recipe's pictures and tokens, with the scale and bias that
    fresh weights begin with.
    """
    tokenizer = None if lacks_vocabulary(recipe, start) else preprocess.tokenizer
    largest = recipe.model.max_logit_scale or start.config.max_logit_scale
    text = replace(start.config.text, context_length=preprocess.context_length)
    if tokenizer is not None and (start.text is None or anew(recipe, start)):
        text = replace(text, vocab_size=tokenizer.vocab_size)
        if isinstance(text, CLIPTextConfig):
            text = replace(text, eot_id=_end_of_text(tokenizer))
    elif tokenizer is not None:
        _check_rows(recipe, start, text, tokenizer)
    return pair_config(
        sized(start.config.vision, recipe.model.image_size),
        text,
        init_logit_scale=min(recipe.model.init_logit_scale or start.config.init_logit_scale, largest or math.inf),
        init_logit_bias=initial_bias(recipe),
        max_logit_scale=largest,
    )


def _end_of_text(tokenizer: Tokenizer) -> int | None:
    """Where CLIP's text tower reads a text: None where the largest id is its end, as in CLIP's own vocabulary."""
    return None if tokenizer.eos_id == tokenizer.vocab_size - 1 else tokenizer.eos_id


def _check_rows(recipe: Recipe, start: Start, text: AnyTextConfig, tokenizer: Tokenizer) -> None:
    """Raises ValueError for a vocabulary that a checkpoint without one cannot have been trained with."""
    if tokenizer.vocab_size > text.vocab_size and not is_t5_vocabulary(tokenizer):
        raise ValueError(
            f"--tokenizer {recipe.data.tokenizer} has {tokenizer.vocab_size:,} tokens, and the table of {start.name} "
            f"{text.vocab_size:,} rows: it was trained with another vocabulary. Give that one."
        )


def initial_bias(recipe: Recipe) -> float | None:
    """The sigmoid loss's bias at the start of fresh weights; None with the softmax loss, whose model has none."""
    bias = recipe.model.init_logit_bias
    if recipe.optimization.loss == "softmax":
        return None
    return bias_for_batch(recipe.optimization.batch_size) if bias is None else bias


def sized(vision: AnyVisionConfig, image_size: int | None) -> AnyVisionConfig:
    """An image tower for square pictures of another size, where one is given."""
    if image_size is None:
        return vision
    if isinstance(vision, NaFlexVisionConfig):
        raise ValueError(
            f"--image-size {image_size} is for square pictures, and this checkpoint is NaFlex, which takes any size: "
            "give --sequence-lengths."
        )
    return replace(vision, image_size=image_size)


def anew(recipe: Recipe, start: Start) -> tuple[str, ...]:
    """Beginnings of the weights of a checkpoint that a run leaves behind: the table of tokens, where it brings a
    vocabulary and another is given, and a projection of another width.
    """
    table = (TOKEN_TABLE,) if recipe.data.tokenizer and start.folder else ()
    return (*table, TEXT_PROJECTION) if start.projection_anew else table


def set_scale_and_bias(student: Student, recipe: Recipe, fitted: Callable[[], float | None]) -> str:
    """Gives the loss of a run that began from a checkpoint its scale and bias; returns a sentence, empty where they are
    the checkpoint's.

    Args:
        fitted: the bias that fits the batch, at the scale that the student then has; None where that cannot be known.
    """
    given, layer = recipe.model, student.pair_logits
    said: list[str] = []
    scale, largest = float(keras.ops.convert_to_numpy(student.logit_scale)), given.max_logit_scale
    if given.init_logit_scale is not None:
        layer.log_logit_scale.assign(math.log(given.init_logit_scale))
        said.append(f"scale {given.init_logit_scale:g}, as --init-logit-scale says")
    elif largest is not None and scale > largest:
        layer.log_logit_scale.assign(math.log(largest))
        said.append(f"scale {largest:g}, the most that --max-logit-scale leaves, where it was {scale:.4g}")
    if layer.logit_bias is not None and given.init_logit_bias is not None:
        layer.logit_bias.assign(given.init_logit_bias)
        said.append(f"bias {given.init_logit_bias:g}, as --init-logit-bias says")
    elif layer.logit_bias is not None and not given.keep_logit_bias:
        before, after = float(keras.ops.convert_to_numpy(student.logit_bias)), fitted()
        if after is None:
            return "; ".join([*said, "bias as it was, because there are too few held-out pairs to fit one"])
        layer.logit_bias.assign(after)
        said.append(
            f"bias {after:.2f} where it was {before:.2f}, for {recipe.optimization.batch_size - 1:,} negatives a pair "
            "(--keep-logit-bias leaves it, --init-logit-bias sets another)"
        )
    return "; ".join(said)


def described(recipe: Recipe, start: Start, config: PairConfig) -> str:
    """What a run begins from, in a line for people: whence its weights, sizes and vocabulary come."""
    vision = config.vision
    if isinstance(vision, NaFlexVisionConfig):
        pictures = f"NaFlex, {vision.max_num_patches} patches"
    else:
        pictures = f"{vision.image_size} px"
    million, text = count_parameters(config)["total"] / 1e6, config.text
    vocabulary = recipe.data.tokenizer or (start.text.name if start.text else "the embedded vocabulary")
    if lacks_vocabulary(recipe, start):
        vocabulary = "Gemma's vocabulary"
    return (
        f"Begins from {_weights_described(start)}: {million:,.1f} M parameters, pictures of {pictures}, patches of "
        f"{vision.patch_size}; {text.vocab_size:,} tokens of {vocabulary}, {text.context_length} a caption"
    )


def _weights_described(start: Start) -> str:
    if not start.pretrained:
        return f"fresh weights of the size {start.size}"
    if start.checkpoint:
        return f"the weights of {start.name} ({start.checkpoint.layout})"
    towers = [
        f"the {tower} tower of {origin.name} ({origin.checkpoint.layout})"
        if origin
        else f"a fresh {tower} tower of the size {start.size}"
        for tower, origin in (("image", start.image), ("text", start.text))
    ]
    width = start.config.vision.output_width
    projection = (
        f", whose projection begins anew, to the image tower's width of {width}" if start.projection_anew else ""
    )
    return f"{' and '.join(towers)}{projection}"
