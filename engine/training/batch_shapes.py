"""The fields of a stage's batches as shapes, before any picture is read."""

import math

import numpy as np

from diptych.core.training.recipe import Recipe
from diptych.engine.training.planned_stage import PlannedStage
from diptych.engine.training.reference import reference_size
from diptych.engine.training.terms.matching import local_size
from diptych.engine.training.terms.stage_term import Terms
from diptych.models import ClassifierConfig, NaFlexVisionConfig, PaliGemmaConfig
from diptych.models.gpt.config import RATES, GPTConfig
from diptych.models.gpt.double_heads_config import GPTDoubleHeadsConfig

Shapes = dict[str, tuple[tuple[int, ...], type]]


def batch_shapes(recipe: Recipe, planned: PlannedStage, terms: Terms, length: int | None = None) -> Shapes:
    """Shape and dtype of each field of a whole batch, by name; of what terms of one's own make nothing is known.

    Args:
        length: of NaFlex's sequences, by default the longest.
    """
    rows, config, vision = planned.loaded, planned.config, planned.vision
    if vision is None:
        return _texts(rows, config)
    fields: Shapes = {}
    if planned.embeds_images:
        fields["image_features"] = ((rows, vision.output_width), np.float32)
    elif isinstance(vision, NaFlexVisionConfig):
        fields["patches"] = ((rows, length or vision.max_num_patches, 3 * vision.patch_size**2), np.uint8)
        fields["spatial_shapes"] = ((rows, 2), np.int32)
    else:
        fields["image"] = _squares(rows, vision.image_size)
    if isinstance(config, ClassifierConfig):
        several = {"labels": ((rows, len(config.classes)), np.float32)}
        fields |= several if config.several_labels else {"label": ((rows,), np.int32)}
        return fields | ({"mixup": ((rows,), np.float32)} if recipe.classification.mixup else {})
    if isinstance(config, PaliGemmaConfig):
        if recipe.prompted.pictures > 1:
            (_, *square), dtype = fields["image"]
            fields["image"] = ((rows, recipe.prompted.pictures, *square), dtype)
        return fields | _answers(rows, recipe.data.context_length or 1)
    captions = recipe.data.captions_per_image or 1
    fields["text"] = ((rows, *([captions] if captions > 1 else []), config.text.context_length), np.int32)
    if "captioner" in planned.parts:
        tokens = (rows, 3, planned.decoder.context_length)
        fields |= {"target_tokens": (tokens, np.int32), "target_weights": (tokens, np.uint8)}
        fields["parallel"] = ((rows,), np.bool_)
    if any(terms[name].sees_views for name in planned.stage.losses):
        fields |= _views(recipe, planned, rows)
    if planned.stage.curation:
        fields["selection_noise"] = ((rows, planned.stage.curation.chunks), np.float32)
        if side := reference_size(planned):
            fields["reference_image"] = _squares(rows, side)
    return fields


def batch_bytes(recipe: Recipe, planned: PlannedStage, terms: Terms) -> int:
    """Bytes of the largest batch."""
    shapes = batch_shapes(recipe, planned, terms).values()
    return sum(math.prod(shape) * np.dtype(dtype).itemsize for shape, dtype in shapes)


def _views(recipe: Recipe, planned: PlannedStage, rows: int) -> Shapes:
    (_, *local), dtype = _squares(rows, local_size(recipe, planned))
    square = planned.square
    masked = math.floor(recipe.distillation.mask_ratio * square.num_patches + 1e-8)
    return {
        "global_view": _squares(rows, square.image_size),
        "local_views": ((rows, recipe.distillation.local_views, *local), dtype),
        "masked_patches": ((rows, masked), np.int32),
    }


def _answers(rows: int, length: int) -> Shapes:
    masks = dict.fromkeys(("token_mask", "suffix_mask"), ((rows, length), np.bool_))
    return {"token_ids": ((rows, length), np.int32), "token_weights": ((rows, length), np.float32), **masks}


def _texts(rows: int, config: GPTConfig | GPTDoubleHeadsConfig) -> Shapes:
    if isinstance(config, GPTDoubleHeadsConfig):
        texts: tuple[int, ...] = (rows, config.task.sequences)
        fields: Shapes = {"extract": (texts, np.int32), "target": ((rows, config.task.outputs), np.float32)}
        drops = True
    else:
        texts, fields, drops = (rows,), {}, any(getattr(config, rate) for rate in RATES)
    tokens = (*texts, config.context_length)
    fields |= {"token_ids": (tokens, np.int32), "token_weights": (tokens, np.float32)}
    return fields | ({"dropout_seeds": (texts, np.int32)} if drops else {})


def _squares(rows: int, side: int) -> tuple[tuple[int, ...], type]:
    return (rows, side, side, 3), np.uint8
