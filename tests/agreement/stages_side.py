"""A run through every kind of stage, in a worker."""

from pathlib import Path

from diptych.core.training.metrics import read_metrics
from tests.recipes.small_stages import STAGES, recipe, run, small_towers


def carry_out(*, folder: str, steps: int) -> dict[str, list[float]]:
    """Trains in a folder, where the checkpoints stay; returns the losses of each stage."""
    small_towers()
    if run(recipe(Path(folder), steps=steps)):
        raise RuntimeError("the run failed; its message is on the standard error")
    rows = {stage.name: read_metrics(Path(folder) / stage.name / "metrics.jsonl") for stage in STAGES}
    return {name: [row["loss"] for row in found if "loss" in row] for name, found in rows.items()}
