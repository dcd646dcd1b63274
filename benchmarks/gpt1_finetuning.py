"""The gain of GPT-1's pre-training on four small tasks, over fresh weights, a frozen net and words alone; by layers.

    KERAS_BACKEND=jax python -m benchmarks.gpt1_finetuning
    KERAS_BACKEND=jax python -m benchmarks.gpt1_finetuning --preset small --seeds 1 --task story

For each seed a GPT is pre-trained on the embedded novels (`recipes.gpt1`), and fine-tuned for each task
(`recipes.gpt1_finetune`) in each of these ways:

  pretrained    all weights, with half of the language model's loss
  no language   the same without that loss
  frozen        the head alone
  layers N      the tables and the first N blocks as pre-trained, the others fresh (the paper's figure 2)
  scratch       fresh weights of the same size

All ways of a task see the same examples in the same order, at one rate that was not tuned for any of them. What the
usual answer and words alone score is in each run's results. Runs are carried out one by one, and the same command again
goes on with those that are not finished (`benchmarks.cells`); table and numbers go to docs/gpt1.md.
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.cells import ROOT, Row, Rows, carry_out
from benchmarks.device import write_results
from diptych.backends.selection import select_backend
from diptych.core.report.marked_section import write_marked_section
from diptych.core.report.seeds import mean_of
from diptych.core.training.results import read_results

TASKS = ("story", "emoji_gloss", "emoji_kind", "novel")
BLOCKS = {"tiny": 2, "small": 4}
"""Of each preset of recipes.gpt1."""
RATE, EPOCHS, QUICK = "1e-3", 5, 64
PAGE = ROOT / "docs" / "gpt1.md"
BEGIN, END = "<!-- results: written by benchmarks.gpt1_finetuning -->", "<!-- end of results -->"
PRETRAINING, PRETRAINED, SCRATCH = "pretraining", "pretrained", "scratch"


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One run; `task` is empty for the pre-training."""

    preset: str
    task: str
    way: str
    seed: int
    quick: bool = False

    @property
    def name(self) -> str:
        return "-".join(filter(None, (self.preset, self.task, self.way.replace(" ", "-"), f"seed-{self.seed}")))

    def command(self, run_dir: Path) -> list[str]:
        """The recipe's command line."""
        usual = ["--run-dir", str(run_dir / self.name), "--seed", str(self.seed), "--no-tensorboard", "--no-report"]
        if not self.task:
            short = ["--examples", str(QUICK)] if self.quick else []
            return [sys.executable, "-m", "recipes.gpt1", self.preset, *usual, *short]
        before = Arm(preset=self.preset, task="", way=PRETRAINING, seed=self.seed, quick=self.quick)
        given = ["--pretrained", str(run_dir / before.name)]
        changes = {
            PRETRAINED: given,
            "no language": [*given, "--language-weight", "0"],
            "frozen": [*given, "--lock", "decoder/.*"],
            SCRATCH: ["--model", f"gpt1_{self.preset}"],
        }
        own = changes.get(self.way) or [*given, "--transfer-layers", self.way.split()[1]]
        long = ["--epochs", "None", "--examples", str(QUICK)] if self.quick else ["--epochs", str(EPOCHS)]
        words = ["--task", self.task, "--learning-rate", RATE, *long, *own]
        return [sys.executable, "-m", "recipes.gpt1_finetune", *words, *usual]


def arms(preset: str, tasks: Sequence[str], seeds: int, *, quick: bool) -> Iterator[Arm]:
    """All runs, seed by seed, the pre-training before what begins from it."""
    ways = (PRETRAINED, "no language", *(f"layers {count}" for count in range(BLOCKS[preset])), "frozen", SCRATCH)
    for seed in range(seeds):
        yield Arm(preset=preset, task="", way=PRETRAINING, seed=seed, quick=quick)
        for task in tasks:
            for way in ways:
                yield Arm(preset=preset, task=task, way=way, seed=seed, quick=quick)


def scores_of(folder: Path) -> dict[str, float]:
    """The headline of the first held-out set, of the model and of what needs none."""
    (found,) = read_results(folder / "results.json").values()
    if "answers" not in found:
        return {}
    result = next(iter(found["answers"].values()))
    metric = next(iter(result["metrics"]))
    baselines = {what: metrics[metric]["value"] for what, metrics in result["baselines"].items()}
    return {"model": result["metrics"][metric]["value"], **baselines}


def table(rows: Sequence[Row]) -> str:
    """Means over seeds with 95% intervals, a column a task."""
    tasks = list(dict.fromkeys(row["task"] for row in rows if row["task"]))
    ways = list(dict.fromkeys(row["way"] for row in rows if row["task"]))
    others = list(dict.fromkeys(what for row in rows for what in row["scores"] if what != "model"))
    lines = [f"| accuracy in % | {' | '.join(tasks)} |", f"|---|{'---|' * len(tasks)}"]
    for way in ways:
        of_way = [row for row in rows if row["way"] == way]
        lines.append(f"| {way} | {' | '.join(_cell(of_way, task, 'model') for task in tasks)} |")
    for what in others:
        of_one = [row for row in rows if row["way"] == ways[0]]
        lines.append(f"| {what} | {' | '.join(_cell(of_one, task, what) for task in tasks)} |")
    return "\n".join(lines)


def _cell(rows: Sequence[Row], task: str, what: str) -> str:
    values = [row["scores"][what] for row in rows if row["task"] == task and what in row["scores"]]
    return mean_of(values).percent() if values else ""


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", choices=sorted(BLOCKS), default="tiny", help="of recipes.gpt1")
    parser.add_argument("--task", nargs="+", choices=TASKS, default=TASKS)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--run-dir", type=Path, default=Path("runs/gpt1_finetuning"))
    parser.add_argument("--quick", action="store_true", help="a few steps of each, to rehearse; writes no document")
    options = parser.parse_args(arguments)
    backend, run_dir = select_backend(), options.run_dir.resolve()
    run_dir.mkdir(parents=True, exist_ok=True)
    rows, found = Rows(run_dir), []
    for arm in arms(options.preset, options.task, options.seeds, quick=options.quick):
        row = rows.of(arm)
        if row is None:
            cost = carry_out(arm.command(run_dir), run_dir / arm.name)
            row = rows.add(arm, {"scores": scores_of(run_dir / arm.name), **cost})
            print(f"{arm.name}: {row['scores']}, {row['wall_seconds']:.0f} s", flush=True)
        found.append(row)
    print(table(found))
    if options.quick:
        return 0
    print(write_results("gpt1_finetuning", {"backend": backend, "arms": found}))
    said = (
        f"Preset {options.preset}, {options.seeds} seeds on {backend}, {EPOCHS} epochs at a rate of {RATE}; "
        f"means with 95% intervals over seeds. Each set is held out as a whole."
    )
    write_marked_section(PAGE, BEGIN, END, f"{said}\n\n{table(found)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
