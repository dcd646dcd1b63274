"""The comparison of losses: what each run is told, what is gone on with, and a table that says what the runs said."""

import json
import re
from pathlib import Path

import pytest

from benchmarks import contrastive_losses as benchmark
from benchmarks import contrastive_losses_page as page

SIZES = [64, 128]


def row(loss: str, batch_size: int, seed: int, recall: float) -> dict:
    return {
        "loss": loss,
        "batch_size": batch_size,
        "seed": seed,
        "examples": 1024,
        "steps": 1024 // batch_size,
        "learning_rate": 1e-3,
        "recall@1": recall / 4,
        "recall@5": recall,
        "zero_shot": 0.4,
    }


ROWS = [
    row(loss, size, seed, recall + 0.01 * seed)
    for size in SIZES
    for seed in range(3)
    for loss, recall in (("sigmoid", 0.10), ("softmax", 0.12))
]


def results(rows: list[dict]) -> dict:
    return {"backend": "jax", "examples": 1024, "cells": rows}


def test_runs_differ_in_the_loss_alone_and_come_seed_by_seed(tmp_path):
    cells = benchmark.cells(batch_sizes=SIZES, seeds=2, examples=1024)
    assert [cell.seed for cell in cells] == [0] * 4 + [1] * 4
    first, second = (cell.command(tmp_path) for cell in cells[:2])
    assert (first[2], second[2]) == ("recipes.siglip", "recipes.clip")
    assert first[3:] == second[3:]


def test_the_rate_grows_with_the_root_of_the_batch():
    cells = benchmark.cells(batch_sizes=[128, 512], seeds=1, examples=1024)
    assert cells[0].learning_rate == pytest.approx(1e-3)
    assert cells[2].learning_rate == pytest.approx(2e-3)


def test_the_recipes_take_the_flags(tmp_path):
    """The command line of a run, parsed by the recipe it is for, is that run."""
    from diptych.engine.command_line import parse_recipe
    from diptych.recipes.clip import clip
    from diptych.recipes.siglip import siglip

    for cell, default in zip(
        benchmark.cells(batch_sizes=[64], seeds=1, examples=1024), (siglip(), clip()), strict=True
    ):
        recipe = parse_recipe(default, cell.command(tmp_path)[3:], program="", description=None)
        assert (recipe.optimization.loss or "sigmoid") == cell.loss
        assert recipe.optimization.batch_size == 64
        assert recipe.optimization.learning_rate == cell.learning_rate
        assert recipe.optimization.warmup_examples == 192
        assert recipe.data.opening_examples == recipe.optimization.examples == 1024
        assert recipe.run.run_dir == tmp_path


def test_a_second_call_goes_on_with_what_is_missing(tmp_path, monkeypatch):
    asked = []

    def run(cell, run_dir):
        asked.append((cell.loss, cell.batch_size, cell.seed))
        if len(asked) == 3:
            raise KeyboardInterrupt
        return row(cell.loss, cell.batch_size, cell.seed, 0.1) | {"wall_seconds": 1.0}

    monkeypatch.setattr(benchmark, "run_cell", run)
    monkeypatch.setattr(benchmark, "write_results", lambda name, results: Path("results"))
    monkeypatch.setattr(benchmark, "write_page", lambda results, planned: [])
    flags = ["--run-dir", str(tmp_path), "--examples", "1024", "--seeds", "1", "--batch-sizes", "64", "128"]
    with pytest.raises(KeyboardInterrupt):
        benchmark.main(flags)
    assert benchmark.main(flags) == 0
    assert asked[2:] == [("sigmoid", 128, 0), ("sigmoid", 128, 0), ("softmax", 128, 0)]
    assert len((tmp_path / "cells.jsonl").read_text().splitlines()) == 4
    assert benchmark.main(flags) == 0
    assert len(asked) == 5


def test_runs_of_another_length_are_not_mixed(tmp_path, capsys):
    (tmp_path / "cells.jsonl").write_text(json.dumps({"name": "sigmoid-64-seed-0", **ROWS[0]}) + "\n")
    with pytest.raises(SystemExit):
        benchmark.main(["--run-dir", str(tmp_path), "--examples", "2048", "--table-only"])
    assert "holds sigmoid-64-seed-0 with examples 1024, and 2048 is asked for" in capsys.readouterr().err


def test_a_mean_has_students_interval():
    """By hand: 1, 2, 3 have a standard deviation of 1, so 4.303 / √3."""
    mean = page.mean_of([0.01, 0.02, 0.03])
    assert mean.value == pytest.approx(0.02)
    assert mean.half_width == pytest.approx(0.0248433, rel=1e-5)
    assert mean.percent(signed=True) == "+2.0 ± 2.5"
    assert page.mean_of([0.5]).percent() == "50.0"


def test_the_difference_is_softmax_minus_sigmoid_of_the_same_seed():
    pair = page.by_batch_size(ROWS)[64]
    found = page.difference(pair, "recall@5")
    assert found.value == pytest.approx(0.02)
    assert found.half_width == pytest.approx(0.0, abs=1e-9)


def test_seeds_that_only_one_loss_has_finished_are_left_out():
    table = page.table(results(ROWS[:-1]))
    assert re.search(r"^\| 64 \| 16 \| .* \| 3 \|", table, re.M)
    assert re.search(r"^\| 128 \| 8 \| .* \| 2 \|", table, re.M)


def test_the_document_gets_table_and_figure_between_its_marks(tmp_path):
    document, picture = tmp_path / "page.md", tmp_path / "figure.svg"
    document.write_text(f"before\n{page.BEGIN}\nold\n{page.END}\nafter\n")
    assert page.write_page(results(ROWS[:-2]), planned=12, page=document, picture=picture) == [document, picture]
    text = document.read_text()
    assert text.startswith("before\n")
    assert text.endswith("\nafter\n")
    assert "old" not in text
    assert "2 of the 12 planned runs were not done" in text
    assert "| 11.0 ± 2.5 | 13.0 ± 2.5 | +2.0 ± 0.0 |" in text
    assert picture.read_text().count('class="line text"') == 1 + 2
    before = text
    page.write_page(results(ROWS[:-2]), planned=12, page=document, picture=picture)
    assert document.read_text() == before


def test_a_document_without_marks_is_left_alone(tmp_path):
    document = tmp_path / "page.md"
    document.write_text("nothing here\n")
    with pytest.raises(ValueError, match="lacks the marks"):
        page.write_page(results(ROWS), planned=12, page=document, picture=tmp_path / "figure.svg")
    assert document.read_text() == "nothing here\n"


def test_the_document_of_the_checkout_has_the_marks():
    text = page.PAGE.read_text(encoding="utf-8")
    assert text.count(page.BEGIN) == text.count(page.END) == 1
