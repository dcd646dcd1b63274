"""The costs of a run's stages, before they start: parameters and floating-point operations, by arithmetic."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from diptych.core.training.recipe import Recipe
from diptych.engine.training.planned_stage import PlannedStage
from diptych.engine.training.terms.stage_term import Terms, TowerFlops
from diptych.models import NaFlexVisionConfig, PaliGemmaConfig
from diptych.models.counting import count_flops, count_parameters, count_tower_parameters
from diptych.models.paligemma.config import count_paligemma_parameters
from diptych.models.paligemma.counting import count_paligemma_flops


def stage_parameters(planned: PlannedStage, terms: Terms) -> dict[str, int]:
    """Trained scalars by part, and "teacher", which is not trained and not in the "total"."""
    towers = _parameters(planned.config)
    parts = {name: count for name, count in towers.items() if name != "total"}
    parts |= {name: part.parameters(planned.config) for name, part in planned.parts.items()}
    taught = taught_parts(planned, terms)
    teacher = 0
    if taught is not None and planned.vision is not None:
        teacher = count_tower_parameters(planned.vision) + sum(parts[name] for name in taught)
    return {**parts, "total": sum(parts.values()), "teacher": teacher}


def training_flops(recipe: Recipe, planned: PlannedStage, terms: Terms) -> dict[str, float]:
    """Operations for one example that is trained on, by what they are for, and their "total".

    A backward pass counts as two forward passes. A locked tower has none, and an image tower no forward pass either
    where pictures are embedded before. Not counted are what rematerialisation computes again and, as everywhere, norms,
    activations and lookups.
    """
    counts = [_flops(recipe, planned, config) for _, config in by_length(planned)]
    mean = {name: sum(count[name] for count in counts) / len(counts) for name in counts[0]}
    pairs = mean["training"] - sum(2 * mean[tower] for tower in planned.locked)
    if planned.embeds_images:
        pairs -= mean["image"]
    towers = TowerFlops(image=mean.get("image", 0.0), pairs=pairs, lengths=planned.lengths)
    parts = {name: terms[name].flops(recipe, planned, towers) for name in terms if name in planned.stage.losses}
    if taught_parts(planned, terms) is not None:
        parts["teacher"] = mean["image"]  # its pass over the global view, which all terms read
    if planned.stage.curation:
        # Learner and reference read every candidate; one that is not there yet is taken to be as large as the learner.
        reference: Mapping[str, float] = mean
        if planned.reference is not None and not planned.naflex:
            reference = count_flops(planned.reference, batch_size=planned.batch_size)
        read = sum(model[tower] for model in (mean, reference) for tower in ("image", "text"))
        parts["selection"] = planned.loaded / planned.batch_size * read
    return {**parts, "total": sum(parts.values())}


def taught_parts(planned: PlannedStage, terms: Terms) -> list[str] | None:
    """The parts that a teacher copies beside the image tower; None where no term has a teacher."""
    asked = [terms[name].taught for name in terms if name in planned.stage.losses]
    return None if all(some is None for some in asked) else [part for some in asked for part in some or ()]


def by_length(planned: PlannedStage) -> list[tuple[int, Any]]:
    """Each number of patches of NaFlex with the model for it; for other models 0 and the model as it is."""
    config, vision = planned.config, planned.vision
    if not isinstance(vision, NaFlexVisionConfig):
        return [(0, config)]
    return [(length, replace(config, vision=replace(vision, max_num_patches=length))) for length in planned.lengths]


def _parameters(config: Any) -> dict[str, int]:
    """Trained scalars of a model by part, and their "total"."""
    return count_paligemma_parameters(config) if isinstance(config, PaliGemmaConfig) else count_parameters(config)


def _flops(recipe: Recipe, planned: PlannedStage, config: Any) -> dict[str, int]:
    """Of a forward pass through each tower, and of "training"."""
    if not isinstance(config, PaliGemmaConfig):
        return count_flops(config, batch_size=planned.batch_size)
    counted = count_paligemma_flops(
        config, text_length=recipe.data.context_length or 1, pictures=recipe.prompted.pictures
    )
    towers = {
        "image": counted["image"] + counted["projector"],
        "decoder": counted["text"] + counted["logits"],
    }
    return {**towers, "training": counted["training"]}
