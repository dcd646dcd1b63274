"""A tiny PaliGemma asked to name, count, find and read, beside what needs no language model or no picture.

    KERAS_BACKEND=jax python -m benchmarks.paligemma_tiny
    KERAS_BACKEND=jax python -m benchmarks.paligemma_tiny --seeds 1 --quick

For each seed there are two runs of `recipes.paligemma tasks`:

  blind         the language model alone learns to answer, of grey pictures; a text model, and the beginning of the next
  asked         tower, projector and language model learn, from there

Both are asked about drawings by a designer that is held out, and about compositions that are never trained (which
things stand together, which digits, how many of what). Beside them stand, on the same questions,

  usual answer  the most frequent of the set's own true answers; of boxes the medians of their sides
  nearest       the answer to the same prompt about the training picture that is nearest by the shipped tower's
                embedding, or by all of its tokens, which know places

Runs are carried out one by one, and the same command again goes on with those that are not finished
(`benchmarks.cells`). It leaves a page with pictures, questions, answers and boxes in the run folder; the table goes to
docs/paligemma.md.
"""

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.cells import ROOT, Row, Rows, carry_out
from benchmarks.device import device_name, write_results
from diptych.backends.selection import select_backend
from diptych.core.report.marked_section import write_marked_section
from diptych.core.report.seeds import mean_of
from diptych.core.training.results import read_results
from diptych.engine.datasets.questions import MIXED
from diptych.recipes.paligemma import tasks

BLIND, ASKED = "blind", "asked"
BLIND_EXAMPLES, LEARNED, QUICK = 12_800, 2_000, 128
"""Examples of the blind run; training questions of each task that the baselines learn from; examples of a rehearsal."""
PAGE = ROOT / "docs" / "paligemma.md"
BEGIN, END = "<!-- results: written by benchmarks.paligemma_tiny -->", "<!-- end of results -->"


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One run."""

    way: str
    seed: int
    examples: int | None = None  # of the run that sees; None for the recipe's
    quick: bool = False

    @property
    def name(self) -> str:
        return f"{self.way}-seed-{self.seed}"

    def command(self, run_dir: Path) -> list[str]:
        """The recipe's command line."""
        words = ["--run-dir", str(run_dir / self.name), "--seed", str(self.seed), "--no-tensorboard"]
        if self.way == BLIND:
            words += [
                "--train-data",
                "blank_scene_tasks",
                "--train",
                "all-but-image",
                "--examples",
                str(BLIND_EXAMPLES),
            ]
        else:
            before = Arm(way=BLIND, seed=self.seed, quick=self.quick)
            words += ["--pretrained-image", "None", "--pretrained", str(run_dir / before.name)]
            words += [] if self.examples is None else ["--examples", str(self.examples)]
        if self.quick:
            words += ["--examples", str(QUICK), "--most-asked", "8"]
        return [sys.executable, "-m", "recipes.paligemma", "tasks", *words]


def arms(seeds: int, *, quick: bool, examples: int | None = None) -> Iterator[Arm]:
    """All runs, seed by seed, the blind one before what begins from it."""
    for seed in range(seeds):
        yield Arm(way=BLIND, seed=seed, quick=quick)
        yield Arm(way=ASKED, seed=seed, quick=quick, examples=examples)


def scores_of(folder: Path) -> dict[str, float]:
    """What a run scored, by the name of the set."""
    (found,) = read_results(folder / "results.json").values()
    return {name: scores[0]["value"] for name, scores in found["answers"].items() if not name.startswith(MIXED)}


def table(rows: Sequence[Row], baselines: Mapping[str, Mapping[str, float]]) -> str:
    """Right answers in percent: a line for each held-out set, of the runs with 95% intervals over seeds."""
    sets = list(next(iter(baselines.values())))
    lines = [f"| held out | {' | '.join([*baselines, BLIND, ASKED])} |", f"|---|{'---|' * (len(baselines) + 2)}"]
    for name in sets:
        cells = [f"{100 * scores[name]:.1f}" for scores in baselines.values()]
        for way in (BLIND, ASKED):
            cells.append(mean_of([row["scores"][name] for row in rows if row["way"] == way]).percent())
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--examples", type=int, help="of the runs that see; by default the recipe's")
    parser.add_argument("--run-dir", type=Path, default=Path("runs/paligemma_tiny"))
    parser.add_argument("--quick", action="store_true", help="a few steps of each, to rehearse; writes no document")
    options = parser.parse_args(arguments)
    backend, run_dir = select_backend(), options.run_dir.resolve()
    run_dir.mkdir(parents=True, exist_ok=True)
    rows, found = Rows(run_dir), []
    for arm in arms(options.seeds, quick=options.quick, examples=options.examples):
        row = rows.of(arm)
        if row is None:
            cost = carry_out(arm.command(run_dir), run_dir / arm.name)
            row = rows.add(arm, {"scores": scores_of(run_dir / arm.name), **cost})
            print(f"{arm.name}: {row['scores']}, {row['wall_seconds']:.0f} s", flush=True)
        found.append(row)
    from benchmarks.paligemma_tiny_baselines import baseline_scores  # opens a model, on the backend that was chosen
    from benchmarks.paligemma_tiny_page import write_tiny_page

    baselines = baseline_scores(QUICK if options.quick else LEARNED, most=8 if options.quick else None)
    made = table(found, baselines)
    print(made)
    asked = [run_dir / row["name"] for row in found if row["way"] == ASKED]
    print(write_tiny_page(run_dir / "page.html", asked, found, baselines).as_uri())
    if options.quick:
        return 0
    print(write_results("paligemma_tiny", {"backend": backend, "arms": found, "baselines": baselines}))
    seconds = [sum(row["cpu_seconds"] for row in found if row["seed"] == seed) for seed in range(options.seeds)]
    examples = tasks().optimization.examples if options.examples is None else options.examples
    said = (
        f"Right answers in %, seeds: {options.seeds}, on {backend}, {device_name()}; means with 95% intervals over "
        f"seeds. {examples:,} examples were learned from with pictures, and both runs of a seed took "
        f"{mean_of(seconds).value / 60:.0f} minutes of one processor."
    )
    write_marked_section(PAGE, BEGIN, END, f"{said}\n\n{made}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
