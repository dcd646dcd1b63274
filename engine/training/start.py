"""Where the towers of a run begin: fresh weights of a size, or a checkpoint with all that comes with it."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import keras

from diptych.core.data.examples.preprocess import Preprocess
from diptych.core.data.image import ResizeMethod
from diptych.core.data.pixels import Normalization
from diptych.core.data.processor.processor import Processor
from diptych.core.training import checkpoint as saved
from diptych.core.training.recipe import Recipe
from diptych.core.weights.hub import preset_folder
from diptych.models import NaFlexVisionConfig, SigLIPConfig, TextConfig, VisionConfig
from diptych.models.checkpoints import Checkpoint, read_checkpoint, stored_values
from diptych.models.counting import count_parameters
from diptych.models.parts.heads import bias_for_batch
from diptych.models.presets import PRESETS, preset_config
from diptych.models.pretrained import build_model, trained_preset
from diptych.models.siglip.student import Student
from diptych.models.sizes import transformer_size

LENGTHS = (1 / 2, 1, 9 / 4, 49 / 16, 4)
"""SigLIP 2's numbers of patches, 128 to 1,024, over those of the square picture (Tschannen et al. 2025, section
2.4.2)."""

GEMMA = 256_000
"""Pieces of SigLIP 2's vocabulary."""

INITIAL_SCALES = {"sigmoid": 10.0, "softmax": 1 / 0.07}
"""The temperature that fresh weights begin with, by the loss: Zhai et al. 2023, section 3.2, and Radford et al. 2021,
section 2.5."""

TOKEN_TABLE = "text/token_embedding/"
FRESH_TEXT = ("text/", "pair_logits/")
"""What begins anew with a text tower: scale and bias are those at which the old one met the image tower."""


@dataclass(frozen=True, kw_only=True)
class Start:
    """What a run begins from.

    Attributes:
        name: of the size or of the checkpoint, as it was given.
        config: of its towers, as they lie there.
        checkpoint: where its weights are; None for fresh ones.
        folder: of the checkpoint's vocabulary; None where there is none.
        processor: how the checkpoint takes pictures and texts; None where that is not known.
    """

    name: str
    config: SigLIPConfig
    checkpoint: Checkpoint | None = None
    folder: Path | None = None
    processor: Processor | None = None

    @property
    def resize_method(self) -> ResizeMethod:
        """How pictures are resized."""
        return self.processor.pixels.resize if self.processor else "bilinear_antialias"

    def weights(self) -> saved.Checkpoint:
        """The weights of its checkpoint, in the form in which a stage leaves its own."""
        if self.checkpoint is None:
            raise ValueError(f"{self.name} is a size, which has no weights to begin from.")
        weights = dict(stored_values(self.name, self.checkpoint, build_model))
        return saved.Checkpoint(step=0, groups={"weights": weights, "optimizer": {}}, state={})


def start_of(recipe: Recipe) -> Start:
    """What a recipe begins from.

    Raises:
        FileNotFoundError, ValueError, HubError: for a checkpoint that is not there or cannot be read, and for towers
            that a recipe does not train.
    """
    model = recipe.model
    if model.pretrained is None:
        return Start(name=model.model, config=_trainable(preset_config(model.model), f"--model {model.model}"))
    preset = trained_preset(model.pretrained)
    path = preset_folder(preset, known=PRESETS)
    checkpoint = read_checkpoint(path)
    config = _trainable(checkpoint.config, f"--pretrained {model.pretrained}")
    try:
        processor = Processor.from_preset(preset)
    except FileNotFoundError as error:
        if recipe.data.tokenizer is None:
            raise ValueError(
                f"--pretrained {model.pretrained} brings no vocabulary ({error}). Give the one it was trained with by "
                "--tokenizer."
            ) from error
        return Start(name=model.pretrained, config=config, checkpoint=checkpoint)
    pixels = processor.pixels
    if pixels.normalization != Normalization() or getattr(pixels, "shortest_edge", None):
        raise ValueError(
            f"--pretrained {model.pretrained} crops pictures, or does not bring their values to -1..1. Recipes train "
            "towers whose pictures are squashed and lie in -1..1, as SigLIP's do."
        )
    folder = path if path.is_dir() else path.parent
    return Start(name=model.pretrained, config=config, checkpoint=checkpoint, folder=folder, processor=processor)


def with_start(recipe: Recipe, start: Start) -> Recipe:
    """The recipe with what its beginning decides where it said nothing: rate, decay, temperature, context length,
    NaFlex's sequence lengths.
    """
    pretrained, fresh_text = start.checkpoint is not None, recipe.model.fresh_text
    optimization, data, vision = recipe.optimization, recipe.data, start.config.vision
    locked_whole = recipe.model.lock_image and not recipe.model.lock_image_unlocked_blocks
    learned_moves = pretrained and not (fresh_text and locked_whole)
    rate, decay = (1e-5, 0.0) if learned_moves else (1e-3, 1e-4)
    scale = recipe.model.init_logit_scale
    if scale is None and (fresh_text or not pretrained):
        scale = INITIAL_SCALES[optimization.loss]
    stages = recipe.stages
    if isinstance(vision, NaFlexVisionConfig):
        lengths = recipe.model.sequence_lengths or tuple(round(vision.max_num_patches * part) for part in LENGTHS)
        stages = tuple(
            replace(stage, sequence_lengths=lengths, halve_from=max(lengths)) if stage.after is None else stage
            for stage in stages
        )
    elif recipe.model.sequence_lengths:
        raise ValueError(
            f"--sequence-lengths are NaFlex's, and {start.name} takes square pictures. Leave them out, or give a "
            "NaFlex checkpoint."
        )
    return replace(
        recipe,
        model=replace(recipe.model, init_logit_scale=scale),
        optimization=replace(
            optimization,
            learning_rate=rate if optimization.learning_rate is None else optimization.learning_rate,
            weight_decay=decay if optimization.weight_decay is None else optimization.weight_decay,
        ),
        data=replace(
            data,
            context_length=data.context_length or (start.config.text.context_length if pretrained else None),
        ),
        stages=stages,
    )


def lacks_vocabulary(recipe: Recipe, start: Start) -> bool:
    """Whether the size is made for Gemma's vocabulary, which diptych does not bring, and none is given."""
    return recipe.data.tokenizer is None and start.folder is None and start.config.text.vocab_size == GEMMA


def towers_config(recipe: Recipe, start: Start, preprocess: Preprocess) -> SigLIPConfig:
    """The towers of the first stage: the beginning's for the recipe's pictures and tokens, with the scale and bias that
    fresh weights begin with.
    """
    # A checkpoint's table may have rows that no token asks for, and a size without its vocabulary can only be planned.
    has_table = start.checkpoint is not None and not recipe.model.fresh_text
    keeps = recipe.data.tokenizer is None and (has_table or lacks_vocabulary(recipe, start))
    vocab_size = start.config.text.vocab_size if keeps else preprocess.tokenizer.vocab_size
    return replace(
        start.config,
        vision=sized(start.config.vision, recipe.model.image_size),
        text=replace(text_tower(recipe, start), vocab_size=vocab_size, context_length=preprocess.context_length),
        init_logit_scale=recipe.model.init_logit_scale or start.config.init_logit_scale,
        init_logit_bias=initial_bias(recipe),
        max_logit_scale=recipe.model.max_logit_scale,
    )


def text_tower(recipe: Recipe, start: Start) -> TextConfig:
    """The beginning's text tower, or one of the size that the recipe names, as wide in the end as the image tower."""
    text, model = start.config.text, recipe.model
    if model.text_size is not None:
        text = replace(text, **transformer_size(model.text_size), embed_dim=start.config.vision.output_width)
    return text if model.text_depth is None else replace(text, depth=model.text_depth)


def initial_bias(recipe: Recipe) -> float | None:
    """The sigmoid loss's bias at the start of fresh weights; None with the softmax loss, whose model has none."""
    bias = recipe.model.init_logit_bias
    if recipe.optimization.loss == "softmax":
        return None
    return bias_for_batch(recipe.optimization.batch_size) if bias is None else bias


def sized(vision: VisionConfig | NaFlexVisionConfig, image_size: int | None) -> VisionConfig | NaFlexVisionConfig:
    """An image tower for square pictures of another size, where one is given."""
    if image_size is None:
        return vision
    if isinstance(vision, NaFlexVisionConfig):
        raise ValueError(
            f"--image-size {image_size} is for square pictures, and this checkpoint is NaFlex, which takes any size: "
            "give --sequence-lengths."
        )
    return replace(vision, image_size=image_size)


def anew(recipe: Recipe) -> tuple[str, ...]:
    """Beginnings of the weights that a fresh text tower, or a run's own vocabulary, leaves nothing of."""
    if recipe.model.fresh_text:
        return FRESH_TEXT
    return (TOKEN_TABLE,) if recipe.data.tokenizer else ()


def set_scale_and_bias(student: Student, recipe: Recipe, fitted: Callable[[], float | None]) -> str:
    """Gives the loss of a run that began from a checkpoint its scale and bias; returns a sentence, empty where they are
    the checkpoint's.

    Args:
        fitted: the bias that fits the batch, at the scale that the student then has; None where that cannot be known.
    """
    given, layer = recipe.model, student.pair_logits
    if given.fresh_text:
        return "scale and bias of the loss as with fresh weights"
    said: list[str] = []
    if given.init_logit_scale is not None:
        layer.log_logit_scale.assign(math.log(given.init_logit_scale))
        said.append(f"scale {given.init_logit_scale:g}, as --init-logit-scale says")
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


def described(recipe: Recipe, start: Start, config: SigLIPConfig) -> str:
    """What a run begins from, in a line for people: whence its weights, sizes and vocabulary come."""
    vision = config.vision
    pictures = (
        f"{vision.image_size} px" if isinstance(vision, VisionConfig) else f"NaFlex, {vision.max_num_patches} patches"
    )
    million = count_parameters(config)["total"] / 1e6
    weights = f"the weights of {start.name} ({start.checkpoint.layout})" if start.checkpoint else "fresh weights"
    size = "" if start.checkpoint else f" of the size {start.name}"
    if start.checkpoint and recipe.model.fresh_text:
        size = f", but for a fresh text tower (depth {config.text.depth}, width {config.text.width})"
    vocabulary = recipe.data.tokenizer or (start.name if start.folder else "the embedded vocabulary")
    if lacks_vocabulary(recipe, start):
        vocabulary = "Gemma's vocabulary"
    return (
        f"Begins from {weights}{size}: {million:,.1f} M parameters, pictures of {pictures}, patches of "
        f"{vision.patch_size}; {config.text.vocab_size:,} tokens of {vocabulary}, "
        f"{config.text.context_length} a caption"
    )


def _trainable(config, given: str) -> SigLIPConfig:
    """Raises ValueError for towers that take other inputs than SigLIP's."""
    if isinstance(config, SigLIPConfig):
        return config
    raise ValueError(
        f"{given} cannot be trained by this recipe, which takes SigLIP's towers: with either loss choose emoji, "
        "siglip_b16_224 or another of that kind, or a checkpoint of SigLIP or SigLIP 2. CLIP's own towers train with "
        "model.fit."
    )
