"""Carries out a recipe: its stages, each from the end of the one before, until all are done."""

import contextlib
import os
import sys
from collections.abc import Iterator
from dataclasses import replace

from diptych import backends
from diptych.core.data.ledger import TooManySkipped
from diptych.core.data.left_out_file import LEFT_OUT, LeftOutFile, write_left_out
from diptych.core.placement import check_started_alone
from diptych.core.report.ledger_text import tell_left_out
from diptych.core.training.recipe import Recipe
from diptych.core.training.results import write_results
from diptych.core.training.run_folder import RunFolder
from diptych.core.training.signals import Stopped, StopSignals
from diptych.engine.datasets.data_set import DataSet, Sources
from diptych.engine.datasets.open import with_data
from diptych.engine.failures import exit_status
from diptych.engine.training.checks import (
    as_begun,
    check_boxes,
    check_config,
    check_data,
    judged_data,
    missing_flags,
)
from diptych.engine.training.costs import plan_text
from diptych.engine.training.plan import (
    plan_examples,
    plan_stages,
    recipe_preprocess,
    unread_preprocess,
)
from diptych.engine.training.planned_stage import PlannedStage
from diptych.engine.training.reference import require_references
from diptych.engine.training.staged_run import Results, StagedRun, card_of
from diptych.engine.training.start import described, sized, start_of, towers_config, with_start
from diptych.engine.training.terms import TERMS
from diptych.engine.training.terms.stage_term import Terms


def run(recipe: Recipe, terms: Terms = TERMS) -> int:
    """All chosen stages, from the data to the report; returns the exit status.

    Args:
        recipe: what is to be done.
        terms: what stages may weigh, by name: `TERMS | {"mine": MyTerm}` for losses of one's own.
    """
    return exit_status(lambda: _run(recipe, terms), recipe)


def _run(recipe: Recipe, terms: Terms) -> int:
    with StopSignals() as stop:
        try:
            with stop.leaving_at_once():
                _plan(recipe, terms) if recipe.run.dry_run else _carry_out(recipe, terms, stop)
        except Stopped:
            print(f"\nStopped by {stop.received}. The same command goes on from there.", flush=True)
        except Exception as error:
            if backends.out_of_memory(error):
                raise MemoryError(str(error).partition("\n")[0]) from error
            raise
    return stop.exit_status


def _plan(recipe: Recipe, terms: Terms) -> None:
    """Prints what the recipe would cost, opens the data where there are any, and names what is missing."""
    start = start_of(recipe)
    recipe = with_start(recipe, start)
    missing = missing_flags(recipe, start)
    fresh = replace(start.config, vision=sized(start.config.vision, recipe.model.image_size))
    if not recipe.data.train_data:
        planned = plan_stages(recipe, fresh, terms)
        plan_examples(recipe, planned, unread_preprocess(recipe, start), terms)
        print(plan_text(recipe, planned, terms))
    else:
        recipe, data_set = with_data(recipe)
        preprocess = recipe_preprocess(recipe, start, data_set)
        config = fresh if missing else towers_config(recipe, start, preprocess)
        print(described(recipe, start, config, preprocess.tokenizer_path))
        planned = plan_stages(recipe, config, terms)
        examples = plan_examples(recipe, planned, preprocess, terms)
        print(plan_text(recipe, planned, terms))
        sources = open_data(recipe, data_set)
        print(data_set.describe(sources))
        check_sources(recipe, planned, sources)
        first, of_first = next(iter(planned.values())), next(iter(examples.values()))
        print(judged_data(recipe, first, of_first, sources.train))
        tell_left_out(sources.ledgers())
    if missing:
        print(f"To carry it out, give {' and '.join(missing)}.")


def _carry_out(recipe: Recipe, terms: Terms, stop: StopSignals) -> None:
    start = start_of(recipe)
    recipe = with_start(recipe, start)
    check_data(recipe, start)
    check_started_alone(os.environ)
    recipe, data_set = with_data(as_begun(recipe))
    preprocess = recipe_preprocess(recipe, start, data_set)
    config = towers_config(recipe, start, preprocess)
    planned = plan_stages(recipe, config, terms)
    examples = plan_examples(recipe, planned, preprocess, terms)
    require_references(recipe, planned)
    sources = open_data(recipe, data_set)
    several = len(recipe.stages) > 1
    named = f": {', '.join(planned)}" if several else ""
    print(f"diptych on {backends.name()}, {backends.device_name() or 'CPU'}{named}", flush=True)
    print(described(recipe, start, config, preprocess.tokenizer_path))
    print(data_set.describe(sources), flush=True)
    check_sources(recipe, planned, sources)
    with RunFolder(recipe.run.run_dir) as folder, telling_left_out(recipe, sources):
        staged = StagedRun(
            recipe=recipe,
            start=start,
            folder=folder,
            planned=planned,
            data_set=data_set,
            sources=sources,
            examples=examples,
            terms=terms,
            placement=backends.placement(recipe.run.data_parallel),
            stop=stop,
        )
        if several:
            check_config(folder, recipe)
            folder.write_card(card_of(recipe))
        results: Results = {}
        for name in planned:
            results |= staged.carry_out(name)
        if several:
            write_results(folder.results, results)
    for name, scored in results.items():
        for warning in scored.get("warnings", ()):
            print(f"Warning{f' on stage {name}' if several else ''}: {warning}", file=sys.stderr, flush=True)


def check_sources(recipe: Recipe, planned: dict[str, PlannedStage], sources: Sources) -> None:
    """Raises ValueError where a decoder is to learn boxes from data that have none."""
    if recipe.captioning.require_boxes and any("captioner" in stage.parts for stage in planned.values()):
        check_boxes(sources.train)


def open_data(recipe: Recipe, data_set: DataSet) -> Sources:
    """The sources of a run. Where too many of their records are bad, the run folder is left a file that names them."""
    try:
        return data_set.sources(recipe.run.seed)
    except TooManySkipped as error:
        path = recipe.run.run_dir / LEFT_OUT
        if error.ledger is not None and not recipe.run.dry_run:
            write_left_out(path, [error.ledger])
            tell_left_out([error.ledger], path)
        raise


@contextlib.contextmanager
def telling_left_out(recipe: Recipe, sources: Sources) -> Iterator[None]:
    """However the block ends, tells what of the data was not used, and names it in the run folder."""
    ledgers, path = sources.ledgers(), recipe.run.run_dir / LEFT_OUT
    try:
        with LeftOutFile(path, ledgers):
            yield
    finally:
        tell_left_out(ledgers, path)
