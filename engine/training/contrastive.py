"""Carries out a contrastive recipe: data, towers, training, evaluation, report."""

import dataclasses
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import cast

from diptych import backends
from diptych.core.data.examples.preprocess import Preprocess
from diptych.core.data.loading.loader import Loader
from diptych.core.data.pixels import FixedSize
from diptych.core.data.processor.processor import Processor
from diptych.core.training.card import plain, resolve_card
from diptych.core.training.ema import Ema
from diptych.core.training.learner import Learner
from diptych.core.training.objectives import ContrastiveObjective, softmax_loss
from diptych.core.training.optimizers import OPTIMIZERS
from diptych.core.training.patterns import freeze
from diptych.core.training.recipe import Optimization, Recipe
from diptych.core.training.run_folder import RunFolder
from diptych.core.training.schedules import SCHEDULES
from diptych.core.training.signals import StopSignals
from diptych.core.training.staged_recipe import StagedRecipe
from diptych.engine.datasets import augmentation_for, default_tokenizer, open_pairs
from diptych.engine.failures import TRAINING_ERRORS, exit_status
from diptych.engine.training.evaluation import Evaluation
from diptych.engine.training.planning import plan_text
from diptych.models import SigLIP, SigLIPConfig, VisionConfig
from diptych.models.counting import count_flops, count_parameters
from diptych.models.parts.heads import bias_for_batch
from diptych.models.presets import preset_config

AnyRecipe = Recipe | StagedRecipe

PAPER_CONTEXT_LENGTH = 64

# What may differ between the runs that continue each other.
HARMLESS = frozenset(
    {
        "run_dir",
        "workers",
        "cache_megabytes",
        "checkpoint_every",
        "log_every",
        "data_parallel",
        "loss_implementation",
        "tensorboard",
        "report",
        "dry_run",
        "peak_tflops",
    }
)


def run(recipe: Recipe) -> int:
    """The whole recipe, from the data to the report; returns the exit status."""
    return exit_status(lambda: _run(recipe), TRAINING_ERRORS)


def _run(recipe: Recipe) -> int:
    preprocess = build_preprocess(recipe)
    config = build_config(recipe, preprocess)
    image_size = recipe.model.image_size or square_towers(recipe)[1].image_size
    preprocess = dataclasses.replace(
        preprocess, image_size=image_size, augmentation=augmentation_for(recipe.data, image_size)
    )
    if recipe.run.dry_run:
        print(plan_text(recipe, config))
        return 0
    print(f"diptych on {backends.name()}, {backends.device_name() or 'CPU'}", flush=True)
    pairs = open_pairs(recipe.data)
    print(pairs.describe(), flush=True)
    with RunFolder(recipe.run.run_dir) as folder, StopSignals() as stop:
        folder.check_config(cast(Mapping, plain(recipe)), harmless=HARMLESS)
        learner = build_learner(recipe, config, preprocess, pairs.train, folder)
        evaluation = Evaluation(pairs, preprocess, learner.model, recipe)
        learner.evaluate = evaluation.quick
        start = learner.restore()
        card = folder.write_card(build_card(recipe, config, learner), resume_step=start)
        if start:
            done = "it is finished" if learner.finished else "going on from there"
            print(f"{folder.path} holds this run up to step {start} of {learner.total_steps}; {done}.", flush=True)
        if not learner.finished:
            learner.train(stop)
        if stop.stop_requested:
            print(f"\nStopped by {stop.received} after step {learner.steps_done}. The same command goes on from there.")
            return stop.exit_status
        save_trained(learner, preprocess, folder.path / "model")
        evaluation.finish(learner, folder, card)
    return 0


def save_trained(learner: Learner, preprocess: Preprocess, folder: Path) -> None:
    """The run's result as a folder that `SigLIP.from_preset` and `Processor.from_preset` read."""
    size = preprocess.image_size
    pixels = FixedSize(height=size, width=size, resize=preprocess.resize_method)
    processor = Processor(pixels=pixels, tokenizer=preprocess.tokenizer, context_length=preprocess.context_length)
    with learner.ema.applied() if learner.ema else nullcontext():
        learner.model.save_to_preset(folder, format="diptych")
    processor.save_to_preset(folder)
    print(f"Model: {folder}", flush=True)


def build_preprocess(recipe: AnyRecipe) -> Preprocess:
    """How pictures and captions become arrays; the size of the pictures is the model's."""
    data = recipe.data
    share = data.english_share
    if share is not None and not 0 <= share <= 1:
        raise ValueError(f"--english-share lies between 0 and 1, got {share}.")
    return Preprocess(
        image_size=recipe.model.image_size or 1,
        context_length=data.context_length or PAPER_CONTEXT_LENGTH,
        captions=data.captions_per_image or 1,
        opening_examples=data.opening_examples or 0,
        tokenizer_path=data.tokenizer or default_tokenizer(data),
        language_weights=None if share is None else {"en": share, "*": 1 - share},
    )


def build_config(recipe: AnyRecipe, preprocess: Preprocess) -> SigLIPConfig:
    """The preset with the recipe's changes; its vocabulary and context are the tokens'."""
    config, vision = square_towers(recipe)
    model = recipe.model
    return dataclasses.replace(
        config,
        vision=dataclasses.replace(vision, image_size=model.image_size or vision.image_size),
        text=dataclasses.replace(
            config.text, vocab_size=preprocess.tokenizer.vocab_size, context_length=preprocess.context_length
        ),
        init_logit_scale=model.init_logit_scale,
        init_logit_bias=initial_bias(recipe),
    )


def square_towers(recipe: AnyRecipe) -> tuple[SigLIPConfig, VisionConfig]:
    """The preset that the recipe names, and its image tower.

    Raises:
        ValueError: for a preset whose towers take other inputs than square pixels in [-1, 1] and any tokens.
    """
    config = preset_config(recipe.model.model)
    if isinstance(config, SigLIPConfig) and isinstance(config.vision, VisionConfig):
        return config, config.vision
    raise ValueError(
        f"--model {recipe.model.model} cannot be trained by this recipe, which takes SigLIP's towers for square images. With either "
        "loss choose emoji, siglip_b16_224 or another of that kind; CLIP's own towers and NaFlex train with model.fit."
    )


def initial_bias(recipe: AnyRecipe) -> float | None:
    """The sigmoid loss's bias at the start; None with the softmax loss, whose model has none."""
    bias = recipe.model.init_logit_bias
    if recipe.optimization.loss == "softmax":
        return None
    return bias_for_batch(recipe.optimization.batch_size) if bias is None else bias


def build_learner(recipe: Recipe, config: SigLIPConfig, preprocess: Preprocess, source, folder: RunFolder) -> Learner:
    """Model, optimizer, step and loader, put together."""
    data, optimization, run = recipe.data, recipe.optimization, recipe.run
    model = SigLIP(
        config,
        seed=run.seed,
        dtype="mixed_bfloat16" if recipe.model.precision == "bfloat16" else "float32",
        rematerialize=recipe.model.grad_checkpointing,
    )
    freeze(model, recipe.model.lock)
    optimizer = build_optimizer(optimization)
    ema = Ema(model.trainable_variables, decay=optimization.ema_decay) if optimization.ema_decay else None
    step = backends.train_step(
        model,
        ContrastiveObjective(loss=build_loss(recipe, config)),
        optimizer,
        clip_norm=optimization.grad_clip_norm,
        ema=ema,
        micro_batches=optimization.accum_freq,
        devices=run.data_parallel,
    )
    loader = Loader(
        source,
        preprocess,
        batch_size=optimization.batch_size,
        seed=run.seed,
        workers=data.workers,
        cache_megabytes=data.cache_megabytes,
    )
    flops = count_flops(config, batch_size=optimization.batch_size)["training"] * optimization.batch_size
    evaluate_every = max(20, recipe.steps // 12)
    if run.evaluate_every:
        evaluate_every = max(1, run.evaluate_every // optimization.batch_size)
    return Learner(
        model=model,
        optimizer=optimizer,
        step=step,
        loader=loader,
        folder=folder,
        total_steps=recipe.steps,
        batch_size=optimization.batch_size,
        ema=ema,
        evaluate_every=evaluate_every,
        checkpoint_every=run.checkpoint_every,
        log_every=run.log_every,
        tensorboard=run.tensorboard,
        flops_per_step=flops,
        peak_flops_per_second=run.peak_tflops and run.peak_tflops * 1e12,
    )


def build_loss(recipe: AnyRecipe, config: SigLIPConfig) -> Callable:
    """The loss between embeddings; the sigmoid loss by the implementation that the recipe names, or that fits."""
    if recipe.optimization.loss == "softmax":
        return softmax_loss
    return partial(
        backends.sigmoid_loss, implementation=choose_implementation(recipe, config), dtype=embeddings_dtype(recipe)
    )


def choose_implementation(recipe: AnyRecipe, config: SigLIPConfig) -> str:
    """The name of the sigmoid loss's implementation for this run's embeddings."""
    return backends.choose_implementation(
        recipe.run.loss_implementation, dtype=embeddings_dtype(recipe), width=config.text.output_width
    )


def embeddings_dtype(recipe: AnyRecipe) -> str:
    """What embeddings enter the sigmoid loss in: bfloat16 where that is faster, which no CPU is."""
    return "bfloat16" if recipe.model.precision == "bfloat16" and backends.device_name() else "float32"


def build_schedule(optimization: Optimization):
    """The learning rate over the run's examples."""
    warmup = optimization.warmup_examples
    return SCHEDULES[optimization.schedule](
        optimization.learning_rate,
        batch_size=optimization.batch_size,
        total_examples=optimization.examples,
        warmup_examples=optimization.examples // 20 if warmup is None else warmup,
    )


def build_optimizer(optimization: Optimization, schedule=None):
    """The optimizer with its schedule, by default the whole run's."""
    second_moment = {"adamw": "beta_2", "adafactor": "beta_2_cap"}.get(optimization.optimizer)
    return OPTIMIZERS[optimization.optimizer](
        schedule or build_schedule(optimization),
        weight_decay=optimization.weight_decay,
        learning_rate_multipliers=optimization.learning_rate_multipliers,
        weight_decay_multipliers=optimization.weight_decay_multipliers,
        **({second_moment: optimization.beta_2} if second_moment else {}),
    )


def build_card(recipe: Recipe, config: SigLIPConfig, learner: Learner) -> dict:
    """The card of the run, with the model it resolved to."""
    card = resolve_card(
        recipe,
        seed=recipe.run.seed,
        backend=backends.name(),
        implementation=choose_implementation(recipe, config) if recipe.optimization.loss == "sigmoid" else "reference",
        parameters=count_parameters(config)["total"],
        flops_per_step=learner.flops_per_step,
        device=backends.device_name(),
        peak_flops_per_second=learner.peak_flops_per_second,
    )
    return card | {"model": plain(config)}
