"""What a stage is put together from: student, teacher, objective, optimizer, preprocessing, loader."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from diptych import backends
from diptych.core.data.batch import Batch
from diptych.core.data.examples.captioning import CaptionTargets
from diptych.core.data.examples.naflex import NaFlex, NaFlexLengths
from diptych.core.data.examples.preprocess import Preprocess
from diptych.core.data.examples.views import Views
from diptych.core.data.loading.loader import Loader
from diptych.core.data.pixels import FixedSize
from diptych.core.data.processor.processor import Processor
from diptych.core.training.curated_objective import CuratedObjective
from diptych.core.training.ema import Ema
from diptych.core.training.joint_objective import JointObjective, Matching
from diptych.core.training.learner import Learner
from diptych.core.training.objectives import Objective
from diptych.core.training.patterns import freeze
from diptych.core.training.run_folder import RunFolder
from diptych.core.training.schedules import Part
from diptych.core.training.staged_recipe import StagedRecipe
from diptych.core.training.stages import Curation
from diptych.core.training.teacher import EmaTeacher, momentum_for_batch
from diptych.engine.datasets import augmentation_for
from diptych.engine.training.contrastive import (
    build_loss,
    build_optimizer,
    build_schedule,
)
from diptych.engine.training.stage_costs import training_flops
from diptych.engine.training.stage_plan import PlannedStage, local_size
from diptych.engine.training.targets_file import write_targets
from diptych.models import NaFlexVisionConfig, SigLIP, SigLIPConfig, VisionConfig, from_preset
from diptych.models.captioner.config import CaptionerConfig
from diptych.models.siglip.adapting import adapt
from diptych.models.siglip.student import Student


def build_learner(
    recipe: StagedRecipe, planned: PlannedStage, preprocess: Preprocess, source, folder: RunFolder
) -> Learner:
    """Student, teacher, objective, optimizer, step and loader of a stage, put together."""
    optimization, run, stage = recipe.optimization, recipe.run, planned.stage
    student = build_student(recipe, planned)
    optimizer = stage_optimizer(recipe, planned)
    ema = Ema(student.trainable_variables, decay=optimization.ema_decay) if optimization.ema_decay else None
    teacher = build_teacher(recipe, planned, student)
    joint = build_objective(recipe, planned, teacher)
    objective: Objective = joint
    if stage.curation:
        reference = build_reference(recipe, planned, stage.curation)
        objective = CuratedObjective(joint, reference, size=planned.batch_size, curation=stage.curation)
    step = backends.train_step(
        student,
        objective,
        optimizer,
        clip_norm=optimization.grad_clip_norm,
        ema=ema,
        teacher=teacher,
        micro_batches=optimization.accum_freq,
        devices=run.data_parallel,
    )
    loader = Loader(
        source,
        preprocess,
        batch_size=planned.loaded,
        seed=run.seed,
        stage=stage.order,
        workers=recipe.data.workers,
        cache_megabytes=recipe.data.cache_megabytes,
    )
    every = run.evaluate_every and max(1, run.evaluate_every // planned.batch_size)
    return Learner(
        model=student,
        optimizer=optimizer,
        step=step,
        loader=loader,
        folder=folder,
        total_steps=planned.last,
        first_step=planned.first,
        first_update=planned.first_update,
        pieces=pieces_of(planned.naflex) if planned.naflex else None,
        batch_size=planned.batch_size,
        ema=ema,
        teacher=teacher,
        objective_variables=joint.named_variables(),
        evaluate_every=every or max(20, planned.batches // 4),
        checkpoint_every=run.checkpoint_every,
        log_every=run.log_every,
        tensorboard=run.tensorboard,
        flops_per_step=training_flops(recipe, planned)["total"] * planned.batch_size,
        peak_flops_per_second=run.peak_tflops and run.peak_tflops * 1e12,
    )


def pieces_of(lengths: NaFlexLengths) -> Callable[[Batch], int]:
    """Into how many optimizer steps a batch of patches is cut, by its length."""
    return lambda batch: lengths.pieces(batch.fields["patches"].shape[1])


def build_student(recipe: StagedRecipe, planned: PlannedStage) -> Student:
    """The student of a stage, its frozen weights frozen."""
    student = Student(
        planned.config,
        captioner=planned.captioner,
        head=planned.head,
        seed=recipe.run.seed,
        dtype=policy(recipe),
        rematerialize=recipe.model.grad_checkpointing,
    )
    freeze(student, (*recipe.model.lock, *planned.stage.lock))
    return student


def policy(recipe: StagedRecipe) -> str:
    """The Keras dtype policy."""
    return "mixed_bfloat16" if recipe.model.precision == "bfloat16" else "float32"


def build_teacher(recipe: StagedRecipe, planned: PlannedStage, student: Student) -> EmaTeacher | None:
    """The teacher of a stage's self-supervised losses."""
    if not planned.stage.losses.self_supervised:
        return None
    momentum = recipe.distillation.teacher_momentum
    if momentum is None:
        momentum = momentum_for_batch(planned.batch_size)
    return EmaTeacher(student.student_parts(), student.teacher_parts(), momentum=momentum)


def build_objective(recipe: StagedRecipe, planned: PlannedStage, teacher: EmaTeacher | None) -> JointObjective:
    """The losses of a stage."""
    distillation = recipe.distillation
    return JointObjective(
        planned.stage.losses,
        loss=build_loss(recipe, planned.config),
        task_weighting=recipe.captioning.task_weighting,
        teacher=teacher,
        matching=Matching(
            student_temperature=distillation.student_temperature,
            teacher_temperature=distillation.teacher_temperature,
            centre_momentum=distillation.centre_momentum,
        ),
        outputs=distillation.head_outputs,
    )


def build_reference(recipe: StagedRecipe, planned: PlannedStage, curation: Curation) -> SigLIP:
    """The model that says what can be learnt, from a stage of this run or a checkpoint.

    Raises:
        ValueError: for a model that does not take this stage's pictures and tokens.
    """
    name = recipe.reference or curation.reference
    folder = recipe.run.run_dir / name / "model"
    reference = from_preset(folder if folder.is_dir() else name, dtype=policy(recipe))
    own, other = planned.config, reference.config
    if not isinstance(other, SigLIPConfig) or (own.text.vocab_size, own.text.context_length) != (
        other.text.vocab_size,
        other.text.context_length,
    ):
        raise ValueError(
            f"The reference {name} does not read this run's tokens: a vocabulary of {own.text.vocab_size:,} in "
            f"{own.text.context_length} places is needed, got {other.text.vocab_size:,} in {other.text.context_length}. Train one with "
            "the same --tokenizer and --context-length."
        )
    if type(own.vision) is not type(other.vision):
        raise ValueError(
            f"The reference {name} takes other inputs than stage {planned.stage.name}: one is NaFlex, the other for square pictures. "
            "`diptych.models.siglip.adapting` makes one of the other."
        )
    if isinstance(own.vision, NaFlexVisionConfig) or own.vision == other.vision:
        return reference
    return adapt(reference, image_size=own.vision.image_size)


def stage_optimizer(recipe: StagedRecipe, planned: PlannedStage):
    """The optimizer with the part of the schedule that the stage walks through, or with its own."""
    optimization, stage = recipe.optimization, planned.stage
    if stage.schedule is None:
        own = replace(
            optimization,
            examples=planned.examples,
            warmup_examples=0,
            learning_rate=stage.learning_rate,
            weight_decay=stage.weight_decay,
            schedule="cosine",
        )
        return build_optimizer(own)
    if planned.updates == planned.batches and planned.first_update == planned.first:
        return build_optimizer(optimization)
    begin, end = (share * optimization.examples for share in stage.schedule)
    part = Part(
        build_schedule(optimization), first_step=planned.first_update, steps=planned.updates, examples=(begin, end)
    )
    return build_optimizer(optimization, schedule=part)


def stage_preprocess(recipe: StagedRecipe, planned: PlannedStage, preprocess: Preprocess) -> Preprocess:
    """How a stage's examples are made."""
    stage, vision = planned.stage, planned.vision
    return replace(
        preprocess,
        image_size=vision.image_size if isinstance(vision, VisionConfig) else preprocess.image_size,
        augmentation=augmentation_for(recipe.data, preprocess.image_size),
        targets=caption_targets(recipe, planned.captioner, preprocess.tokenizer_path) if planned.captioner else None,
        views=build_views(recipe, planned.square) if planned.head else None,
        naflex=planned.naflex,
        selection_chunks=stage.curation.chunks if stage.curation else None,
    )


def caption_targets(recipe: StagedRecipe, captioner: CaptionerConfig, tokenizer: str | Path) -> CaptionTargets:
    """How the decoder's sequences are written."""
    captioning = recipe.captioning
    return CaptionTargets(
        tokenizer_path=tokenizer,
        context_length=captioner.context_length,
        parallel_probability=captioning.parallel_probability,
        bins=captioning.box_bins,
        order=captioning.box_order,
    )


def build_views(recipe: StagedRecipe, vision: VisionConfig) -> Views:
    """How pictures become views for self-supervision."""
    distillation = recipe.distillation
    views = Views(
        global_size=vision.image_size,
        local_size=local_size(vision, distillation.local_size),
        patch_size=vision.patch_size,
        local_count=distillation.local_views,
        mask_ratio=distillation.mask_ratio,
        masking=distillation.masking,
    )
    return views if distillation.colour else replace(views, colour=None, global_blur=0, local_blur=0, solarize=0)


def save_trained(student: Student, preprocess: Preprocess, folder: Path) -> None:
    """The towers as a folder that `SigLIP.from_preset` and `Processor.from_preset` read, and the decoder beside them."""
    vision = student.config.vision
    pixels: FixedSize | NaFlex
    if isinstance(vision, VisionConfig):
        pixels = FixedSize(height=vision.image_size, width=vision.image_size, resize=preprocess.resize_method)
    else:
        pixels = NaFlex(
            patch_size=vision.patch_size, max_num_patches=vision.max_num_patches, resize=preprocess.resize_method
        )
    student.towers.save_to_preset(folder, format="diptych")
    processor = Processor(pixels=pixels, tokenizer=preprocess.tokenizer, context_length=preprocess.context_length)
    processor.save_to_preset(folder)
    if student.captioner is not None:
        assert isinstance(preprocess.targets, CaptionTargets)
        student.captioner.save_to(folder)
        write_targets(folder, preprocess.targets)
    print(f"Model: {folder}", flush=True)
