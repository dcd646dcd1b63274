"""The time of a run before it starts, by a step that is taken on this machine and leaves nothing."""

import tempfile
import time
from collections.abc import Mapping
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

from diptych.core.data.records import Source
from diptych.core.training.recipe import Recipe
from diptych.core.training.run_folder import RunFolder
from diptych.engine.training.build import build_learner
from diptych.engine.training.costs import training_flops
from diptych.engine.training.memory import stage_memory
from diptych.engine.training.plan_text import time_text
from diptych.engine.training.planned_stage import PlannedStage
from diptych.engine.training.terms.stage_term import Terms

MOST_FLOPS, MOST_BYTES = 2e11, 2 << 30
"""Of a step that a dry run takes: a few seconds of two cores, and what any machine has."""
ENOUGH_SECONDS = 0.5


def measured_time(
    recipe: Recipe, planned: Mapping[str, PlannedStage], examples: Mapping[str, Any], source: Source, terms: Terms
) -> str:
    """How long a run takes on this machine, as a sentence: of its first stage a step is compiled, taken, and timed with
    the making of its batch; further stages take as long as their operations say. Or why nothing is measured.

    Args:
        examples: how those of each stage are made.
        source: what is trained on.
    """
    name, first = next(iter(planned.items()))
    flops = training_flops(recipe, first, terms)["total"] * first.batch_size
    if flops > MOST_FLOPS or stage_memory(recipe, first, terms)["total"] > MOST_BYTES or recipe.run.planned_devices > 1:
        return (
            f"A step of {name} is {flops / 1e9:,.0f} GFLOP for all devices, too much to be measured in a dry run: the "
            "times above are those that the devices' peaks allow."
        )
    if first.embeds_images or first.stage.curation or first.naflex:
        return f"A step of {name} is not measured: its batches are made by another model, or are of several lengths."
    alone = replace(recipe, data=replace(recipe.data, workers=0))
    with tempfile.TemporaryDirectory() as folder:
        learner = build_learner(alone, first, examples[name], source, RunFolder(Path(folder) / "run"), terms)
        with closing(learner.loader.batches(first.first)) as batches:
            batch = next(batches)
        began = time.perf_counter()
        made = learner.loader.examples.rows(0, 0, min(first.loaded, 64))
        making = (time.perf_counter() - began) * first.loaded / max(1, len(made.keys))
        arrays = batch.arrays()
        began = time.perf_counter()
        learner.step(arrays, ())
        learner.step.synchronize()
        compiling = time.perf_counter() - began
        began, steps = time.perf_counter(), 0
        while not steps or time.perf_counter() - began < ENOUGH_SECONDS:
            learner.step(arrays, ())
            learner.step.synchronize()
            steps += 1
        stepping = (time.perf_counter() - began) / steps
    total = sum(training_flops(recipe, stage, terms)["total"] * stage.examples for stage in planned.values())
    longest = max(stepping, making / max(1, recipe.data.workers))
    return (
        f"On this machine a step of {name} takes {time_text(stepping)} (the first {time_text(compiling)}), and one "
        f"process makes its batch in {time_text(making)}: the run takes about {time_text(longest * total / flops)}, "
        "without what is judged."
    )
