"""Carries out a recipe: its stages, each from the end of the one before, until all are done."""

import contextlib
import os
import sys
from collections.abc import Iterator

from diptych import backends
from diptych.core.data.ledger import TooManySkipped
from diptych.core.data.left_out_file import LEFT_OUT, LeftOutFile, write_left_out
from diptych.core.placement import check_started_alone
from diptych.core.report.ledger_text import tell_left_out
from diptych.core.training.recipe import Recipe
from diptych.core.training.results import write_results
from diptych.core.training.run_folder import RunFolder
from diptych.core.training.signals import Stopped, StopSignals
from diptych.engine.datasets.data_set import Sources
from diptych.engine.failures import exit_status
from diptych.engine.training.checks import (
    check_boxes,
    check_config,
    check_data,
    judged_data,
    missing_flags,
)
from diptych.engine.training.costs import moving_lines, plan_text
from diptych.engine.training.reference import require_references
from diptych.engine.training.run_plan import RunPlan, plan_run
from diptych.engine.training.staged_run import Results, StagedRun, card_of
from diptych.engine.training.start import described
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
    plan = plan_run(recipe, terms)
    recipe, missing = plan.recipe, missing_flags(plan.recipe, plan.start)
    print(described(plan.recipe, plan.start, plan.config))
    print(plan_text(recipe, plan.planned, terms))
    if recipe.data.train_data:
        sources = open_data(plan)
        first = next(iter(plan.planned))
        print(judged_data(recipe, plan.planned[first], plan.examples[first], sources.train))
        tell_left_out(sources.ledgers())
    if missing:
        print(f"To carry it out, give {' and '.join(missing)}.")


def _carry_out(recipe: Recipe, terms: Terms, stop: StopSignals) -> None:
    check_started_alone(os.environ)
    plan = plan_run(recipe, terms)
    recipe = plan.recipe
    check_data(recipe, plan.start)
    require_references(recipe, plan.planned)
    several = len(recipe.stages) > 1
    named = f": {', '.join(plan.planned)}" if several else ""
    print(f"diptych on {backends.name()}, {backends.device_name() or 'CPU'}{named}", flush=True)
    print(
        "\n".join([described(recipe, plan.start, plan.config), *moving_lines(recipe, plan.planned, terms)]), flush=True
    )
    sources = open_data(plan)
    with RunFolder(recipe.run.run_dir) as folder, telling_left_out(recipe, sources):
        placement = backends.placement(recipe.run.data_parallel)
        staged = StagedRun(plan=plan, folder=folder, sources=sources, terms=terms, placement=placement, stop=stop)
        if several:
            check_config(folder, recipe)
            folder.write_card(card_of(recipe))
        results: Results = {}
        for name in plan.planned:
            results |= staged.carry_out(name)
        if several:
            write_results(folder.results, results)
    for name, scored in results.items():
        for warning in scored.get("warnings", ()):
            print(f"Warning{f' on stage {name}' if several else ''}: {warning}", file=sys.stderr, flush=True)


def open_data(plan: RunPlan) -> Sources:
    """The sources of a run, described. Where too many of their records are bad, the run folder is left a file that
    names them.

    Raises:
        ValueError: where a decoder is to learn boxes from data that have none.
        TooManySkipped: see `core.data.ledger`.
    """
    recipe = plan.recipe
    try:
        sources = plan.data_set.sources(recipe.run.seed)
    except TooManySkipped as error:
        path = recipe.run.run_dir / LEFT_OUT
        if error.ledger is not None and not recipe.run.dry_run:
            write_left_out(path, [error.ledger])
            tell_left_out([error.ledger], path)
        raise
    print(plan.data_set.describe(sources), flush=True)
    examples, records = recipe.optimization.examples, len(sources.train)
    times = examples / records
    shown = f"{times:,.0f}" if times >= 100 else f"{times:.3g}"
    print(f"--examples {examples:,} are {shown} times all {records:,} records", flush=True)
    if recipe.captioning.require_boxes and any("captioner" in stage.parts for stage in plan.planned.values()):
        check_boxes(sources.train)
    return sources


@contextlib.contextmanager
def telling_left_out(recipe: Recipe, sources: Sources) -> Iterator[None]:
    """However the block ends, tells what of the data was not used, and names it in the run folder."""
    ledgers, path = sources.ledgers(), recipe.run.run_dir / LEFT_OUT
    try:
        with LeftOutFile(path, ledgers):
            yield
    finally:
        tell_left_out(ledgers, path)
