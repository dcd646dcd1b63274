"""What each stage of a run will train, worked out before anything is built: towers, decoder, heads, batches, optimizer steps."""

from dataclasses import dataclass, replace

from diptych.core.data.examples.naflex import NaFlexLengths
from diptych.core.training.curation import super_batch_size
from diptych.core.training.staged_recipe import StagedRecipe
from diptych.core.training.stages import Stage, chosen_stages
from diptych.models import NaFlexVisionConfig, SigLIPConfig, VisionConfig
from diptych.models.captioner.config import CaptionerConfig, captioner_config
from diptych.models.presets import naflex_config


@dataclass(frozen=True, kw_only=True)
class PlannedStage:
    """A stage with all that follows from it and from those before.

    first, last: batches in the numbering of the stage's data order.   first_update, updates: optimizer steps before it, where it keeps
    the optimizer, and of its own.   examples_before: examples that its weights have seen.
    """

    stage: Stage
    config: SigLIPConfig
    captioner: CaptionerConfig | None
    head: dict | None
    naflex: NaFlexLengths | None
    first: int
    last: int
    first_update: int
    updates: int
    batch_size: int
    loaded: int
    examples_before: int

    @property
    def batches(self) -> int:
        return self.last - self.first

    @property
    def examples(self) -> int:
        return self.batches * self.batch_size

    @property
    def vision(self) -> VisionConfig | NaFlexVisionConfig:
        return self.config.vision

    @property
    def square(self) -> VisionConfig:
        """The image tower of a stage with square pictures."""
        assert isinstance(self.vision, VisionConfig)
        return self.vision


def plan_stages(recipe: StagedRecipe, config: SigLIPConfig) -> dict[str, PlannedStage]:
    """The stages to carry out by name, in order; `config` is what the first has.

    Raises:
        ValueError: for stages that are not there, and sizes that do not fit.
    """
    planned: dict[str, PlannedStage] = {}
    for stage in chosen_stages(recipe.stages, recipe.only):
        parent = planned.get(stage.after or "")
        planned[stage.name] = _planned(recipe, stage, parent, parent.config if parent else config)
    return planned


def local_size(vision: VisionConfig, given: int | None = None) -> int:
    """Side of local views in pixels; 96 for 256 (DINO's is 96 for 224)."""
    if given is None:
        given = max(1, round(vision.image_size * 3 / 8 / vision.patch_size)) * vision.patch_size
    if given % vision.patch_size:
        raise ValueError(
            f"--local-size must be a multiple of the patch size {vision.patch_size}, got {given}; "
            f"the nearest is {max(1, round(given / vision.patch_size)) * vision.patch_size}."
        )
    return given


def _planned(recipe: StagedRecipe, stage: Stage, parent: PlannedStage | None, config: SigLIPConfig) -> PlannedStage:
    config = _config_of(stage, config)
    optimization, distillation = recipe.optimization, recipe.distillation
    size = optimization.batch_size
    first, last = stage.batches(optimization.examples, size)
    naflex = None
    if stage.sequence_lengths:
        naflex = NaFlexLengths(
            patch_size=config.vision.patch_size, lengths=stage.sequence_lengths, halve_from=stage.halve_from
        )
        naflex.check_batch_size(size)
    halves = max((naflex.pieces(length) for length in naflex.lengths), default=1) if naflex else 1
    if size // halves % optimization.accum_freq:
        raise ValueError(
            f"Stage {stage.name} takes batches of {size // halves}, which --accum-freq {optimization.accum_freq} does not divide."
        )
    updates = last - first
    if naflex:
        updates = naflex.optimizer_steps(recipe.run.seed, stage.order, first, last - first)
    loaded = super_batch_size(size, stage.curation.filter_ratio) if stage.curation else size
    if stage.curation and size % stage.curation.chunks:
        raise ValueError(
            f"Stage {stage.name} draws a batch of {size} in {stage.curation.chunks} equal chunks: choose a --batch-size that is a "
            f"multiple of {stage.curation.chunks}."
        )
    goes_on = parent is not None and stage.schedule is not None
    return PlannedStage(
        stage=stage,
        config=config,
        captioner=_captioner(recipe, config) if stage.losses.captioning else None,
        head={
            "hidden": distillation.head_hidden,
            "bottleneck": distillation.head_bottleneck,
            "outputs": distillation.head_outputs,
        }
        if stage.losses.self_supervised
        else None,
        naflex=naflex,
        first=first,
        last=last,
        first_update=parent.first_update + parent.updates if parent and goes_on else 0,
        updates=updates,
        batch_size=size,
        loaded=loaded,
        examples_before=parent.examples_before + parent.examples if parent else 0,
    )


def _captioner(recipe: StagedRecipe, config: SigLIPConfig) -> CaptionerConfig:
    captioning = recipe.captioning
    return captioner_config(
        config,
        depth=captioning.decoder_depth,
        context_length=captioning.target_length,
        tie_embeddings=captioning.tie_embeddings,
    )


def _config_of(stage: Stage, config: SigLIPConfig) -> SigLIPConfig:
    """The towers of a stage, from those of the stage before."""
    vision = config.vision
    if isinstance(vision, NaFlexVisionConfig):
        if stage.image_size or stage.patch_size:
            raise ValueError(f"Stage {stage.name} goes on from a NaFlex model, which takes pictures of any size.")
        return config
    vision = replace(
        vision,
        image_size=stage.image_size or vision.image_size,
        patch_size=stage.patch_size or vision.patch_size,
    )
    config = replace(config, vision=vision)
    return naflex_config(config, max_num_patches=max(stage.sequence_lengths)) if stage.sequence_lengths else config
