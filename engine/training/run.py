"""Carries out a recipe: its stages, each from the end of the one before, until all are done."""

import contextlib
import json
from typing import Any

from diptych import backends
from diptych.core.data.examples.preprocess import Preprocess
from diptych.core.data.records import BadExample, Source
from diptych.core.placement import Placement
from diptych.core.training import checkpoint
from diptych.core.training.card import plain, resolve_card
from diptych.core.training.checkpoint import CheckpointError
from diptych.core.training.handover import hand_over
from diptych.core.training.learner import Learner
from diptych.core.training.older_runs import as_now
from diptych.core.training.recipe import Recipe, harmless_fields
from diptych.core.training.results import read_results, write_results
from diptych.core.training.run_folder import RunFolder
from diptych.core.training.signals import StopSignals
from diptych.engine.datasets.data_set import DataSet, Sources
from diptych.engine.datasets.open import with_data
from diptych.engine.failures import TRAINING_ERRORS, exit_status
from diptych.engine.training.build import build_learner
from diptych.engine.training.costs import plan_text
from diptych.engine.training.evaluation import Evaluation
from diptych.engine.training.plan import (
    plan_examples,
    plan_stages,
    recipe_preprocess,
    square_preset,
    towers_config,
    unread_preprocess,
)
from diptych.engine.training.planned_stage import PlannedStage
from diptych.engine.training.reference import require_references
from diptych.engine.training.saved_model import save_trained
from diptych.engine.training.terms import TERMS
from diptych.engine.training.terms.contrastive import implementation_name
from diptych.engine.training.terms.stage_term import Terms
from diptych.models.siglip.adapting import fit_image_weight

GEMMA = 256_000
"""Pieces of SigLIP 2's vocabulary."""


def run(recipe: Recipe, terms: Terms = TERMS) -> int:
    """All chosen stages, from the data to the report; returns the exit status.

    Args:
        recipe: what is to be done.
        terms: what stages may weigh, by name: `TERMS | {"mine": MyTerm}` for losses of one's own.
    """
    return exit_status(lambda: _run(recipe, terms), TRAINING_ERRORS)


def _run(recipe: Recipe, terms: Terms) -> int:
    if recipe.run.dry_run and recipe.data.tokenizer is None and not recipe.data.train_data:
        planned = plan_stages(recipe, square_preset(recipe)[0], terms)
        plan_examples(recipe, planned, unread_preprocess(recipe), terms)
        print(plan_text(recipe, planned, terms))
        return 0
    check_data(recipe)
    recipe, data_set = with_data(recipe)
    preprocess = recipe_preprocess(recipe, data_set)
    planned = plan_stages(recipe, towers_config(recipe, preprocess), terms)
    examples = plan_examples(recipe, planned, preprocess, terms)
    if recipe.run.dry_run:
        print(plan_text(recipe, planned, terms))
        return 0
    require_references(recipe, planned)
    named = f": {', '.join(planned)}" if len(recipe.stages) > 1 else ""
    print(f"diptych on {backends.name()}, {backends.device_name() or 'CPU'}{named}", flush=True)
    sources = data_set.sources(recipe.run.seed)
    print(data_set.describe(sources), flush=True)
    if recipe.captioning.require_boxes and any("captioner" in stage.parts for stage in planned.values()):
        check_boxes(sources.train)
    placement = backends.placement(recipe.run.data_parallel)
    with StopSignals() as stop, RunFolder(recipe.run.run_dir) as folder:
        check_config(folder, recipe)
        results: dict[str, dict[str, Any]] = {}
        if len(recipe.stages) > 1:
            folder.write_card(card_of(recipe))
        for name, stage in planned.items():
            alone = contextlib.nullcontext(folder) if len(recipe.stages) == 1 else RunFolder(recipe.folder(name))
            with alone as own:
                results |= carry_out(recipe, stage, own, data_set, sources, examples[name], terms, placement, stop)
            if stop.stop_requested:
                where = f"in stage {name}" if len(recipe.stages) > 1 else "before the end"
                print(f"\nStopped by {stop.received} {where}. The same command goes on from there.")
                return stop.exit_status
        if len(recipe.stages) > 1:
            write_results(folder.results, results)
    return 0


def check_config(folder: RunFolder, recipe: Recipe) -> None:
    """Raises ConfigMismatch where the folder holds a run that would compute something else."""
    given = json.loads(json.dumps(plain(recipe)))
    folder.check_config(
        given, harmless=harmless_fields(recipe), as_now=lambda stored: as_now(stored, given, recipe.unused())
    )


def check_data(recipe: Recipe) -> None:
    """Raises ValueError for a preset of the paper's that was given no data, or no vocabulary of its size."""
    lacks_vocabulary = square_preset(recipe)[0].text.vocab_size == GEMMA and recipe.data.tokenizer is None
    if not recipe.data.train_data or (lacks_vocabulary and not recipe.run.dry_run):
        raise ValueError(
            "The paper's presets bring no data: give --train-data (pictures with captions, and boxes as in "
            "coco:annotations.json:images/) and --tokenizer (Gemma's tokenizer.json for SigLIP 2's vocabulary), or add "
            "--dry-run to see what they would cost."
        )


def check_boxes(source: Source, looked_at: int = 256) -> None:
    """Raises ValueError where none of the first records has boxes, which the decoder is to learn to write."""
    count = min(len(source), looked_at)
    for index in range(count):
        with contextlib.suppress(BadExample):
            if source.record(index).regions:
                return
    raise ValueError(
        f"None of the first {count} records has boxes, and the decoder is to learn referring expressions and grounded "
        "captions. Give data with boxes (coco:annotations.json:images/), label yours with python -m recipes.label, or "
        "train on captions alone with --no-require-boxes."
    )


def carry_out(
    recipe: Recipe,
    planned: PlannedStage,
    folder: RunFolder,
    data_set: DataSet,
    sources: Sources,
    preprocess: Preprocess,
    terms: Terms,
    placement: Placement,
    stop: StopSignals,
) -> dict[str, dict[str, Any]]:
    """One stage, from wherever it stands to its end, in its entered folder; returns what it scored, by its name.

    Args:
        preprocess: how its examples are made.
    """
    stage = planned.stage
    if folder.results.exists():  # written last of all
        print(f"{folder.path} is finished.", flush=True)
        return read_results(folder.results, stage.name)
    learner = build_learner(recipe, planned, preprocess, sources.train, folder, terms, placement)
    evaluation = Evaluation(recipe, planned, data_set, sources, preprocess, learner.model)
    learner.evaluate = evaluation.quick
    start = learner.restore()
    if start:
        print(f"{folder.path} holds this stage up to batch {start} of {learner.total_steps}; going on from there.")
    elif stage.after is not None:
        print(f"Stage {stage.name}: {begin(learner, end_of(recipe, stage.after), planned)}", flush=True)
    elif len(recipe.stages) > 1:
        print(f"Stage {stage.name}: fresh weights", flush=True)
    card = folder.write_card(card_of(recipe, planned, learner), resume_step=start)
    if not learner.finished:
        learner.train(stop)
    if stop.stop_requested:
        return {}
    with learner.ema.applied() if learner.ema else contextlib.nullcontext():
        save_trained(learner.model, preprocess, folder.path / "model")
        results = {stage.name: evaluation.finish(learner, folder, card)}
    write_results(folder.results, results)
    return results


def end_of(recipe: Recipe, name: str) -> checkpoint.Checkpoint:
    """The checkpoint with which a stage of this run ended."""
    folder = recipe.folder(name) / "checkpoints"
    saved = checkpoint.restore_latest(folder)
    if saved is None:
        raise CheckpointError(f"{folder} holds no checkpoint to go on from: carry out stage {name} first.")
    return saved


def begin(learner: Learner, saved: checkpoint.Checkpoint, planned: PlannedStage) -> str:
    """Gives a stage what the one before ended with; returns a sentence about it."""
    towers = ("image/", "text/", "pair_logits/")
    left = {path.partition("/")[0] + "/" for path in saved.groups["weights"] if not path.startswith(towers)}
    handover = hand_over(
        saved,
        learner.groups(),
        adapt=fit_image_weight,
        keep_optimizer=planned.stage.schedule is not None,
        may_leave=tuple(sorted(left)),
        anew=planned.stage.fresh,
    )
    return str(handover)


def card_of(recipe: Recipe, planned: PlannedStage | None = None, learner: Learner | None = None) -> dict:
    """The card of a run, or of one of its stages with the model it resolved to."""
    card = resolve_card(
        recipe,
        seed=recipe.run.seed,
        backend=backends.name(),
        implementation=implementation_name(recipe) if planned else "none",
        parameters=learner.model.count_params() if learner else None,
        flops_per_step=learner.flops_per_step if learner else None,
        device=backends.device_name(),
        peak_flops_per_second=learner.peak_flops_per_second if learner else None,
    )
    if planned is None:
        return card
    parts = {name: plain(part) for name, part in planned.parts.items()}
    return card | {"stage": plain(planned.stage), "model": plain(planned.config), "parts": parts}
