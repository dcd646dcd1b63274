"""Carries out a recipe in stages: each in a folder of its own, from the end of the one before, until all are done."""

import contextlib
import json
from collections.abc import Mapping
from dataclasses import replace
from typing import cast

from diptych import backends
from diptych.core.data.examples.preprocess import Preprocess
from diptych.core.data.records import UNKNOWN_LANGUAGE, BadExample, Source
from diptych.core.data.sampling import OTHER_LANGUAGES
from diptych.core.data.sources.mixture import LanguageMixture, records_by_language
from diptych.core.data.sources.open import EMBEDDED
from diptych.core.report.mixture_table import mixture_table
from diptych.core.training import checkpoint
from diptych.core.training.card import plain, resolve_card
from diptych.core.training.checkpoint import CheckpointError
from diptych.core.training.handover import hand_over
from diptych.core.training.learner import Learner
from diptych.core.training.run_folder import RunFolder, write_json
from diptych.core.training.signals import StopSignals
from diptych.core.training.staged_recipe import StagedRecipe
from diptych.engine.datasets import SCENE_SHAPES, Pairs, open_pairs
from diptych.engine.failures import TRAINING_ERRORS, exit_status
from diptych.engine.training.contrastive import (
    HARMLESS,
    build_config,
    build_preprocess,
    choose_implementation,
    square_towers,
)
from diptych.engine.training.stage_costs import plan_text
from diptych.engine.training.stage_evaluation import StageEvaluation
from diptych.engine.training.stage_parts import build_learner, save_trained, stage_preprocess
from diptych.engine.training.stage_plan import PlannedStage, plan_stages
from diptych.models.siglip.adapting import fit_image_weight

HELPERS = ("captioner/", "global_head/", "patch_head/", "mask_token/")
"""Beginnings of the weights that a stage may leave behind: what teaches the towers, and is not kept."""
GEMMA = 256_000
"""Pieces of SigLIP 2's vocabulary."""


def run(recipe: StagedRecipe) -> int:
    """All chosen stages, from the data to the report; returns the exit status."""
    return exit_status(lambda: _run(recipe), TRAINING_ERRORS)


def _run(recipe: StagedRecipe) -> int:
    if recipe.run.dry_run and recipe.data.tokenizer is None and not recipe.data.train_data:
        config, vision = square_towers(recipe)
        vision = replace(vision, image_size=recipe.model.image_size or vision.image_size)
        print(plan_text(recipe, plan_stages(recipe, replace(config, vision=vision))))
        return 0
    check_data(recipe)
    preprocess = build_preprocess(recipe)
    planned = plan_stages(recipe, build_config(recipe, preprocess))
    if recipe.run.dry_run:
        print(plan_text(recipe, planned))
        return 0
    print(f"diptych on {backends.name()}, {backends.device_name() or 'CPU'}: {', '.join(planned)}", flush=True)
    pairs = mixed(recipe, open_pairs(recipe.data))
    print(pairs.describe(), flush=True)
    if any(stage.captioner for stage in planned.values()) and recipe.captioning.require_boxes:
        check_boxes(pairs.train)
    results = {}
    with RunFolder(recipe.run.run_dir) as folder, StopSignals() as stop:
        folder.check_config(cast(Mapping, plain(recipe)), harmless=HARMLESS | {"only", "devices"})
        folder.write_card(_card(recipe))
        for name, stage in planned.items():
            results[name] = carry_out(recipe, stage, preprocess, pairs, stop)
            if stop.stop_requested:
                print(f"\nStopped by {stop.received} in stage {name}. The same command goes on from there.")
                return stop.exit_status
        write_json(folder.results, results)
    return 0


def check_data(recipe: StagedRecipe) -> None:
    """Raises ValueError for a preset of the paper's that was given no data, or no vocabulary of its size."""
    vocabulary = square_towers(recipe)[0].text.vocab_size
    if not recipe.data.train_data or (vocabulary == GEMMA and recipe.data.tokenizer is None):
        raise ValueError(
            "The paper's presets bring no data: give --train-data (pictures with captions, and boxes as in coco:annotations.json:images/) "
            "and --tokenizer (Gemma's tokenizer.json for SigLIP 2's vocabulary), or add --dry-run to see what they would cost."
        )


def mixed(recipe: StagedRecipe, pairs: Pairs) -> Pairs:
    """The pairs with training records in the wanted shares of languages; the embedded data has all languages in each record."""
    share = recipe.data.english_share
    if recipe.data.train_data in (EMBEDDED, *SCENE_SHAPES) or (share is None and recipe.language_temperature == 1):
        return pairs
    if records_by_language(pairs.train).keys() == {UNKNOWN_LANGUAGE}:
        print("No record names its language: they are taken as they come.", flush=True)
        return pairs
    shares = None
    if share is not None:
        shares = {name: part for name, part in (("en", share), (OTHER_LANGUAGES, 1 - share)) if part}
    mixture = LanguageMixture(pairs.train, shares=shares, temperature=recipe.language_temperature, seed=recipe.run.seed)
    print(mixture_table(mixture), flush=True)
    return replace(pairs, train=mixture)


def check_boxes(source: Source, looked_at: int = 256) -> None:
    """Raises ValueError where none of the first records has boxes, which the decoder is to learn to write."""
    count = min(len(source), looked_at)
    for index in range(count):
        with contextlib.suppress(BadExample):
            if source.record(index).regions:
                return
    raise ValueError(
        f"None of the first {count} records has boxes, and the decoder is to learn referring expressions and grounded captions. Give data "
        "with boxes (coco:annotations.json:images/), label yours with python -m recipes.label, or train on captions "
        "alone with --no-require-boxes."
    )


def carry_out(recipe: StagedRecipe, planned: PlannedStage, preprocess: Preprocess, pairs: Pairs, stop) -> dict:
    """One stage, from wherever it stands to its end; returns what it scored."""
    stage = planned.stage
    with RunFolder(recipe.run.run_dir / stage.name) as folder:
        if folder.results.exists():  # written last of all
            print(f"{folder.path} is finished.", flush=True)
            return json.loads(folder.results.read_text(encoding="utf-8"))
        preprocess = stage_preprocess(recipe, planned, preprocess)
        learner = build_learner(recipe, planned, preprocess, pairs.train, folder)
        evaluation = StageEvaluation(recipe, planned, preprocess, pairs, learner.model)
        learner.evaluate = evaluation.quick
        start = learner.restore()
        if start:
            print(f"{folder.path} holds this stage up to batch {start} of {learner.total_steps}; going on from there.")
        elif stage.after is not None:
            saved = end_of(recipe, stage.after)
            print(f"Stage {stage.name}: {begin(learner, saved, planned)}", flush=True)
        else:
            print(f"Stage {stage.name}: fresh weights", flush=True)
        folder.write_card(_card(recipe, planned, learner), resume_step=start)
        if not learner.finished:
            learner.train(stop)
        if stop.stop_requested:
            return {}
        with learner.ema.applied() if learner.ema else contextlib.nullcontext():
            save_trained(learner.model, preprocess, folder.path / "model")
            return evaluation.finish(learner, folder)


def end_of(recipe: StagedRecipe, name: str) -> checkpoint.Checkpoint:
    """The checkpoint with which a stage of this run ended."""
    folder = recipe.run.run_dir / name / "checkpoints"
    saved = checkpoint.restore_latest(folder)
    if saved is None:
        raise CheckpointError(f"{folder} holds no checkpoint to go on from: carry out stage {name} first.")
    return saved


def begin(learner: Learner, saved: checkpoint.Checkpoint, planned: PlannedStage) -> str:
    """Gives a stage what the one before ended with; returns a sentence about it."""
    handover = hand_over(
        saved,
        learner.groups(),
        adapt=fit_image_weight,
        keep_optimizer=planned.stage.schedule is not None,
        may_leave=HELPERS,
        anew=planned.stage.fresh,
    )
    return str(handover)


def _card(recipe: StagedRecipe, planned: PlannedStage | None = None, learner: Learner | None = None) -> dict:
    """The card of a run, or of one of its stages with the model it resolved to."""
    card = resolve_card(
        recipe,
        seed=recipe.run.seed,
        backend=backends.name(),
        implementation=choose_implementation(recipe, planned.config) if planned else "none",
        parameters=learner.model.count_params() if learner else None,
        flops_per_step=learner.flops_per_step if learner else None,
        device=backends.device_name(),
        peak_flops_per_second=learner.peak_flops_per_second if learner else None,
    )
    if planned is None:
        return card
    return card | {"stage": plain(planned.stage), "model": plain(planned.config), "decoder": plain(planned.captioner)}
