"""The carrying out of a recipe: its stages, each from the end of the one before, until all are done."""

import contextlib
import os
import sys
from collections.abc import Iterator
from dataclasses import replace

from diptych import backends
from diptych.core.data.ledger import TooManySkipped
from diptych.core.data.left_out_file import LEFT_OUT, LeftOutFile, write_left_out
from diptych.core.placement import Placement
from diptych.core.report.ledger_text import tell_left_out
from diptych.core.training.recipe import Recipe
from diptych.core.training.results import write_results
from diptych.core.training.run_folder import RunFolder
from diptych.core.training.signals import Stopped, StopSignals
from diptych.engine.datasets.data_set import Sources
from diptych.engine.failures import exit_status
from diptych.engine.training import embedding_once
from diptych.engine.training.checks import (
    check_boxes,
    check_config,
    check_missing,
    check_processes,
    check_spread,
    for_processes,
    judged_data,
)
from diptych.engine.training.plan_text import moving_lines, plan_text
from diptych.engine.training.reference import require_references
from diptych.engine.training.run_plan import RunPlan, plan_run
from diptych.engine.training.staged_run import Results, StagedRun, card_of
from diptych.engine.training.step_time import measured_time
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
    check_spread(recipe)
    plan = plan_run(recipe, terms)
    _tell_beginning(recipe, plan)
    recipe, missing = plan.recipe, plan.task.missing_flags(plan.recipe, plan.start)
    sources = open_data(plan) if recipe.data.train_data else None
    if sources is not None:
        plan = settled(plan, sources)
    print("\n".join([plan_text(recipe, plan.planned, terms), *embedding_once.described(recipe, plan.planned, terms)]))
    if sources is not None:
        first = next(iter(plan.planned))
        for line in judged_data(recipe, plan.planned[first], plan.examples[first], sources):
            print(line)
        tell_left_out(sources.ledgers())
        if not missing:
            print(measured_time(recipe, plan.planned, plan.examples, sources.train, terms), flush=True)
    if missing:
        print(f"To carry it out, give {' and '.join(missing)}.")


def _carry_out(recipe: Recipe, terms: Terms, stop: StopSignals) -> None:
    check_spread(recipe)
    placement = backends.join(
        os.environ,
        devices=recipe.run.data_parallel,
        fsdp=recipe.run.fsdp,
        zero=recipe.run.zero,
        coordinator=recipe.run.coordinator,
    )
    with one_voice(placement), leaving_the_others():
        _carry_out_together(for_processes(recipe, placement), terms, stop, placement)


def _carry_out_together(recipe: Recipe, terms: Terms, stop: StopSignals, placement: Placement) -> None:
    asked, plan = recipe, plan_run(recipe, terms)
    recipe = plan.recipe
    check_processes(recipe, plan.planned, placement)
    check_missing(plan.task.missing_flags(recipe, plan.start))
    require_references(recipe, plan.planned)
    several = len(recipe.stages) > 1
    named = f": {', '.join(plan.planned)}" if several else ""
    together = f", {placement.processes} processes" if placement.processes > 1 else ""
    print(f"diptych on {backends.name()}, {backends.device_name() or 'CPU'}{together}{named}", flush=True)
    _tell_beginning(asked, plan)
    for line in moving_lines(recipe, plan.planned, terms):
        print(line, flush=True)
    sources = open_data(plan)
    plan = settled(plan, sources)
    for line in embedding_once.described(recipe, plan.planned, terms):
        print(line, flush=True)
    for name, planned in plan.planned.items():
        if told := plan.task.opening(planned, plan.examples[name]):
            print(told, flush=True)
    with (
        RunFolder(recipe.run.run_dir, placement) as folder,
        telling_left_out(recipe, sources, placement) as left_out,
    ):
        staged = StagedRun(
            plan=plan,
            folder=folder,
            sources=sources,
            left_out=left_out,
            terms=terms,
            placement=placement,
            stop=stop,
        )
        if several:
            check_config(folder, recipe)
            folder.write_card(card_of(recipe, plan.task))
        results: Results = {}
        try:
            for name in plan.planned:
                results |= staged.carry_out(name)
        except BaseException:
            if placement.writes:
                tell_warnings({name: {"warnings": found} for name, found in staged.warnings_so_far().items()}, several)
            raise
        if several and placement.writes:
            write_results(folder.results, results)
    tell_warnings(results, several)


@contextlib.contextmanager
def leaving_the_others() -> Iterator[None]:
    """Processes that end together, done or stopped, part in order; one that fails alone waits for nobody."""
    try:
        yield
    except Stopped:
        backends.leave()
        raise
    backends.leave()


@contextlib.contextmanager
def one_voice(placement: Placement) -> Iterator[None]:
    """Of several processes one alone prints; errors of all are heard."""
    if placement.writes:
        yield
        return
    with open(os.devnull, "w", encoding="utf-8") as nowhere, contextlib.redirect_stdout(nowhere):
        yield


def tell_warnings(results: Results, several: bool) -> None:
    """What is wrong with each stage, for whoever watches; with their names where there are several."""
    for name, scored in results.items():
        for warning in scored.get("warnings", ()):
            print(f"Warning{f' on stage {name}' if several else ''}: {warning}", file=sys.stderr, flush=True)


def _tell_beginning(asked: Recipe, plan: RunPlan) -> None:
    """Prints what a run begins from, and which losses of the recipe that was asked for its towers cannot have."""
    print(plan.task.described(plan.recipe, plan.start, plan.config), flush=True)
    towers = {name for name, origin in (("image", plan.start.image), ("text", plan.start.text)) if origin}
    slowed = plan.recipe.optimization.learning_rate_multipliers != asked.optimization.learning_rate_multipliers
    if slowed and any(towers - planned.locked for planned in plan.planned.values()):
        print(
            "A checkpoint's weights move at a hundredth of --learning-rate, which is that of the fresh ones "
            "(--learning-rate-multipliers sets others).",
            flush=True,
        )
    before, now = ({term for stage in recipe.stages for term in stage.losses} for recipe in (asked, plan.recipe))
    if left := sorted(before - now):
        print(f"Left out: {' and '.join(left)}, which need square pictures; {plan.start.name} is NaFlex.", flush=True)


def settled(plan: RunPlan, sources: Sources) -> RunPlan:
    """The plan with what the number of pictures decides."""
    return replace(plan, planned=embedding_once.as_it_pays(plan.recipe, plan.planned, sources))


def open_data(plan: RunPlan) -> Sources:
    """The sources of a run, described. Where too many of their records are bad, a file names them in the run folder,
    unless that holds a run already, whose data they need not be.

    Raises:
        ValueError: where a decoder is to learn boxes from data that have none.
        TooManySkipped: see `core.data.ledger`.
    """
    recipe = plan.recipe
    try:
        sources = plan.data_set.sources(recipe.run.seed)
    except TooManySkipped as error:
        if error.ledger is not None and not recipe.run.dry_run:
            path = None if RunFolder(recipe.run.run_dir).stored_config() else recipe.run.run_dir / LEFT_OUT
            if path is not None:
                write_left_out(path, [error.ledger])
            tell_left_out([error.ledger], path)
        raise
    print(plan.data_set.describe(sources), flush=True)
    examples, records = recipe.optimization.examples, len(sources.train)
    times = examples / records
    shown = f"{times:,.0f}" if times >= 100 else f"{times:.3g}"
    print(f"--examples {examples:,} are {shown} times all {records:,} records", flush=True)
    decodes = any("captioner" in stage.parts for stage in plan.planned.values())
    if decodes and (told := check_boxes(sources.train, required=recipe.captioning.require_boxes)):
        print(told, flush=True)
    return sources


@contextlib.contextmanager
def telling_left_out(recipe: Recipe, sources: Sources, placement: Placement) -> Iterator[LeftOutFile]:
    """However the block ends, tells what of the data was not used; the file in the run folder names it once the block
    has begun it. Of several processes each but the first has a file with its number.
    """
    ledgers = sources.ledgers()
    name = LEFT_OUT if placement.writes else LEFT_OUT.replace(".", f"-{placement.process}.")
    left_out = LeftOutFile(recipe.run.run_dir / name, ledgers)
    try:
        with left_out:
            yield left_out
    finally:
        tell_left_out(ledgers, left_out.path if left_out.is_of_the_run else None)
