"""The reference of a curated stage: the model that says, beside the learner, which examples can be learnt."""

from collections.abc import Mapping
from pathlib import Path

from diptych.core.training.recipe import Recipe
from diptych.core.training.stages import Curation, Stage
from diptych.core.weights.hub import SCHEME, preset_folder
from diptych.engine.training.planned_stage import PlannedStage
from diptych.models import NaFlexVisionConfig, SigLIP, SigLIPConfig, VisionConfig, from_preset
from diptych.models.checkpoints import read_checkpoint
from diptych.models.presets import PRESETS
from diptych.models.siglip.config import PairConfig


def plan_reference(
    recipe: Recipe, stage: Stage, config: PairConfig, planned: Mapping[str, PlannedStage]
) -> PairConfig | None:
    """What the reference of a stage is: of a stage of this run as planned, of a checkpoint as it says; None without
    curation, and where there is no checkpoint yet. A dry run fetches none.

    Args:
        config: of the stage's own towers.
        planned: the stages before it.

    Raises:
        ValueError: where it does not take this stage's pictures and tokens.
    """
    if stage.curation is None:
        return None
    name = recipe.reference or stage.curation.reference
    if name in planned:
        reference = planned[name].config
    else:
        if recipe.run.dry_run and name.startswith(SCHEME):
            return None
        try:
            reference = _config_at(_place(recipe, stage.curation))
        except FileNotFoundError:
            return None
    _check(stage, name, config, reference)
    return reference


def require_references(recipe: Recipe, planned: Mapping[str, PlannedStage]) -> None:
    """Raises ValueError for a stage whose reference is not there."""
    for name, stage in planned.items():
        if stage.stage.curation is None or stage.reference is not None:
            continue
        try:
            _config_at(_place(recipe, stage.stage.curation))
        except FileNotFoundError as error:
            raise ValueError(
                f"Stage {name} chooses its batches by a reference: {error} Name the checkpoint of one with "
                "--reference, or leave such stages out by --only."
            ) from error


def load_reference(recipe: Recipe, curation: Curation, *, dtype: str) -> SigLIP:
    """The model itself, with its weights."""
    return from_preset(_place(recipe, curation), dtype=dtype)


def reference_size(planned: PlannedStage) -> int | None:
    """Side of the pictures that the reference reads, where the learner's own do not fit it; None else."""
    reference = planned.reference
    if reference is None or not isinstance(reference.vision, VisionConfig):
        return None
    return None if reference.vision.image_size == planned.square.image_size else reference.vision.image_size


def _place(recipe: Recipe, curation: Curation) -> Path | str:
    """The folder that a stage of this name leaves, or else the name."""
    name = recipe.reference or curation.reference
    for folder in (recipe.folder(name) / "model", Path(name).expanduser()):
        if folder.exists():
            return folder
    return name


def _config_at(place: Path | str):
    return PRESETS[str(place)] if place in PRESETS else read_checkpoint(preset_folder(place, known=PRESETS)).config


def _check(stage: Stage, name: str, own: PairConfig, reference) -> None:
    if not isinstance(reference, PairConfig):
        raise ValueError(f"The reference {name} is a {reference.describes}, and two towers are needed.")
    needed = (own.text.vocab_size, own.text.context_length)
    found = (reference.text.vocab_size, reference.text.context_length)
    if not isinstance(reference, SigLIPConfig) or needed != found:
        raise ValueError(
            f"The reference {name} does not read this run's tokens: a vocabulary of {needed[0]:,} in {needed[1]} "
            f"places is needed, got {found[0]:,} in {found[1]}. Train one with the same --tokenizer and "
            "--context-length."
        )
    if type(own.vision) is not type(reference.vision):
        raise ValueError(
            f"The reference {name} takes other inputs than stage {stage.name}: one is NaFlex, the other for square "
            "pictures. `diptych.models.siglip.adapting` makes one of the other."
        )
    if isinstance(own.vision, NaFlexVisionConfig) and own.vision.patch_size != reference.vision.patch_size:
        raise ValueError(
            f"The reference {name} takes patches of {reference.vision.patch_size} px, and stage {stage.name} cuts them "
            f"at {own.vision.patch_size}. `diptych.models.siglip.adapting.adapt` makes one of the other."
        )
