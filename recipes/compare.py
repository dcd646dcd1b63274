"""Runs side by side: how far each came, how well, and in which options they differ.

Command:   python -m recipes.compare runs/*
Two:       python -m recipes.compare runs/siglip runs/clip --output runs/compare.html

Takes the folders of runs, of finished ones and of ones under way; a run in stages is shown stage by stage, and folders
that hold no run are left out and named. Prints a table, and writes a page with the curves of all runs in one figure.
It reads what the runs wrote and needs no framework.
"""

import sys
from dataclasses import dataclass
from pathlib import Path

import tyro

from diptych.core.report.charts.sheet import write_page
from diptych.core.report.comparison import ComparedRun, comparison_page, comparison_text
from diptych.core.training.metrics import read_metrics
from diptych.core.training.run_folder import RunFolder
from diptych.engine.command_line import parse
from diptych.engine.failures import exit_status

METRICS = "metrics.jsonl"


@dataclass(frozen=True, kw_only=True)
class Compare:
    """Which runs."""

    runs: tyro.conf.Positional[tuple[Path, ...]] = ()
    """Folders of runs, or of stages; by default all in runs/."""
    output: Path = Path("runs/compare.html")
    """The page."""


def main(arguments: list[str] | None = None) -> int:
    """Compares; returns the exit status."""
    options = parse(Compare(), arguments, program="python -m recipes.compare", description=__doc__)
    return exit_status(lambda: compare(options), options)


def compare(options: Compare) -> int:
    """Everything after the command line."""
    folders = options.runs or tuple(sorted(path for path in Path("runs").glob("*") if path.is_dir()))
    read = {folder: compared_runs(folder) for folder in folders}
    left_out = [str(folder) for folder, runs in read.items() if not runs]
    if left_out:
        print(f"Left out, because they hold no run that has begun: {', '.join(left_out)}.", file=sys.stderr)
    runs = [run for found in read.values() for run in found]
    if not runs:
        raise ValueError("there is no run to compare: give the folders of runs, which their --run-dir named.")
    print(comparison_text(runs), flush=True)
    print(f"\nPage: {write_page(options.output, comparison_page(runs)).resolve().as_uri()}", flush=True)
    return 0


def compared_runs(folder: Path) -> list[ComparedRun]:
    """The run in a folder, or its stages that have begun; empty where there is none."""
    card = RunFolder(folder).read_card() if folder.is_dir() else None
    if card is None:
        return []
    stages = [stage["name"] for stage in card["config"].get("stages", ())]
    if not (folder / METRICS).is_file():
        return [run for name in stages if (folder / name).is_dir() for run in compared_runs(folder / name)]
    config = {name: value for name, value in card["config"].items() if name not in ("stages", "only")}
    return [ComparedRun(str(folder), config | {"stage": card.get("stage", {})}, read_metrics(folder / METRICS))]


if __name__ == "__main__":
    sys.exit(main())
