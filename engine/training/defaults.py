"""What the beginning of a run decides where its recipe says nothing: loss, rates, temperature, lengths."""

from dataclasses import replace
from typing import Literal

from diptych.core.training.recipe import Model, Optimization, Recipe
from diptych.core.training.stages import Stage
from diptych.engine.training.start import Start
from diptych.models import CLIPConfig, NaFlexVisionConfig

LENGTHS = (1 / 2, 1, 9 / 4, 49 / 16, 4)
"""SigLIP 2's numbers of patches, 128 to 1,024, over those of the square picture (Tschannen et al. 2025, section
2.4.2)."""

INITIAL_SCALES = {"sigmoid": 10.0, "softmax": 1 / 0.07}
"""The temperature that fresh weights begin with, by the loss: Zhai et al. 2023, section 3.2, and Radford et al. 2021,
section 2.5."""

FRESH_RATE, CARRIED_RATE = 1e-3, 1e-5
FRESH_DECAY = 1e-4


def with_start(recipe: Recipe, start: Start) -> Recipe:
    """The recipe with what its beginning decides where it said nothing: loss, rate, decay, temperature, context length,
    NaFlex's sequence lengths.
    """
    data, optimization = recipe.data, with_rates(recipe.optimization, recipe.model, start)
    optimization = replace(optimization, loss=optimization.loss or _loss_of(start))
    scale = recipe.model.init_logit_scale
    if scale is None and start.checkpoint is None:
        scale = INITIAL_SCALES[optimization.loss or "sigmoid"]
    return replace(
        recipe,
        model=replace(recipe.model, init_logit_scale=scale),
        optimization=optimization,
        data=replace(
            data,
            context_length=data.context_length or (start.config.text.context_length if start.text else None),
        ),
        stages=_with_lengths(recipe, start),
    )


def with_rates(optimization: Optimization, model: Model, start: Start) -> Optimization:
    """The rate and the weight decay that suit the beginning, where none is given.

    A checkpoint's weights move at a hundredth of the rate of fresh ones, and without decay, also where the other tower
    is fresh.
    """
    carried = {}
    if start.checkpoint is None:
        if start.image:
            carried["image/.*"] = CARRIED_RATE / FRESH_RATE
        if start.text:
            carried["text/(?!projection/).*" if start.projection_anew else "text/.*"] = CARRIED_RATE / FRESH_RATE
    some_fresh = start.checkpoint is None and (start.image is None or start.text is None or start.projection_anew)
    rate, decay = (FRESH_RATE, FRESH_DECAY) if some_fresh else (CARRIED_RATE, 0.0)
    changed = optimization
    if optimization.learning_rate is None:
        rules = {**optimization.learning_rate_multipliers, **(carried if some_fresh else {})}
        changed = replace(changed, learning_rate=rate, learning_rate_multipliers=rules)
    if optimization.weight_decay is None:
        rules = {**optimization.weight_decay_multipliers, **(dict.fromkeys(carried, 0.0) if some_fresh else {})}
        changed = replace(changed, weight_decay=decay, weight_decay_multipliers=rules)
    return changed


def _loss_of(start: Start) -> Literal["sigmoid", "softmax"]:
    """The loss that a checkpoint's model was made with; SigLIP's where there is none."""
    config = start.checkpoint.config if start.checkpoint else None
    if config is None:
        return "sigmoid"
    return "softmax" if isinstance(config, CLIPConfig) or config.init_logit_bias is None else "sigmoid"


def _with_lengths(recipe: Recipe, start: Start) -> tuple[Stage, ...]:
    """The stages, those that keep a picture's aspect with the numbers of patches that suit a checkpoint's towers."""
    vision, given = start.config.vision, recipe.model.sequence_lengths
    naflex = isinstance(vision, NaFlexVisionConfig)

    def keeps_aspect(stage: Stage) -> bool:
        return bool(stage.sequence_lengths) or (naflex and stage.after is None)

    if given and not any(map(keeps_aspect, recipe.stages)):
        raise ValueError(
            f"--sequence-lengths are NaFlex's, and {start.name} takes square pictures. Leave them out, or give a "
            "NaFlex checkpoint."
        )
    if not given and not start.image and not naflex:
        return recipe.stages
    lengths = given or tuple(round(vision.num_patches * part) for part in LENGTHS)
    return tuple(
        replace(stage, sequence_lengths=lengths, halve_from=max(lengths)) if keeps_aspect(stage) else stage
        for stage in recipe.stages
    )
