"""The defaults that follow from the beginning of a run: loss, rates, temperature, lengths."""

from dataclasses import replace
from typing import Literal

from diptych.core.training.recipe import Recipe
from diptych.core.training.stages import Stage
from diptych.engine.training.start import Start
from diptych.engine.training.terms.stage_term import Terms
from diptych.models import CLIPConfig, NaFlexVisionConfig

LENGTHS = (1 / 2, 1, 9 / 4, 49 / 16, 4)
"""SigLIP 2's numbers of patches, 128 to 1,024, over those of the square picture (Tschannen et al. 2025, section
2.4.2)."""

FRESH_RATE, FRESH_DECAY = 1e-3, 1e-4
CARRIED_RATE = 1e-5
ADAPTERS_RATE = 1e-4
"""Of low-rank adapters, which begin at no change and take about ten times the rate of whole weights."""
CARRIED_SHARE = CARRIED_RATE / FRESH_RATE
"""Of the rate of fresh weights, for a checkpoint's beside them."""

INITIAL_SCALES = {"sigmoid": 10.0, "softmax": 1 / 0.07}
"""The temperature that fresh weights begin with, by the loss: Zhai et al. 2023, section 3.2, and Radford et al. 2021,
section 2.5."""


def with_start(recipe: Recipe, start: Start, terms: Terms) -> Recipe:
    """The recipe with what its beginning decides where it said nothing: loss, rate, decay, temperature, context length,
    NaFlex's sequence lengths; and without the losses that a NaFlex checkpoint cannot have.
    """
    recipe = _without_views(with_rates(recipe, start, terms), start, terms)
    data = recipe.data
    optimization = replace(recipe.optimization, loss=recipe.optimization.loss or _loss_of(start))
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


def with_rates(recipe: Recipe, start: Start, terms: Terms) -> Recipe:
    """The rate and the weight decay that suit the beginning, where none is given.

    Where some weights are fresh and some a checkpoint's, the latter move at a hundredth of the rate and without decay,
    unless multipliers are given.
    """
    carried = _carried(recipe, start, terms)
    mixed, optimization = bool(carried), recipe.optimization
    rate, decay = usual_rates(recipe, pretrained=start.pretrained and not mixed)
    rates = optimization.learning_rate_multipliers or dict.fromkeys(carried, CARRIED_SHARE)
    decays = optimization.weight_decay_multipliers or dict.fromkeys(carried, 0.0)
    slowed = mixed and not optimization.learning_rate_multipliers
    return replace(
        recipe,
        optimization=replace(
            optimization,
            learning_rate=rate if optimization.learning_rate is None else optimization.learning_rate,
            learning_rate_multipliers=rates,
            weight_decay=decay if optimization.weight_decay is None else optimization.weight_decay,
            weight_decay_multipliers=decays,
        ),
        # Stages with a schedule of their own say the rate of the weights that were there.
        stages=tuple(
            replace(stage, learning_rate=stage.learning_rate / CARRIED_SHARE)
            if slowed and stage.schedule is None
            else stage
            for stage in recipe.stages
        ),
    )


def usual_rates(recipe: Recipe, *, pretrained: bool) -> tuple[float, float]:
    """Rate and weight decay of fresh weights, or of a checkpoint's or of the adapters in front of them."""
    if not pretrained:
        return FRESH_RATE, FRESH_DECAY
    return (CARRIED_RATE if recipe.model.lora_rank is None else ADAPTERS_RATE), 0.0


def _carried(recipe: Recipe, start: Start, terms: Terms) -> tuple[str, ...]:
    """Patterns of a checkpoint's weights in a run that has fresh ones beside them, which move faster."""
    if start.checkpoint:
        asked = {name for stage in recipe.stages for name in stage.losses}
        taught = any(term.parts(recipe, start.config) for name, term in terms.items() if name in asked)
        return ("(image|text|pair_logits)/.*",) if taught else ()
    if start.image and start.text:
        return ("image/.*", "text/(?!projection/).*") if start.projection_anew else ()
    return tuple(f"{tower}/.*" for tower, origin in (("image", start.image), ("text", start.text)) if origin)


def _loss_of(start: Start) -> Literal["sigmoid", "softmax"]:
    """The loss that a checkpoint's model was made with; SigLIP's where there is none."""
    config = start.config if start.checkpoint else None
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


def _without_views(recipe: Recipe, start: Start, terms: Terms) -> Recipe:
    """Without the losses that need square pictures, from a NaFlex checkpoint (SigLIP 2, section 2.4.2)."""
    if not start.image or not isinstance(start.config.vision, NaFlexVisionConfig):
        return recipe
    views = {name for name, term in terms.items() if term.sees_views}

    def kept(stage: Stage) -> Stage:
        losses = {name: weight for name, weight in stage.losses.items() if name not in views}
        return replace(stage, losses=losses) if losses else stage

    return replace(recipe, stages=tuple(map(kept, recipe.stages)))
