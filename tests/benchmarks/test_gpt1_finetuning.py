"""The comparison of ways to fine-tune a GPT: the recipes take its flags, and its table says what was found."""

import keras
import pytest

from benchmarks import gpt1_finetuning as benchmark
from diptych.core.data.text_tasks.embedded import EMBEDDED_TASKS
from diptych.engine.command_line import parse_recipe
from diptych.models.gpt.presets import PRESETS
from diptych.recipes import gpt1, gpt1_finetune

pytestmark = pytest.mark.skipif(keras.config.backend() != "jax", reason="nothing in it depends on the backend")


def test_the_recipes_take_the_flags(tmp_path):
    """The command line of a run, parsed by the recipe it is for, is that run."""
    for arm in benchmark.arms("tiny", benchmark.TASKS[:1], 1, quick=False):
        _, _, recipe, *words = arm.command(tmp_path)
        if not arm.task:
            recipe = parse_recipe(gpt1.PRESETS[words[0]](), words[1:], program=recipe, description="")
            assert recipe.run.run_dir == tmp_path / arm.name
            before = str(recipe.run.run_dir)
            continue
        recipe = parse_recipe(gpt1_finetune.gpt1_finetune(), words, program=recipe, description="")
        assert (recipe.answering.task, recipe.language.epochs) == (arm.task, benchmark.EPOCHS)
        assert recipe.model.pretrained == (None if arm.way == "scratch" else before)
        assert recipe.answering.transfer_layers == (int(arm.way[-1]) if "layers" in arm.way else None)
        assert recipe.answering.language_weight == (0 if arm.way == "no language" else 0.5)
        assert bool(recipe.model.lock) == (arm.way == "frozen")


def test_its_tasks_and_blocks_are_those_that_there_are():
    assert set(benchmark.TASKS) <= set(EMBEDDED_TASKS)
    assert {name: PRESETS[f"gpt1_{name}"].depth for name in benchmark.BLOCKS} == benchmark.BLOCKS
    for preset in benchmark.BLOCKS:
        assert gpt1.PRESETS[preset]().model.model == f"gpt1_{preset}"


def test_the_table_has_means_over_seeds():
    rows = [
        {"task": arm.task, "way": arm.way, "scores": {"model": 0.5 + arm.seed / 10, "bag of words": 0.4}}
        for arm in benchmark.arms("tiny", ("story", "novel"), 2, quick=False)
    ]
    lines = benchmark.table(rows).splitlines()
    assert lines[0] == "| accuracy in % | story | novel |"
    assert len(lines) == 2 + 6 + 1
    assert lines[2].startswith("| pretrained | 55.0 ± ")
    assert lines[-1] == "| bag of words | 40.0 ± 0.0 | 40.0 ± 0.0 |"
