"""SigLIP's sigmoid loss against CLIP's softmax loss at five batch sizes: recall after the same number of examples.

    KERAS_BACKEND=jax python -m benchmarks.contrastive_losses

Each cell of (seed, batch size, loss) is one run of `recipes.siglip` or `recipes.clip` in a folder of its own: same
towers, data, order of the data, initial weights, optimizer and number of examples. What is not the default recipe's:

  - captions are English, one an image, all the way: the default's opening, and the cheapest way to a recall to compare;
  - warm-up takes 3/16 of the run, since a short run's twentieth is too short a warm-up;
  - the peak rate is 1e-3 · sqrt(batch size / 128) for both losses. 1e-3 was chosen for the sigmoid loss at 128; nothing
    was tuned here.

Each loss starts where its paper starts it: sigmoid at t = 10 and the bias of its batch, softmax at t = 1 / 0.07.

Cells run seed by seed, and the same command again goes on with those that are not finished (`benchmarks.cells`). With
every cell there it only writes table and figure (`benchmarks.contrastive_losses_page`).
"""

import argparse
import json
import math
import sys
from dataclasses import dataclass
from pathlib import Path

from benchmarks.cells import Rows, carry_out
from benchmarks.contrastive_losses_page import write_page
from benchmarks.device import write_results
from diptych.backends.selection import select_backend
from diptych.core.training.results import read_results

RECIPES = {"sigmoid": "recipes.siglip", "softmax": "recipes.clip"}
BATCH_SIZES = (64, 128, 256, 512, 1024)
BASE_RATE, BASE_BATCH = 1e-3, 128
MAIN_SET, UNSEEN_SET = "New drawings", "New concepts"


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One run."""

    loss: str
    batch_size: int
    seed: int
    examples: int

    @property
    def name(self) -> str:
        return f"{self.loss}-{self.batch_size}-seed-{self.seed}"

    @property
    def learning_rate(self) -> float:
        return BASE_RATE * math.sqrt(self.batch_size / BASE_BATCH)

    def command(self, folder: Path) -> list[str]:
        """The recipe's command line."""
        flags = {
            "--examples": self.examples,
            "--opening-examples": self.examples,
            "--warmup-examples": self.examples * 3 // 16,
            "--evaluate-every": self.examples,
            "--batch-size": self.batch_size,
            "--learning-rate": self.learning_rate,
            "--seed": self.seed,
            "--run-dir": folder.resolve(),
        }
        words = [str(word) for flag in flags.items() for word in flag]
        return [sys.executable, "-m", RECIPES[self.loss], *words, "--no-report", "--no-tensorboard"]


def cells(*, batch_sizes: list[int], seeds: int, examples: int) -> list[Cell]:
    """All runs, seed by seed, so that the first few already make a table."""
    return [
        Cell(loss=loss, batch_size=batch_size, seed=seed, examples=examples)
        for seed in range(seeds)
        for batch_size in batch_sizes
        for loss in RECIPES
    ]


def run_cell(cell: Cell, run_dir: Path) -> dict:
    """Trains and judges one cell, or goes on with it; returns what it found."""
    folder = run_dir / cell.name
    cost = carry_out(cell.command(folder), folder)
    return scores_of(folder) | cost


def scores_of(folder: Path) -> dict:
    """What a finished run reached."""
    (results,) = read_results(folder / "results.json").values()
    metrics = [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines() if line]
    last = [row for row in metrics if "loss" in row][-1]
    drawings, concepts = (results["retrieval"][name]["en"] for name in (MAIN_SET, UNSEEN_SET))
    return {
        "steps": last["step"],
        "learning_rate": max(row["learning_rate"] for row in metrics if "loss" in row),
        "recall@1": drawings["recall@1"],
        "recall@5": drawings["recall@5"],
        "image_to_text_recall@5": drawings["image_to_text"]["recall@5"],
        "unseen_recall@5": concepts["recall@5"],
        "zero_shot": next(iter(results["zero_shot"].values()))["accuracy"],
        "queries": drawings["queries"],
        "loss_at_the_end": last["loss"],
        "logit_scale": last["logit_scale"],
        "logit_bias": last.get("logit_bias"),
        "skipped_steps": last["skipped_steps"],
    }


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run-dir", type=Path, default=Path("runs/contrastive_losses"))
    parser.add_argument("--examples", type=int, default=49_152, help="of each run; a multiple of every batch size")
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=list(BATCH_SIZES))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--table-only", action="store_true", help="train nothing; write what finished cells show")
    options = parser.parse_args(arguments)
    if uneven := [size for size in options.batch_sizes if options.examples % size]:
        parser.error(f"--examples must be a multiple of every batch size, got {options.examples} and {uneven}.")
    backend = select_backend()
    wanted = cells(batch_sizes=options.batch_sizes, seeds=options.seeds, examples=options.examples)
    kept = Rows(options.run_dir)
    try:
        rows = {cell: row for cell in wanted if (row := kept.of(cell))}
    except ValueError as error:
        parser.error(str(error))
    for cell in [] if options.table_only else [cell for cell in wanted if cell not in rows]:
        rows[cell] = row = kept.add(cell, run_cell(cell, options.run_dir))
        print(
            f"{len(rows)}/{len(wanted)}  {cell.name}: recall@1 {row['recall@1']:.1%}, recall@5 {row['recall@5']:.1%}, "
            f"groups {row['zero_shot']:.1%}, {row['wall_seconds']:.0f} s",
            flush=True,
        )
    if not rows:
        print("No cell is finished yet.")
        return 1
    results = {
        "backend": backend,
        "examples": options.examples,
        "cells": [rows[cell] for cell in wanted if cell in rows],
    }
    print(write_results("contrastive_losses", results))
    for path in write_page(results, planned=len(wanted)):
        print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
