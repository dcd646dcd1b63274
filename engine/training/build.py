"""The parts of a stage, built: student, teacher, objective, optimizer, step, loader."""

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from diptych import backends
from diptych.core.data.batch import Batch
from diptych.core.data.examples.naflex import NaFlexLengths
from diptych.core.data.examples.preprocessing import Preprocessing
from diptych.core.data.loading.loader import Loader
from diptych.core.data.pixels import Normalization
from diptych.core.data.records import Source
from diptych.core.placement import ALONE, Placement
from diptych.core.training.card import plain
from diptych.core.training.curated_objective import CuratedObjective
from diptych.core.training.ema import Ema
from diptych.core.training.learner import Learner
from diptych.core.training.objectives import Objective
from diptych.core.training.optimizers import OPTIMIZERS, PatternOptimizer
from diptych.core.training.patterns import freeze
from diptych.core.training.recipe import Optimization, Recipe
from diptych.core.training.run_folder import RunFolder
from diptych.core.training.schedules import SCHEDULES, Part
from diptych.core.training.teacher import EmaTeacher, momentum_at
from diptych.engine.training.costs import training_flops
from diptych.engine.training.planned_stage import PlannedStage
from diptych.engine.training.reference import load_reference
from diptych.engine.training.terms.stage_term import Terms
from diptych.engine.training.tuning import decay_multipliers, locked_weights, rate_multipliers
from diptych.models.siglip.student import Student


def build_learner(
    recipe: Recipe,
    planned: PlannedStage,
    preprocess: Preprocessing,
    source: Source,
    folder: RunFolder,
    terms: Terms,
    placement: Placement = ALONE,
) -> Learner:
    """Everything that trains a stage, put together."""
    optimization, run, stage = recipe.optimization, recipe.run, planned.stage
    student = build_student(recipe, planned, preprocess.normalization)
    optimizer = stage_optimizer(recipe, planned, student)
    ema = Ema(student.trainable_variables, decay=optimization.ema_decay) if optimization.ema_decay else None
    teacher = build_teacher(recipe, planned, student, terms)
    objective = build_objective(recipe, planned, teacher, terms, placement)
    if stage.curation:
        reference = load_reference(recipe, stage.curation, dtype=policy(recipe))
        piece = planned.batch_size // optimization.accum_freq
        objective = CuratedObjective(objective, reference, size=planned.batch_size, piece=piece)
    step = backends.train_step(
        student,
        objective,
        optimizer,
        clip_norm=optimization.grad_clip_norm,
        ema=ema,
        teacher=teacher,
        micro_batches=optimization.accum_freq,
        placement=placement,
        compiler="inductor" if run.compile else None,
    )
    loader = Loader(
        source,
        preprocess,
        batch_size=planned.loaded,
        seed=run.seed,
        order=stage.order,
        placement=placement,
        micro_batches=optimization.accum_freq if backends.splits_own_rows() else 1,
        workers=recipe.data.workers,
        max_skipped=recipe.data.reading.max_skipped,
        cache_megabytes=recipe.data.cache_megabytes,
        stall_seconds=recipe.data.stall_seconds,
    )
    every = run.evaluate_every and max(1, run.evaluate_every // planned.batch_size)
    return Learner(
        model=student,
        optimizer=optimizer,
        step=step,
        loader=loader,
        folder=folder,
        placement=placement,
        total_steps=planned.last,
        first_step=planned.first,
        first_update=planned.first_update,
        pieces=pieces_of(planned.naflex) if planned.naflex else None,
        batch_size=planned.batch_size,
        ema=ema,
        teacher=teacher,
        objective_variables=objective.variables,
        best_by=run.best_by,
        patience=run.patience,
        config=plain(recipe),
        evaluate_every=every or max(20, planned.batches // run.evaluations),
        evaluate_first=recipe.model.from_checkpoint and stage.after is None,
        checkpoint_every=run.checkpoint_every,
        log_every=run.log_every,
        tensorboard=run.tensorboard,
        trackers=run.log_to,
        flops_per_step=training_flops(recipe, planned, terms)["total"] * planned.batch_size,
        peak_flops_per_second=run.peak_tflops and run.peak_tflops * 1e12,
    )


def pieces_of(lengths: NaFlexLengths) -> Callable[[Batch], int]:
    """Into how many optimizer steps a batch of patches is cut, by its length."""
    return lambda batch: lengths.pieces(batch.fields["patches"].shape[1])


def build_student(recipe: Recipe, planned: PlannedStage, normalization: Normalization | None = None) -> Student:
    """The student of a stage, its frozen weights frozen; its pictures are normalised to -1..1 unless told otherwise."""
    student = Student(
        planned.config,
        parts=planned.parts,
        normalization=normalization,
        pictures=recipe.prompted.pictures,
        seed=recipe.run.seed,
        dtype=policy(recipe),
        rematerialize=recipe.model.grad_checkpointing,
    )
    locked = locked_weights(recipe.model, planned.config, [weight.path for weight in student.towers.weights])
    student.held = tuple(freeze(student, (*recipe.model.lock, *planned.stage.lock, *map(re.escape, locked))))
    return student


def policy(recipe: Recipe) -> str:
    """The Keras dtype policy."""
    return "mixed_bfloat16" if recipe.model.precision == "bfloat16" else "float32"


def build_teacher(recipe: Recipe, planned: PlannedStage, student: Student, terms: Terms) -> EmaTeacher | None:
    """The teacher that the terms of a stage read, None where none does."""
    taught = [terms[name].taught for name in terms if name in planned.stage.losses]
    parts = [part for some in taught if some is not None for part in some]
    if all(some is None for some in taught):
        return None
    options = recipe.distillation
    momentum = momentum_at(planned.batch_size, options.teacher_momentum, options.teacher_momentum_batch)
    return EmaTeacher(student.followed(parts), student.copies(parts), momentum=momentum)


def build_objective(
    recipe: Recipe,
    planned: PlannedStage,
    teacher: EmaTeacher | None,
    terms: Terms,
    placement: Placement = ALONE,
) -> Objective:
    """The weighted terms of a stage, in the order in which `terms` has them."""
    weights = {name: planned.stage.losses[name] for name in terms if name in planned.stage.losses}
    return Objective({name: terms[name].build(recipe, planned, teacher, placement) for name in weights}, weights)


def build_schedule(optimization: Optimization):
    """The learning rate over the run's examples."""
    warmup = optimization.warmup_examples
    return SCHEDULES[optimization.schedule](
        _given(optimization.learning_rate) * optimization.batch_factor,
        batch_size=optimization.batch_size,
        total_examples=optimization.examples,
        warmup_examples=optimization.examples // 20 if warmup is None else warmup,
    )


def build_optimizer(optimization: Optimization, schedule=None) -> PatternOptimizer:
    """The optimizer with its schedule, by default the whole run's."""
    second_moment = {"adamw": "beta_2", "openai_adam": "beta_2", "adafactor": "beta_2_cap"}.get(optimization.optimizer)
    beta_2: dict[str, Any] = {second_moment: optimization.beta_2} if second_moment else {}
    momentum: dict[str, Any] = {} if optimization.momentum is None else {"momentum": optimization.momentum}
    return OPTIMIZERS[optimization.optimizer](
        schedule or build_schedule(optimization),
        weight_decay=_given(optimization.weight_decay) * optimization.batch_factor,
        momentum_dtype=optimization.momentum_dtype,
        learning_rate_multipliers=optimization.learning_rate_multipliers,
        weight_decay_multipliers=optimization.weight_decay_multipliers,
        **beta_2,
        **momentum,
    )


def _given(number: float | None) -> float:
    """Raises ValueError for a rate or decay that is not known yet."""
    if number is None:
        raise ValueError("The recipe is not resolved: pass it through engine.training.defaults.with_start first.")
    return number


def stage_optimizer(recipe: Recipe, planned: PlannedStage, student: Student) -> PatternOptimizer:
    """The optimizer with the part of the schedule that the stage walks through, or with its own."""
    stage, paths = planned.stage, [weight.path for weight in student.weights]
    moving = {re.escape(variable.path) for variable in student.trainable_variables}
    rates = rate_multipliers(recipe.optimization, planned.config, paths)
    decays = decay_multipliers(recipe.optimization, paths)
    optimization = replace(
        recipe.optimization,
        learning_rate_multipliers={path: factor for path, factor in rates.items() if path in moving},
        weight_decay_multipliers={path: factor for path, factor in decays.items() if path in moving},
    )
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
