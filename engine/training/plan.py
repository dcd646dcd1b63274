"""Plans: from a recipe and its data set to what each stage will train, before anything is built."""

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from diptych.core.data.examples.augmentation import Augmentation
from diptych.core.data.examples.naflex import NaFlexLengths
from diptych.core.data.examples.preprocess import Preprocess
from diptych.core.training.curation import super_batch_size
from diptych.core.training.recipe import Recipe
from diptych.core.training.stages import Stage, chosen_stages
from diptych.engine.datasets.data_set import DataSet
from diptych.engine.training.build import build_student
from diptych.engine.training.embedding_once import as_asked
from diptych.engine.training.planned_stage import PlannedStage
from diptych.engine.training.reference import plan_reference, reference_size
from diptych.engine.training.start import Start, lacks_vocabulary, sized
from diptych.engine.training.terms.stage_term import Terms
from diptych.engine.training.tuning import adapters
from diptych.models import NaFlexVisionConfig, SigLIPConfig, VisionConfig
from diptych.models.abstract import shapes_only
from diptych.models.checkpoints import towers_of
from diptych.models.siglip.parts import Part
from diptych.models.siglip.presets import naflex_config

OfStage = Callable[[PlannedStage, Any], Any]
"""(stage, preprocessing) -> the preprocessing as the stage has it."""


def plan_stages(recipe: Recipe, config: Any, terms: Terms) -> dict[str, PlannedStage]:
    """The stages to carry out by name, in order; `config` is what the first has.

    Raises:
        ValueError: for stages or terms that are not there, and sizes that do not fit.
    """
    planned: dict[str, PlannedStage] = {}
    for stage in chosen_stages(recipe.stages, recipe.only):
        if unknown := sorted(stage.losses.keys() - terms.keys()):
            raise ValueError(
                f"Stage {stage.name} weighs the loss {unknown[0]}, which no term has the name of; there are "
                f"{', '.join(terms)}."
            )
        parent = planned.get(stage.after or "")
        before = parent.config if parent else config
        planned[stage.name] = _planned(recipe, stage, parent, _config_of(stage, before), planned, terms)
    return planned


def recipe_preprocess(recipe: Recipe, start: Start, data_set: DataSet) -> Preprocess:
    """How pictures and captions become arrays in the first stage.

    Raises:
        ValueError: where the data's settings are not all given: resolve them by `engine.datasets.open.with_data`.
    """
    data = recipe.data
    if (
        data.context_length is None
        or data.captions_per_image is None
        or data.opening_examples is None
        or data.augment is None
    ):
        raise ValueError("The recipe's data are not resolved: pass it through engine.datasets.open.with_data first.")
    share = data.english_share
    vocabulary: str | Path = data.tokenizer or start.folder or data_set.tokenizer
    if lacks_vocabulary(recipe, start) and not data.train_data:
        vocabulary = ""  # a plan of a size makes no example
    return Preprocess(
        image_size=picture_size(recipe, start),
        context_length=data.context_length,
        captions=data.captions_per_image,
        opening_examples=data.opening_examples,
        tokenizer_path=vocabulary,
        augmentation=Augmentation() if data.augment else None,
        resize_method=data.resize_method or start.pixels.resize,
        decode=data.decode,
        shortest_edge_ratio=start.shortest_edge_ratio,
        normalization=start.pixels.normalization,
        language_weights=None if share is None else {"en": share, "*": 1 - share},
    )


def picture_size(recipe: Recipe, start: Start) -> int:
    """Side of the square pictures; for NaFlex that of the picture at which its positions are as they were learned."""
    vision = sized(start.config.vision, recipe.model.image_size)
    if isinstance(vision, NaFlexVisionConfig):
        return vision.position_grid * vision.patch_size
    return vision.image_size


def plan_examples(
    recipe: Recipe, planned: Mapping[str, PlannedStage], preprocess: Any, terms: Terms, of_stage: OfStage
) -> dict[str, Any]:
    """How the examples of each stage are made, with the fields that its terms read, by its name.

    Args:
        preprocess: before the stages add to it.
        of_stage: what a stage changes of it for all terms.

    Raises:
        ValueError: for views, targets or a vocabulary that do not fit together, of any stage.
    """
    examples = {}
    for name, stage in planned.items():
        made = of_stage(stage, preprocess)
        for term in stage.stage.losses:
            made = replace(made, **terms[term].examples(recipe, stage, made))
        examples[name] = made
    return examples


def pictures_of_stage(planned: PlannedStage, preprocess: Preprocess) -> Preprocess:
    """How pictures and captions of a stage become arrays."""
    stage, vision = planned.stage, planned.vision
    if vision is None:
        raise TypeError(f"Stage {stage.name} has no image tower.")
    return replace(
        preprocess,
        image_size=preprocess.image_size if isinstance(vision, NaFlexVisionConfig) else vision.image_size,
        naflex=planned.naflex,
        # NaFlex is antialiased in big_vision, too.
        resize_method="bilinear_antialias" if planned.naflex else preprocess.resize_method,
        selection_chunks=stage.curation.chunks if stage.curation else None,
        reference_size=reference_size(planned),
    )


def _planned(
    recipe: Recipe,
    stage: Stage,
    parent: PlannedStage | None,
    config: Any,
    planned: Mapping[str, PlannedStage],
    terms: Terms,
) -> PlannedStage:
    size = recipe.optimization.batch_size
    first, last = stage.batches(recipe.optimization.examples, size)
    naflex = None
    if stage.sequence_lengths:
        naflex = NaFlexLengths(
            patch_size=config.vision.patch_size, lengths=stage.sequence_lengths, halve_from=stage.halve_from
        )
        naflex.check_batch_size(size)
    halves = max((naflex.pieces(length) for length in naflex.lengths), default=1) if naflex else 1
    pieces, devices = recipe.optimization.accum_freq, _devices(recipe)
    if size // halves % (pieces * devices):
        over = f" on {devices:,} devices" if devices > 1 else ""
        raise ValueError(
            f"Stage {stage.name} takes batches of {size // halves}, which --accum-freq {pieces}{over} does not divide: "
            f"give a --batch-size that is a multiple of {halves * pieces * devices:,}"
            f"{', or other --devices' if recipe.run.dry_run else ''}."
        )
    updates = last - first
    if naflex:
        updates = naflex.optimizer_steps(recipe.run.seed, stage.order, first, last - first)
    loaded = super_batch_size(size, stage.curation.filter_ratio) if stage.curation else size
    if stage.curation and size % stage.curation.chunks:
        raise ValueError(
            f"Stage {stage.name} draws a batch of {size} in {stage.curation.chunks} equal chunks: choose a "
            f"--batch-size that is a multiple of {stage.curation.chunks}."
        )
    goes_on = parent is not None and stage.schedule is not None
    made = PlannedStage(
        stage=stage,
        config=config,
        parts=_parts(recipe, stage, config, terms),
        reference=plan_reference(recipe, stage, config, planned),
        naflex=naflex,
        first=first,
        last=last,
        first_update=parent.first_update + parent.updates if parent and goes_on else 0,
        updates=updates,
        batch_size=size,
        loaded=loaded,
        examples_before=parent.examples_before + parent.examples if parent else 0,
    )
    model = recipe.model
    locks = model.lock or stage.lock or model.lock_image or model.lock_text or model.lora_rank
    if not locks:
        return as_asked(recipe, made, terms)
    with shapes_only():
        student = build_student(recipe, made)
    moving = {variable.path: math.prod(variable.shape) for variable in student.trainable_variables}
    adapted = student.adapters.shapes if student.adapters is not None else {}
    locked = frozenset(towers_of(config).keys() - {path.partition("/")[0] for path in (*moving, *adapted)})
    return as_asked(recipe, replace(made, trained=sum(moving.values()), locked=locked), terms)


def _devices(recipe: Recipe) -> int:
    """That share a batch, as far as is known: a dry run's may be others than those here."""
    run = recipe.run
    return run.planned_devices if run.dry_run else run.data_parallel * (run.num_processes or 1)


def _parts(recipe: Recipe, stage: Stage, config: Any, terms: Terms) -> Mapping[str, Part]:
    views = [name for name in stage.losses if terms[name].sees_views]
    vision = getattr(config, "vision", config)
    if views and not isinstance(vision, VisionConfig):
        raise ValueError(
            f"Stage {stage.name}: {' and '.join(views)} need square pictures and SigLIP's own image tower, got a "
            f"{vision.describes} (SigLIP 2, section 2.4.2, trains NaFlex without them). Leave those losses out."
        )
    parts: dict[str, Part] = {}
    for name in terms:  # in their order, so that stages with the same losses have their weights in one order
        if name in stage.losses:
            parts |= terms[name].parts(recipe, config)
    if (adapted := adapters(recipe.model, config, (*recipe.model.lock, *stage.lock))) is not None:
        if taught := [name for name in stage.losses if terms[name].taught is not None]:
            raise ValueError(
                f"Stage {stage.name}: the teacher of {' and '.join(taught)} follows the image tower's weights, which "
                "--lora-rank leaves as they are. Leave out --lora-rank, or the stage by --only."
            )
        parts["adapters"] = adapted
    return parts


def _config_of(stage: Stage, config: Any) -> Any:
    """The model of a stage, from that of the stage before."""
    vision = getattr(config, "vision", config)
    if isinstance(vision, NaFlexVisionConfig):
        if stage.image_size or stage.patch_size:
            raise ValueError(f"Stage {stage.name} goes on from a NaFlex model, which takes pictures of any size.")
        return config
    if not isinstance(vision, VisionConfig) or not isinstance(config, SigLIPConfig):
        if stage.image_size or stage.patch_size or stage.sequence_lengths:
            raise ValueError(
                f"Stage {stage.name} changes how pictures are cut, which SigLIP's image towers allow, got a "
                f"{vision.describes}. Leave the stage out by --only."
            )
        return config
    vision = replace(
        vision,
        image_size=stage.image_size or vision.image_size,
        patch_size=stage.patch_size or vision.patch_size,
    )
    config = replace(config, vision=vision)
    return naflex_config(config, max_num_patches=max(stage.sequence_lengths)) if stage.sequence_lengths else config
